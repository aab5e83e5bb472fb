"""Gradient centralisation on GPUs with Triton: each gradient is read from memory once and written once."""

# Triton's annotations are its own, its constants are capitals.
# ruff: noqa: ANN001, N803

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers at a time


@triton.jit
def _centralise(gradient, length, BLOCK: tl.constexpr):  # noqa: ANN202
    """gradient (rows, length): each row minus its mean. Grid: (rows,)."""
    gradient += tl.program_id(0).to(tl.int64) * length
    here = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, length, BLOCK):
        total += tl.load(gradient + start + here, start + here < length, 0.0).to(tl.float32)
    mean = tl.sum(total, 0) / length
    for start in range(0, length, BLOCK):  # a row is in the cache by now
        inside = start + here < length
        value = tl.load(gradient + start + here, inside, 0.0).to(tl.float32) - mean
        tl.store(gradient + start + here, value.to(gradient.dtype.element_ty), inside)


def centralise(gradient: Tensor) -> None:
    """Subtract from the inputs of each output their mean, in place: (O, ...), as `serves` asks for."""
    rows = gradient.shape[0]
    with torch.cuda.device(gradient.device) if gradient.is_cuda else contextlib.nullcontext():
        _centralise[(rows,)](gradient, gradient.numel() // rows, BLOCK=BLOCK, num_warps=4)


def serves(gradient: Tensor) -> bool:
    """Whether each output's numbers lie together, in whatever order, without gaps, and are added well in float32."""
    if gradient.ndim < 2 or gradient.numel() == 0 or gradient.dtype == torch.float64:
        return False
    innermost = gradient.ndim == 4 and gradient.is_contiguous(memory_format=torch.channels_last)
    return innermost or gradient.is_contiguous()
