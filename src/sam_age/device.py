"""Which device to run on."""

from __future__ import annotations

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
