"""Which device to run on, and how it likes its work."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Any

import torch
from torch import nn

from sam_age.errors import InputError


def pick_device(device: str) -> str:
    """ "auto" -> "cuda", "mps" or "cpu", whichever is there; anything else is checked.

    Raises:
        InputError: a device that this machine or torch does not have.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"Device {device!r} cannot be used here ({reason}): use cpu, or auto.") from error
    return device


def pays_in_bfloat16(device: torch.device, size: int) -> bool:
    """Whether a generator of so many pixels is faster in bfloat16 and looks the same.

    On CUDA devices that compute in it. On processors that multiply it in tiles (AMX) from 512 pixels on: there time
    goes into products and memory, of which it takes half; below, into all the rest (docs/performance.md).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch has no public way to ask
    return device.type == "cpu" and size >= 512 and tiles is not None and tiles()


def innermost_channels(*networks: nn.Module | None) -> None:
    """Convolution weights with their channels innermost, in place; what is fed such pictures keeps to it.

    Of a generator give the constant input alone: every other map follows.
    """
    for network in networks:
        if network is not None:
            network.to(memory_format=torch.channels_last)


MOST_AT_ONCE = 48
"""Pictures in one pass on a GPU: an H200 is busy with fewer, and four faces at eleven ages are 44."""

ROOM = 1.2e9
"""Bytes of a GPU's free memory to each picture of 1024 pixels at once: twice what the generator's plain path takes."""


def pictures_at_once(device: torch.device, size: int) -> int:
    """How many pictures of `size` pixels a generator is to make in one pass.

    One on a CPU, where more take memory and save no time (docs/performance.md); on CUDA what the memory that is free
    holds with ease, so that a batch keeps a large GPU busy and a small one does not run out.
    """
    if device.type == "cpu":
        return 1
    if device.type != "cuda":
        return 8
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(MOST_AT_ONCE, int(free / (ROOM * (size / 1024) ** 2))))


VARIANTS = 64
"""Of one function, at least so many are compiled before PyTorch goes on without."""


def compile_options() -> dict[str, Any]:
    """Arguments of `torch.compile` for networks whose shapes are few and fixed, as in a run of training.

    Each shape is compiled for itself: left to guess, PyTorch takes the second one that it meets for the first of many,
    and compiles slower code for all of them. More variants of one function are kept than usually: towers have three
    lengths, in two encoders, and a second size of batch would be one too many. An analysis of how kernels read memory
    is left out, which for the judges ends in an assertion in torch 2.11.
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"  # before torch 2.6
    setattr(dynamo, limit, max(VARIANTS, getattr(dynamo, limit)))
    analysis = "triton.coalesce_tiling_analysis"
    known = hasattr(inductor.triton, "coalesce_tiling_analysis")  # not before torch 2.8
    return {"dynamic": False, "options": {analysis: False} if known else None}


def let_segments_grow() -> None:
    """Have PyTorch's allocator on GPUs extend its segments of memory rather than ask for others beside them: what is
    reserved lies nearer to what is used.

    For programs, before anything is put on a GPU; whoever has set `PYTORCH_CUDA_ALLOC_CONF` is left alone. That is the
    older of the variable's two names, and the one which torch 2.9 heeds, though it warns that the other is to be used.
    """
    if sys.platform == "linux" and not {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & set(os.environ):
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -4, -1, -2  # malloc.h


def keep_freed_memory() -> bool:
    """Have the C library keep large blocks that are freed, rather than give them back and ask for fresh, zeroed ones.

    For programs that work on a CPU: at 1024 pixels every layer's maps are such blocks, and without this the system
    spends a third of a picture's time on clearing pages (docs/performance.md). It holds for the whole process, which
    stays as large as it once was: so programs call it, and nothing that is imported.

    Returns:
        whether it was done: on Linux with glibc alone.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(
        library.mallopt(what, value)
        for what, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**28))
    )
