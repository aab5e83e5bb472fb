"""Which form of a layer is fastest, found once for a shape, and kept while the process lives."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sam_age.models.fused.convolutions import Convolution, UpConvolution, capturing

log = logging.getLogger("sam_age")

chosen: dict[tuple[Any, ...], str] = {}
"""By kind, device, dtype, batch, channels in and out, side of what is made, direction. Batches up to the same power of
two share a choice: people ask for any number of ages."""

REPEATS = 3
AHEAD = 2_000_000  # cycles, a millisecond: as long as it takes to launch a layer, and more


def choose(
    layer: Convolution | UpConvolution, x: Tensor, side: int, wanted: str, work: Callable[[str], Any], *, back: bool
) -> str:
    """The form to take.

    Args:
        x: on the device in question, of the batch in question.
        side: of what is made, pixels.
        wanted: one of the layer's forms, or "auto"; any other is not for this layer.
        work: does it in a given form; it may be called any number of times.
    Raises:
        RuntimeError: they were measured, and every form failed; `torch.OutOfMemoryError` if one did for that.
    """
    forms = layer.forms()
    if wanted != "auto" or len(forms) == 1:
        return wanted if wanted in forms else layer.unmeasured[back]
    sizes = (1 << (x.shape[0] - 1).bit_length(), layer.inputs, layer.layer.channels, side)
    key = (type(layer).__name__, x.device, layer.dtype, *sizes, back)
    if key in chosen:
        return chosen[key]
    if not x.is_cuda or capturing(x) or torch.are_deterministic_algorithms_enabled():
        return layer.unmeasured[back]
    before = set(layer.weights)
    milliseconds = _measure(forms, work)
    form = min(milliseconds, key=milliseconds.__getitem__)
    chosen[key] = form
    for other in set(layer.weights) - before - {(form, back)}:  # made to be tried; a recording may hold those of before
        del layer.weights[other]
    told = ", ".join(f"{name} {value:.3f} ms" for name, value in milliseconds.items())
    way = "back" if back else "forward"
    log.debug("%s, %s, batches up to %d, %d -> %d channels, %d pixels: %s", key[0], way, *sizes, told)
    return form


def _measure(forms: Sequence[str], work: Callable[[str], Any]) -> dict[str, float]:
    """Milliseconds of each form; infinite where it cannot run: cuDNN or Triton may have no way, or no memory for it."""
    milliseconds, failed = {}, []
    for form in forms:
        try:
            milliseconds[form] = _time(lambda form=form: work(form))
        except Exception as error:  # whatever it is, another form may do
            milliseconds[form] = math.inf
            failed.append(error)
            said = str(error).strip().partition("\n")[0]
            log.info("A layer is not done the %r way: %s: %s", form, type(error).__name__, said)
            traceback.clear_frames(error.__traceback__)  # which hold what the form had made
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
    if len(failed) == len(forms):
        for error in failed:
            if isinstance(error, torch.OutOfMemoryError):  # for which a smaller batch helps
                raise error
        raise RuntimeError(f"A layer can be done in none of its forms: {', '.join(forms)}.") from failed[-1]
    return milliseconds


def _time(work: Callable[[], Any]) -> float:
    """Milliseconds, the least of a few: what else runs can only add to it."""
    work()  # compiles, allocates
    taken = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(AHEAD)  # the device waits until all is launched: launching is not what is timed
        start.record()
        work()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end))
    return min(taken)
