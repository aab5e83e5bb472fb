"""The portraits that a run looks at, and what is read off each of them once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Album:
    """Every portrait that was read, in the source's order."""

    index: Tensor  # (P,) numbers in the source, ascending
    pixels: Tensor  # (P, 3, 256, 256) uint8, on the CPU
    embeddings: Tensor | None  # (P, D) of length one

    def places(self, index: Tensor) -> Tensor:
        """Where portraits (J,) of the source are here; -1 for those that are not."""
        if not len(self.index):
            return torch.full_like(index, -1)
        place = torch.searchsorted(self.index, index).clamp(max=len(self.index) - 1)
        return torch.where(self.index[place] == index, place, -1)


@dataclass
class Portraits:
    """What is known of portraits, by their place in the album."""

    values: dict[str, Tensor]  # (R, ...) each
    row: Tensor  # (P,) place in the album -> row of the values, or -1

    def of(self, prefix: str, places: Tensor) -> dict[str, Tensor]:
        """The values whose names begin so, of portraits at places (N,); NaN for a place of -1."""
        missing = places < 0
        rows = self.row[places.clamp_min(0)].clamp_min(0)
        found = {}
        for name, value in self.values.items():
            if name.startswith(prefix):
                picked = value[rows]
                gone = missing.view(-1, *[1] * (picked.ndim - 1))
                found[name.removeprefix(prefix)] = picked.masked_fill(gone, float("nan"))
        return found
