"""Ranger's step for one tensor on GPUs with Triton, in one pass over memory: gradient, means, weights and slow weights
are read once and written once, and the gradient may be in half precision."""

# Triton's annotations are its own, its constants are capitals.
# ruff: noqa: ANN001, N803

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # numbers at a time, at most
NUMBERS_A_WARP = 256  # eight a thread


@triton.jit
def _update(  # noqa: ANN202
    weight,
    gradient,
    mean,
    square,
    slow,
    length,
    kept,
    rate,
    to_gradient,
    to_square,
    eps,
    alpha,
    ADAPTS: tl.constexpr,
    MEETS: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of tensors (rows, length), one row: see `update`. Grid: (rows,)."""
    row = tl.program_id(0).to(tl.int64) * length
    here = tl.arange(0, BLOCK)
    middle = 0.0
    if CENTRED:
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, length, BLOCK):
            total += tl.load(gradient + row + start + here, start + here < length, 0.0).to(tl.float32)
        middle = tl.sum(total, 0) / length
    for start in range(0, length, BLOCK):
        inside = start + here < length
        at = row + start + here
        g = tl.load(gradient + at, inside, 0.0).to(tl.float32) - middle  # in the cache by now
        m = tl.load(mean + at, inside, 0.0)
        v = tl.load(square + at, inside, 0.0)
        w = tl.load(weight + at, inside, 0.0) * kept
        m += to_gradient * (g - m)
        v += to_square * (g * g - v)
        w -= rate * m / (tl.sqrt(v) + eps) if ADAPTS else rate * m
        if MEETS:
            s = tl.load(slow + at, inside, 0.0)
            w = s + alpha * (w - s)
            tl.store(slow + at, w, inside)
        tl.store(mean + at, m, inside)
        tl.store(square + at, v, inside)
        tl.store(weight + at, w, inside)


def update(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    slow: Tensor,
    *,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    kept: float,
    adapts: bool,
    centred: bool,
    alpha: float | None,
) -> None:
    """Tensors as `serves` asks for; all but the gradient change in place.

    Args:
        rate: what mean, or where it `adapts` mean over the root of square, is multiplied by.
        betas, eps: as `Ranger`'s.
        kept: what the weights are multiplied by first.
        centred: subtract from each output's gradient its mean.
        alpha: of the meeting of slow and fast weights; None: they do not meet at this step.
    """
    rows = weight.shape[0]
    length = weight.numel() // rows
    block = min(BLOCK, triton.next_power_of_2(length))
    with torch.cuda.device(weight.device) if weight.is_cuda else contextlib.nullcontext():
        _update[(rows,)](
            weight, gradient, mean, square, slow, length,
            kept, rate, 1 - betas[0], 1 - betas[1], eps, 0.0 if alpha is None else alpha,
            ADAPTS=adapts, MEETS=alpha is not None, CENTRED=centred,
            BLOCK=block, num_warps=max(1, min(8, block // NUMBERS_A_WARP)),
        )  # fmt: skip
    torch.autograd.graph.increment_version(weight)  # who keeps something made of it would not see this change


def serves(weight: Tensor, gradient: Tensor, *states: Tensor) -> bool:
    """Whether there are outputs and inputs, each output's numbers lie together, in whatever order, without gaps, in all
    of the tensors alike; and are float32, or of the gradient half as long."""
    if weight.ndim < 2 or weight.numel() == 0 or any(x.dtype != torch.float32 for x in (weight, *states)):
        return False
    if gradient.dtype not in (torch.float32, torch.bfloat16):
        return False
    innermost = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    whole = innermost or weight.is_contiguous()
    return whole and all(x.stride() == weight.stride() for x in (gradient, *states))
