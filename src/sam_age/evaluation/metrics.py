"""What `sam-eval` and validation measure, as torchmetrics: update per batch, compute once, on any ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

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
