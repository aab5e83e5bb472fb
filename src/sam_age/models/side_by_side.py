"""Parts of a network that need nothing of each other, at the same time.

Small maps leave most of a GPU idle: a convolution of 16 maps of 8 x 8 pixels has work for a few of its processors. On
streams of their own, several such parts share it. Launching them that way costs the host more than it saves, so it is
for steps that are recorded (`sam_age.modules.graphed`) and asked for by `streams`; anywhere else they run one after the
other. The numbers are the same.

Each way is a fork and a join: the streams begin where the current one is, which takes a part as well and goes on when
all of them are done. What is freed on either side is therefore never written over too early, whatever stream it was
allocated on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Part = Callable[..., Tensor | Sequence[Tensor]]


class _Mode:
    """Of the whole process: gradients on a GPU are taken in a thread of their own, which knows no context variables."""

    streams: Sequence[Any] = ()


@contextlib.contextmanager
def streams(some: Sequence[Any]) -> Iterator[None]:
    """Inside, `side_by_side` and `begin` use these streams of the current device beside the current one; none: one part
    after the other."""
    before, _Mode.streams = _Mode.streams, some
    try:
        yield
    finally:
        _Mode.streams = before


def shares() -> int:
    """Into how many parts of about the same work to divide what can be divided."""
    return 1 + len(_Mode.streams)


def side_by_side(parts: Sequence[Part], *inputs: Tensor) -> list[Any]:
    """What each part makes of the inputs: a tensor, or a list of them.

    Parts may read parameters too, and leave gradients in these if one of the inputs takes gradients as well.
    """
    some = _Mode.streams
    if torch.compiler.is_compiling() or not some or len(parts) < 2:
        return [part(*inputs) for part in parts]
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        return _fork(some, [lambda part=part: part(*inputs) for part in parts])
    counts: list[int | None] = []
    flat = iter(_Forked.apply(parts, some, counts, *inputs))
    return [next(flat) if count is None else [next(flat) for _ in range(count)] for count in counts]


def begin(part: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Start a part that takes no gradients, and go on; what is returned waits for its result.

    It has the last of the streams until then, and nothing that it reads may be freed before. In a step that is recorded
    the result is to be asked for.
    """
    some = _Mode.streams
    if torch.compiler.is_compiling() or not some:
        with torch.no_grad():
            made = part()
        return lambda: made
    here, stream = torch.cuda.current_stream(), some[-1]
    stream.wait_stream(here)
    with torch.cuda.stream(stream), torch.no_grad(), streams(()):  # the others are for those who go on
        made = part()
    _Mode.streams = rest = list(some[:-1])
    waited = False

    def result() -> Tensor:
        nonlocal waited
        if not waited:
            if _Mode.streams is not rest:
                raise RuntimeError(
                    "What has begun is asked for within `streams`, and what began last is asked for first."
                )
            here.wait_stream(stream)
            _Mode.streams, waited = some, True
        return made

    return result


def _fork(some: Sequence[Any], works: Sequence[Callable[[], Any]]) -> list[Any]:
    """The works' results: in turn on the current stream and the others, which begin and end together with it."""
    here = torch.cuda.current_stream()
    used = [here, *some][: len(works)]
    for stream in used[1:]:
        stream.wait_stream(here)
    made = []
    try:
        for number, work in enumerate(works):
            with torch.cuda.stream(used[number % len(used)]), streams(()):
                made.append(work())
    finally:
        for stream in used[1:]:
            here.wait_stream(stream)
    return made


class _Forked(torch.autograd.Function):
    """Parts with graphs of their own, so that the way back forks and joins as the way forth does."""

    @staticmethod
    def forward(
        ctx: Any, parts: Sequence[Part], some: Sequence[Any], counts: list[int | None], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        def run(part: Part) -> tuple[list[Tensor], list[Tensor], int | None]:
            with torch.enable_grad():
                own = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
                made = part(*own)
            several = not isinstance(made, Tensor)
            return own, list(made) if several else [made], len(made) if several else None

        found = _fork(some, [lambda part=part: run(part) for part in parts])
        counts += [count for _, _, count in found]
        ctx.set_materialize_grads(False)
        ctx.some, ctx.found = some, [(own, made) for own, made, _ in found]
        made = [x for _, some_made, _ in found for x in some_made]
        outputs = [x.detach() for x in made]
        ctx.mark_non_differentiable(*(y for x, y in zip(made, outputs, strict=True) if not x.requires_grad))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or ctx.found is None:
            raise RuntimeError("What ran side by side goes back once, and has no gradients of gradients.")
        left = iter(gradients)
        works = []
        for _, made in ctx.found:
            pairs = [(x, of_x) for x in made if (of_x := next(left)) is not None and x.requires_grad]
            works.append(lambda pairs=pairs: torch.autograd.backward(*zip(*pairs, strict=True)) if pairs else None)
        _fork(ctx.some, works)
        of_inputs = []
        for copies in zip(*(own for own, _ in ctx.found), strict=True):
            some = [copy.grad for copy in copies if copy.grad is not None]
            for other in some[1:]:
                some[0] += other
            of_inputs.append(some[0] if some else None)
        ctx.found = None
        return None, None, None, *of_inputs
