"""Dataclasses of numbers, one for each portrait of a batch, as tensors with a row for each portrait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch


def stack(items: Sequence[Any], device: torch.device | str = "cpu") -> SimpleNamespace:
    """The same fields as `items[0]`, each a tensor whose first dimension runs over the items.

    float, bool -> float32 (B,); int -> int64 (B,); tuples -> (B, k); nested dataclasses -> nested namespaces;
    anything else (names, None) is left out.
    """
    out = SimpleNamespace()
    for field in fields(items[0]):
        values = [getattr(item, field.name) for item in items]
        if is_dataclass(values[0]):
            setattr(out, field.name, stack(values, device))
        elif field.type == "int":  # as written: whole numbers may stand for a float field
            setattr(out, field.name, torch.tensor(values, device=device))
        elif isinstance(values[0], bool | int | float | tuple):
            setattr(out, field.name, torch.tensor(values, dtype=torch.float32, device=device))
    return out
