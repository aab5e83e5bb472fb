"""How errors say that a GPU's memory is used up: not all of them are PyTorch's own."""

from __future__ import annotations

import torch

SAYINGS = ("out of memory", "out_of_memory", "alloc_failed", "allocation_failed", "memoryallocation")
"""PyTorch's and Triton's; the driver's; cuBLAS's and cuDNN's; cuDNN's of the host; the runtime's. In small letters."""


def ran_out(error: BaseException | None) -> bool:
    """Whether memory was what failed, in this error or in one behind it: the end of a recording that was broken off
    raises an error of its own.

    >>> ran_out(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    True
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(s in str(error).lower() for s in SAYINGS):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
