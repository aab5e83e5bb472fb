"""Which form of a layer is fastest, found once for a shape, and kept while the process lives."""

from __future__ import annotations

import logging
from collections.abc import Callable
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
    """
    forms = layer.forms(side)
    if wanted != "auto" or len(forms) == 1:
        return wanted if wanted in forms else layer.unmeasured[back]
    sizes = (1 << (x.shape[0] - 1).bit_length(), layer.inputs, layer.layer.channels, side)
    key = (type(layer).__name__, x.device, layer.dtype, *sizes, back)
    if key in chosen:
        return chosen[key]
    if not x.is_cuda or capturing(x) or torch.are_deterministic_algorithms_enabled():
        return layer.unmeasured[back]
    before = set(layer.weights)
    milliseconds = {form: _time(lambda form=form: work(form)) for form in forms}
    form = min(milliseconds, key=milliseconds.__getitem__)
    chosen[key] = form
    for other in set(layer.weights) - before - {(form, back)}:  # made to be tried; a recording may hold those of before
        del layer.weights[other]
    told = ", ".join(f"{name} {value:.3f} ms" for name, value in milliseconds.items())
    way = "back" if back else "forward"
    log.debug("%s, %s, batches up to %d, %d -> %d channels, %d pixels: %s", key[0], way, *sizes, told)
    return form


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
