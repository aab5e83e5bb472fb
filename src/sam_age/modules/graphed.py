"""A step's work recorded once as a CUDA graph and replayed: for networks so small that launching their kernels takes
longer than running them.

What is recorded is everything that a function does on the GPU, with the tensors it does it to: later calls copy their
inputs to where the first one's were, and everything runs again. So the function must not look at values, and its shapes
must stay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.modules.memory import ran_out

PATIENCE = 60  # calls after which a kind that has not come is no longer waited for
WARM_UP = 3  # plain calls before the recording: libraries allocate and choose their kernels in the first ones


class Graphed:
    """Calls a function plainly at first, then records it, and replays it from then on.

    Args:
        function: tensors (and constants) -> tensors in tuples and dicts; it may call `backward`. It is to launch all of
            its work on the device, draw from torch's default generators alone, and depend on no value on the device.
        parameters: whose gradients it leaves behind. They are None when it is called.
        kinds: sets of constants that will come. Recording waits for so many of them (but not for ever), as a plain call
            of another kind needs its memory beside that of what is recorded.

    A call returns the same containers of the same tensors as the one before it with the same constants, whose values it
    overwrites: they are to be read, not changed. Each set of constants (one where aging is True, one where it is False)
    has a recording of its own; they share memory, as only one of them runs at a time, and the gradients they leave are
    in the same places. So what one returned may also be gone when another has run: it is to be used or copied before.
    """

    def __init__(self, function: Callable[..., Any], parameters: Iterable[nn.Parameter], kinds: int = 1) -> None:
        self.function, self.parameters, self.kinds = function, list(parameters), kinds
        self.calls: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, _Recording] = {}
        self.stream: torch.cuda.Stream | None = None
        self.pool: Any = None

    def __call__(self, *tensors: Tensor, **constants: Hashable) -> Any:
        key = (tuple((t.shape, t.dtype, t.is_contiguous()) for t in tensors), tuple(sorted(constants.items())))
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] <= WARM_UP or not (self.recordings or self._ready()):
            return self._plainly(tensors, constants)
        if key not in self.recordings:
            self.recordings[key] = self._record(tensors, constants)
        return self.recordings[key].replay(tensors)

    def _ready(self) -> bool:
        """Whether all kinds that will come are warm, as far as one can know."""
        warm = [calls for calls in self.calls.values() if calls > WARM_UP]
        return len(warm) >= self.kinds or sum(self.calls.values()) > PATIENCE

    def _plainly(self, tensors: tuple[Tensor, ...], constants: dict[str, Any]) -> Any:
        """On a stream of its own, as recording will be: gradients are added up on the stream that first made them."""
        if self.stream is None:
            self.stream = torch.cuda.Stream(tensors[0].device)
        here = torch.cuda.current_stream(tensors[0].device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream), _without_cast_cache(tensors[0].device):
            result = self.function(*tensors, **constants)
        here.wait_stream(self.stream)
        return result

    def _record(self, tensors: tuple[Tensor, ...], constants: dict[str, Any]) -> _Recording:
        places = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # other threads, such as a loader's that pins memory, may go on meanwhile
        try:
            with (
                torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"),
                _without_cast_cache(tensors[0].device),
            ):
                self._begin_with_zeros()
                result = self.function(*places, **constants)
        except RuntimeError as error:
            if ran_out(error):  # which says what to do itself, and which the finder of batch sizes expects
                raise
            raise InputError(
                f"The step cannot be recorded as a CUDA graph ({_first_words(error)}): set module.graphed=false."
            ) from error
        self.pool = graph.pool()
        gradients = [(parameter, parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        return _Recording(graph, places, result, gradients)

    def _begin_with_zeros(self) -> None:
        """Have the gradients added up where an earlier recording leaves them, if there is one."""
        earlier = next(iter(self.recordings.values()), None)
        if earlier is not None and earlier.gradients:
            for parameter, gradient in earlier.gradients:
                parameter.grad = gradient
            for dtype in {gradient.dtype for _, gradient in earlier.gradients}:  # in one launch go those of one type
                torch._foreach_zero_([gradient for _, gradient in earlier.gradients if gradient.dtype == dtype])


class _Recording:
    """A graph, where its inputs are to be put, and where its results and gradients appear."""

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        places: list[Tensor],
        result: Any,
        gradients: list[tuple[nn.Parameter, Tensor]],
    ) -> None:
        self.graph, self.places, self.result, self.gradients = graph, places, result, gradients

    def replay(self, tensors: tuple[Tensor, ...]) -> Any:
        for place, tensor in zip(self.places, tensors, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.result


def _first_words(error: BaseException) -> str:
    """Of the first thing that went wrong: what a recording that is broken off says at its end is of no use."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _without_cast_cache(device: torch.device) -> torch.autocast:
    """Autocast as it is, but every cast made anew: a recording must not read copies that are gone by its replay."""
    kind = device.type
    torch.clear_autocast_cache()
    return torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
