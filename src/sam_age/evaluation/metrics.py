"""What `sam-eval` and validation measure, as torchmetrics: update per batch, compute once, on any ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from sam_age.evaluation.judges import spearman

AGES = 101  # whole years, 0 to 100


class MeanByAge(Metric):
    """The mean of a value per face, over all faces and per target age.

    >>> mean = MeanByAge()
    >>> mean.update(torch.tensor([0.2, 0.4, 0.9]), torch.tensor([10., 10., 50.]))
    >>> mean.compute()["mean"], mean.compute()["per_target_age"]
    (0.5, {10: 0.3, 50: 0.9})
    """

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("count", torch.zeros(AGES), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(AGES), dist_reduce_fx="sum")

    def update(self, values: Tensor, target_age: Tensor) -> None:
        """values (N,); target_age (N,) years, grouped by the nearest whole year."""
        bins = target_age.round().long().clamp(0, AGES - 1)
        values = values.detach().float()
        self.count.index_add_(0, bins, torch.ones_like(values))
        self.total.index_add_(0, bins, values)

    def compute(self) -> dict[str, Any]:
        """{"mean": float, "per_target_age": {age: float}}; NaN where nothing was seen."""
        rows = torch.stack([self.count, self.total], 1).tolist()
        per_age = {age: round(total / count, 7) for age, (count, total) in enumerate(rows) if count}
        count = sum(row[0] for row in rows)
        mean = sum(row[1] for row in rows) / count if count else float("nan")
        return {"mean": round(mean, 7), "per_target_age": per_age}


class AgeError(Metric):
    """How far predicted ages are from target ages, in years, over all and per target age.

    >>> error = AgeError()
    >>> error.update(torch.tensor([12., 20., 50.]), torch.tensor([10., 10., 50.]))
    >>> error.compute()["age_mae"], error.compute()["per_target_age"][10]["age_bias"]
    (4.0, 6.0)
    """

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.absolute, self.signed = MeanByAge(), MeanByAge()

    def update(self, predicted_age: Tensor, target_age: Tensor) -> None:
        """Both (N,), years."""
        error = predicted_age.detach().float() - target_age
        self.absolute.update(error.abs(), target_age)
        self.signed.update(error, target_age)

    def compute(self) -> dict[str, Any]:
        """`age_mae`, `age_bias` (predicted minus target) and `per_target_age`: age -> the same two, and
        `age_mean`, the mean age read at that target."""
        absolute, signed = self.absolute.compute(), self.signed.compute()
        per_age = {
            age: {"age_mae": mae, "age_bias": bias, "age_mean": age + bias}
            for (age, mae), bias in zip(
                absolute["per_target_age"].items(), signed["per_target_age"].values(), strict=True
            )
        }
        return {"age_mae": absolute["mean"], "age_bias": signed["mean"], "per_target_age": per_age}

    def reset(self) -> None:
        super().reset()
        self.absolute.reset()
        self.signed.reset()


# ---- of columns: one value for each output, whatever it is a score of ----------------------------------------

FMR = 1e-3  # the false match rate at which verification is decided

Columns = Mapping[str, Tensor]
"""Scores of outputs, one number each, NaN where there is none: see `summarise`."""


def match_threshold(impostor: Tensor, rate: float = FMR) -> float:
    """The least cosine that accepts at most a share `rate` of the impostors (N,); NaN without any.

    >>> impostor = torch.arange(1000).double() / 1000
    >>> (impostor >= match_threshold(impostor, 0.002)).sum()
    tensor(2)
    """
    if not len(impostor):
        return float("nan")
    falling = impostor.double().sort(descending=True).values
    refused = falling[min(int(rate * len(falling) + 1e-9), len(falling) - 1)]
    return torch.nextafter(refused, refused.new_tensor(torch.inf)).item()


def mean(values: Tensor) -> float | None:
    """Of the values that are numbers; None where there are none."""
    known = values[~values.isnan()]
    return number(known.double().mean().item()) if len(known) else None


def age_scores(read: Tensor, target: Tensor) -> dict[str, float | None]:
    """Ages read off outputs against those asked for, both (N,), years: `age_mae`, `age_bias` (read minus asked) and
    `age_spearman`; where all were asked for one age, instead of the last `age_mean`, `age_p10` and `age_p90` of what
    is read."""
    known = ~read.isnan()
    read, target = read[known].double(), target[known].double()
    if not len(read):
        return {"age_mae": None, "age_bias": None, "age_spearman": None}
    error = read - target
    scores = {"age_mae": error.abs().mean().item(), "age_bias": error.mean().item()}
    if (target == target[0]).all():
        low, high = read.quantile(read.new_tensor([0.1, 0.9])).tolist()
        scores |= {"age_mean": read.mean().item(), "age_p10": low, "age_p90": high}
    else:
        scores["age_spearman"] = spearman(read, target)
    return {name: number(value) for name, value in scores.items()}


def summarise(columns: Columns, target: Tensor, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Mean scores of some outputs.

    Args:
        columns: `age`, `second_age` (years read); `cosine` (to the input); `truth_<likeness>` (to the true portrait);
            what is missing is reported as None.
        target: (N,) years asked for.
        thresholds: name -> cosine from which two faces count as one person's.
    """
    nothing = target.new_full(target.shape, float("nan"))
    column = {name: columns.get(name, nothing) for name in ("age", "second_age", "cosine")}
    summary: dict[str, Any] = age_scores(column["age"], target)
    summary["identity_cosine"] = mean(column["cosine"])
    for name, threshold in thresholds.items():
        summary[name] = accepted(column["cosine"], threshold)
    for name in sorted(name for name in columns if name.startswith("truth_")):
        summary[f"counterfactual_{name.removeprefix('truth_')}"] = mean(columns[name])
    if "second_age" in columns:
        summary["second_judge"] = age_scores(column["second_age"], target)
    return summary


def accepted(cosine: Tensor, threshold: float) -> float | None:
    """The share of cosines (N,) that reach a threshold, of those that are numbers."""
    known = cosine[~cosine.isnan()]
    if not len(known) or math.isnan(threshold):
        return None
    return number((known.double() >= threshold).double().mean().item())


def share_closed(nothing: float | None, method: float | None, ceiling: float | None) -> float | None:
    """How much of the error that doing nothing leaves, beyond the ceiling's, a method takes away: percent.

    None where something is missing, or the ceiling is no better than doing nothing: there is no way to go.

    >>> share_closed(0.5, 0.3, 0.1)
    50.0
    """
    if nothing is None or method is None or ceiling is None or nothing <= ceiling:
        return None
    return number(100 * (nothing - method) / (nothing - ceiling))


def percent_below(method: float | None, other: float | None) -> float | None:
    """By how much a method's error is below another's: percent of the other's.

    >>> percent_below(0.3, 0.4)
    25.0
    """
    if method is None or not other:
        return None
    return number(100 * (1 - method / other))


def number(value: float, digits: int = 6) -> float | None:
    """A score as it is reported: rounded, and None for NaN, which JSON does not know."""
    return None if math.isnan(value) else round(value, digits)
