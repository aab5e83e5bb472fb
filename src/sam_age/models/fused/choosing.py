"""Which form of doubling the resolution is fastest, found once for a shape, and kept while the process lives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sam_age.models.fused.convolutions import FORMS, UpConvolution, capturing

log = logging.getLogger("sam_age")

UNMEASURED = {False: "subpixel", True: "transposed"}
"""Forward, back: where nothing may be timed. Plain convolutions of stride 1 and 2, which cuDNN does well everywhere."""

chosen: dict[tuple[Any, ...], str] = {}
"""By device, dtype, batch, channels in and out, side of what is made, direction."""

REPEATS = 3


def choose(up: UpConvolution, x: Tensor, side: int, wanted: str, work: Callable[[str], Tensor], *, back: bool) -> str:
    """The form to take.

    Args:
        x: on the device in question, of the batch in question.
        side: of what is made, pixels.
        wanted: one of `FORMS`, or "auto".
        work: does it in a given form; it may be called any number of times.
    """
    if wanted != "auto":
        return wanted
    key = (x.device, up.dtype, x.shape[0], up.inputs, up.layer.channels, side, back)
    if key in chosen:
        return chosen[key]
    if not x.is_cuda or capturing(x) or torch.are_deterministic_algorithms_enabled():
        return UNMEASURED[back]
    before = set(up.weights)
    milliseconds = {form: _time(lambda form=form: work(form)) for form in FORMS}
    form = min(milliseconds, key=milliseconds.__getitem__)
    chosen[key] = form
    for other in set(up.weights) - before - {(form, back)}:  # made to be tried; a recording may hold those of before
        del up.weights[other]
    told = ", ".join(f"{name} {value:.3f} ms" for name, value in milliseconds.items())
    log.debug("%s %d -> %d channels to %d pixels, batch %d: %s", "Back" if back else "Up", *key[3:6], key[2], told)
    return form


def _time(work: Callable[[], Tensor]) -> float:
    """Milliseconds, the least of a few: what else runs can only add to it."""
    work()  # compiles, allocates
    taken = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end))
    return min(taken)
