"""From every output's scores to what is reported: pooled, per target age, per group, for SAM and beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sam_age.evaluation.kid import kernel_distance
from sam_age.evaluation.known import GROUPS, Known
from sam_age.evaluation.methods import SAM_ITSELF, WHAT
from sam_age.evaluation.metrics import mean, number, percent_below, share_closed, summarise

VECTORS = ("realism",)  # columns that are no scores by themselves


@dataclass
class Scored:
    """Scores of J outputs of each method: every input at every target age.

    Attributes:
        face: (J,) the input's number in the source.
        target_age: (J,) years.
        truth: (J,) the true portrait's number, -1 where there is none.
        columns: method -> name -> (J,), NaN where not known, see `metrics.summarise`; and `realism`, (J, D).
        reconstruction: method -> name -> (N,), of each input at its own age.
        thresholds: see `metrics.summarise`.
        reference: target age -> features (M, D) of the pictures that outputs should look like.
        losses: terms of the objective, if asked for.
    """

    face: Tensor
    target_age: Tensor
    truth: Tensor
    columns: dict[str, dict[str, Tensor]]
    reconstruction: dict[str, dict[str, Tensor]]
    thresholds: dict[str, float]
    reference: dict[float, Tensor]
    losses: dict[str, float] = field(default_factory=dict)


def results_of(
    scored: Scored, known: Known, target_ages: Sequence[float], judged_by: Mapping[str, str | None]
) -> dict[str, Any]:
    """The content of metrics.json, see docs/evaluation.md; nothing but numbers, words, None, lists and dicts."""
    names = [name for name in WHAT if name in scored.columns]
    each = {name: _method(scored, known, name, target_ages) for name in names}
    itself = each.pop(SAM_ITSELF)
    results = {
        "faces": len(scored.face.unique()),
        "outputs": len(scored.face),
        "target_ages": list(target_ages),
        "judged_by": dict(judged_by),
        "verification_thresholds": {name: number(value) for name, value in scored.thresholds.items()},
        **itself,
        "baselines": each,
        "losses": {name: number(value, 7) for name, value in scored.losses.items()} or None,
    }
    _compare(results, each)
    for age, row in results["per_target_age"].items():
        _compare(row, {name: method["per_target_age"][age] for name, method in each.items()})
    for kind, groups in (results["per_group"] or {}).items():
        for group, row in groups.items():
            _compare(row, {name: method["per_group"][kind][group] for name, method in each.items()})
    return results


def _compare(row: dict[str, Any], others: Mapping[str, Mapping[str, Any]]) -> None:
    """`counterfactual_closed`: share of the way from the input to the ceiling that SAM goes, percent;
    `counterfactual_below`: by how many percent SAM's error is below each baseline's."""
    error = {name: other.get("counterfactual_lpips") for name, other in others.items()}
    own = row.get("counterfactual_lpips")
    row["counterfactual_closed"] = share_closed(error.get("input"), own, error.get("ceiling"))
    row["counterfactual_below"] = {
        name: percent_below(own, error[name]) for name in ("linear", "mean_shift") if name in error
    } or None


def _method(scored: Scored, known: Known, name: str, target_ages: Sequence[float]) -> dict[str, Any]:
    columns = scored.columns[name]
    pooled = _rows(scored, name, torch.ones_like(scored.face, dtype=torch.bool))
    per_age = {age: _rows(scored, name, scored.target_age == age) for age in target_ages}
    itself = name == "truth"  # that is what the others are compared with
    distances = {age: None if itself else _kid(scored, columns, age) for age in target_ages}
    for age, row in per_age.items():
        row["kid"] = distances[age]
    kids = [value for value in distances.values() if value is not None]
    pooled["kid"] = number(sum(kids) / len(kids)) if kids else None
    reconstruction = scored.reconstruction.get(name)
    pooled["reconstruction"] = None if reconstruction is None else {k: mean(v) for k, v in reconstruction.items()}
    groups = {
        kind: {group: _rows(scored, name, _members(scored, names, group)) for group in _seen(scored, names)}
        for kind, names in known.groups.items()
    }
    return pooled | {"per_target_age": {f"{age:g}": row for age, row in per_age.items()}, "per_group": groups or None}


def _rows(scored: Scored, name: str, where: Tensor) -> dict[str, Any]:
    """Scores of the outputs at `where` (J,)."""
    columns = {key: values[where] for key, values in scored.columns[name].items() if key not in VECTORS}
    row = summarise(columns, scored.target_age[where], scored.thresholds)
    for key in ("counterfactual_lpips", "counterfactual_ssim", "counterfactual_psnr"):
        row.setdefault(key, None)
    row.setdefault("verification_rate", None)
    back = {key.removeprefix("cycle_"): mean(value) for key, value in columns.items() if key.startswith("cycle_")}
    return row | {"cycle": back or None, "outputs": int(where.sum())}


def _seen(scored: Scored, names: Sequence[str]) -> list[str]:
    """The groups that inputs are in: ages rising, tones from light to dark, others by the alphabet."""
    found = {names[face] for face in scored.face.unique().tolist()} - {""}
    order = [*GROUPS, *sorted(found)]
    return sorted(found, key=order.index)


def _members(scored: Scored, names: Sequence[str], group: str) -> Tensor:
    belongs = torch.tensor([name == group for name in names])
    return belongs[scored.face]


def _kid(scored: Scored, columns: Mapping[str, Tensor], age: float) -> float | None:
    """Kernel distance of outputs at an age to the pictures that they should look like."""
    if "realism" not in columns or age not in scored.reference:
        return None
    fake = columns["realism"][(scored.target_age == age).to(columns["realism"].device)]
    fake = fake[~fake.isnan().any(1)]
    distance = kernel_distance(scored.reference[age], fake)  # on the device: it is a matter of large products
    return number(distance.item())
