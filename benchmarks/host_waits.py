"""Does the host wait for the device? On a GPU every wait is made an error; elsewhere what reads a result is counted."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def no_host_waits() -> Iterator[None]:
    """Make every operation that has the host wait for the GPU raise."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class HostReads(TorchDispatchMode):
    """Count operations whose result the host must see before it can go on: each would wait for a GPU.

    For machines without one, where it cannot be told which tensors would be on the GPU: so it keeps the places.
    Adam's step counters and our draws of ages stay on the host, are found too, and cost nothing.
    """

    READS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave"})

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.READS:
            self.places.add(_caller())
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """The function above this that is neither torch's nor a benchmark's: "aging.py: draw"."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(own) and not frame.filename.startswith("<"):
            return f"{Path(frame.filename).name}: {frame.name}"
    return "unknown"
