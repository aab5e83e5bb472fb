"""Numbers that a portrait has, against points that each belong to one of a batch's portraits."""

from __future__ import annotations

import torch
from torch import Tensor


def at(values: Tensor, b: Tensor) -> Tensor:
    """`values[b]`: for each point the value of its portrait, (P, ...) of (B, ...).

    A single portrait's is not copied out to its points, which halves the time of rendering on a CPU.
    """
    if len(values) == 1:
        return values.expand(len(b), *values.shape[1:])
    return values.index_select(0, b)


def turned(matrices: Tensor, points: Tensor, b: Tensor) -> Tensor:
    """Points (P, ..., n) times their portrait's matrix (B, m, n): (P, ..., m)."""
    if len(matrices) == 1:
        return points @ matrices[0].T
    return torch.einsum("pij,p...j->p...i", matrices.index_select(0, b), points)
