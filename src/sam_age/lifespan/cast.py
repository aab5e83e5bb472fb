"""Who is in a batch of portraits, as tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

from torch import Tensor


class Cast(NamedTuple):
    """One row for each portrait; the fields of `Person` and `Scene` as tensors, see `sam_age.lifespan.stack`."""

    person: SimpleNamespace
    age: Tensor  # (B,) years
    scene: SimpleNamespace

    def __len__(self) -> int:
        return len(self.age)
