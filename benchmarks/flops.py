"""Arithmetic counted rather than timed: products and sums of matrix products and convolutions, ways back included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def counted(work: Callable[[], Any]) -> float:
    """FLOPs of a piece of work, done or (under `FakeTensorMode`) as if it were done.

    The formulas are PyTorch's. Its own `FlopCounterMode` also follows modules, and breaks off where gradients are asked
    of gradients.
    """
    with _Counting() as counting:
        work()
    return counting.flops


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=made)
        return made
