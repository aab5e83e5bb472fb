"""Which device to run on, and how it likes its work."""

from __future__ import annotations

import ctypes
import platform
import sys

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
