"""Which device to run on."""

from __future__ import annotations

import ctypes
import platform
import sys

import torch

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
