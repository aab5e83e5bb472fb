"""What SAM's losses make of true ageing: how far they would have the model stop short of the age asked for.

    sam-render output=datasets/lifespan split=test people=16
    python tools/weigh_losses.py datasets/lifespan losses=lifespan losses.age=10

Takes each person of the split test, where every age is seen in one scene, and asks every term what it costs to turn
one portrait into the true one so many years away. The terms that hold on to the input grow with that gap; the age term
falls. Where their sum is least, a model that ages truly would stop: "stops" is by how many years that is too early. A
method that finds cheaper ways to please the age network stops later, and less truly. Arguments after the folder are
`sam-train`'s overrides after +experiment=lifespan_aging.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from sam_age.config import CONF_DIR, build
from sam_age.data.dataset import FacesDataset, to_unit_range
from sam_age.lifespan.sources import LifespanFaces
from sam_age.losses import AgingLosses

HOLDING = ("l2", "l2_crop", "lpips", "lpips_crop", "identity")
AGING = {"l2": "l2_aging", "lpips": "lpips_aging"}  # names of their weights where the age changes


def main(root: str, *overrides: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", ["+experiment=lifespan_aging", *overrides])
    losses = build(config.losses)
    costs = measured(losses, FacesDataset(LifespanFaces(root, "test"), on_error="stop"))
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
def measured(losses: AgingLosses, faces: FacesDataset) -> dict[float, dict[str, float]]:
    """Years between two portraits of a person -> means of the terms, unweighted."""
    lives: dict[int, dict[float, torch.Tensor]] = defaultdict(dict)
    for item in (faces[index] for index in range(len(faces))):
        lives[int(item["person"])][float(item["age"])] = to_unit_range(item["faces"])[None]
    found: dict[float, list[dict[str, float]]] = defaultdict(list)
    for life in lives.values():
        for age, face in life.items():
            source = losses.describe(face)
            for target, truth in life.items():
                codes = torch.zeros(1, 1, 1)
                _, terms = losses(truth, codes, source, torch.tensor([target]), latent_avg=codes[0], aging=True)
                found[abs(target - age)].append({name: float(terms.get(name, 0.0)) for name in HOLDING})
    return {gap: {name: float(np.mean([row[name] for row in rows])) for name in HOLDING} for gap, rows in found.items()}


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
