"""What SAM's losses make of true ageing: how far they would have the model stop short of the age asked for.

    sam-render output=lives split=val people=16 scenes=1 'ages=[0,10,20,30,40,50,60,70,80,90,100]'
    python tools/weigh_losses.py lives losses=lifespan losses.age=10

Takes people who are seen at many ages in one scene, and asks every term what it costs to turn one portrait into the
true one so many years away. The terms that hold on to the input grow with that gap; the age term falls. Where their sum
is least, a model that ages truly would stop: "stops" is by how many years too early. One that finds cheaper ways
to please the age network stops later, and less truly. Arguments after the folder are `sam-train`'s overrides after
+experiment=lifespan_aging.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir

from sam_age.config import CONF_DIR, build
from sam_age.data.dataset import FacesDataset, to_unit_range
from sam_age.lifespan.sources import LifespanFaces
from sam_age.losses import AgingLosses, Source, identity_weight
from sam_age.models.identity import face_crop

HOLDING = ("l2", "l2_crop", "lpips", "lpips_crop", "identity")
AGING = {"l2": "l2_aging", "lpips": "lpips_aging"}  # names of their weights where the age changes


def main(root: str, *overrides: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", ["+experiment=lifespan_aging", *overrides])
    losses = build(config.losses)
    costs = measured(losses, FacesDataset(LifespanFaces(root, "val"), on_error="stop"))
    weights = {name: losses.weights[AGING.get(name, name)] for name in HOLDING}
    gaps = sorted(costs)
    held = [sum(weights[name] * costs[gap][name] for name in HOLDING) for gap in gaps]
    print(
        "weights: "
        + ", ".join(f"{name} {value:g}" for name, value in {**weights, "age": losses.weights["age"]}.items())
    )
    print("| years | " + " | ".join(HOLDING) + " | held back by | stops |\n" + "|---" * (len(HOLDING) + 3) + "|")
    for gap, cost in zip(gaps, held, strict=True):
        terms = " | ".join(f"{costs[gap][name]:.3f}" for name in HOLDING)
        print(f"| {gap:g} | {terms} | {cost:.3f} | {too_early(gap, gaps, held, losses.weights['age']):.1f} |")


@torch.no_grad()
def measured(losses: AgingLosses, faces: Sequence[dict[str, Any]]) -> dict[float, dict[str, float]]:
    """Years between two portraits of a person -> means of the terms, unweighted; each portrait is looked at once."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lives: dict[int, list[tuple[float, Source]]] = defaultdict(list)
    for item in (faces[index] for index in range(len(faces))):
        seen = losses.to(device).describe(to_unit_range(item["faces"])[None].to(device))
        lives[int(item["person"])].append((float(item["age"]), seen))
    found: dict[float, list[dict[str, float]]] = defaultdict(list)
    for life in lives.values():
        for (age, source), (target, truth) in product(life, life):
            found[abs(target - age)].append(terms(losses, source, truth, target))
    return {gap: {name: float(np.mean([row[name] for row in rows])) for name in HOLDING} for gap, rows in found.items()}


def terms(losses: AgingLosses, source: Source, truth: Source, target: float) -> dict[str, float]:
    """What `AgingLosses` would make of the true portrait as an answer, but for the age term."""
    distance = losses.perceptual_net.distance
    firmness = identity_weight(source.age, torch.tensor([target]).to(source.age)) if losses.weighted_identity else 1.0
    found = {
        "l2": F.mse_loss(truth.faces, source.faces),
        "l2_crop": F.mse_loss(face_crop(truth.faces), face_crop(source.faces)),
        "lpips": distance(truth.features, source.features).mean(),
        "lpips_crop": distance(truth.crop_features, source.crop_features).mean(),
        "identity": (firmness * (1 - (truth.identity * source.identity).sum(1))).mean(),
    }
    return {name: float(value) for name, value in found.items()}


def too_early(asked: float, gaps: Sequence[float], held: Sequence[float], age_weight: float) -> float:
    """Years between the age asked for and the one where holding back and the age term are least together.

    >>> round(too_early(50, [0, 100], [0.0, 1.0], 5.0), 1)  # the slope 0.01 a year is 10 years of 2 * 5 / 10,000
    10.0
    """
    reached = np.linspace(0, asked, 1001)
    total = np.interp(reached, gaps, held) + age_weight * ((asked - reached) / 100) ** 2
    return float(asked - reached[np.argmin(total)])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
