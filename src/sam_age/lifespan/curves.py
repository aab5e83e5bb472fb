"""Smooth curves over years, metres and anything else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def step(low: float | Tensor, high: float | Tensor, x: Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between (3t^2 - 2t^3); `low` > `high` runs downhill.

    >>> step(0, 10, torch.tensor([-1.0, 5.0, 12.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def between(x: Tensor, at: Sequence[float], values: Sequence[float]) -> Tensor:
    """Straight lines through the points (at, values), constant outside them.

    >>> between(torch.tensor([-1.0, 0.5, 3.0]), [0, 1, 2], [10, 20, 0])
    tensor([10., 15.,  0.])
    """
    at_, values_ = x.new_tensor(at), x.new_tensor(values)
    k = torch.searchsorted(at_, x.contiguous()).clamp(1, len(at) - 1)
    t = ((x - at_[k - 1]) / (at_[k] - at_[k - 1])).clamp(0, 1)
    return values_[k - 1] + t * (values_[k] - values_[k - 1])


def bump(x: Tensor, centre: float | Tensor, width: float | Tensor) -> Tensor:
    """exp(-((x - centre) / width)^2)."""
    return torch.exp(-(((x - centre) / width) ** 2))


def unit(v: Tensor) -> Tensor:
    """Vectors of length 1 along the last dimension."""
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-9)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)
