"""Layers of networks that learn, on GPUs with Triton: each function stands for several passes of the plain path.

`upfirdn2d`, `modulated_conv2d`, `leaky_relu` and `StyledConv` go this way where `serves` says so, for channels-last
maps. Resampling can be differentiated as often as one likes; the others once: where gradients of gradients are asked
for (`differentiable_twice`), the plain path goes.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sam_age.models import fused
from sam_age.models.convolve import takes_second_gradients
from sam_age.models.fused import DTYPES

LAST = torch.channels_last
ELEMENTS = 2048  # pixels x channels of a program's block, on small maps too: each shape of blocks is compiled anew
BACK_ELEMENTS = 1024  # the same on the way back, where there are sums to carry
CHUNK = 16  # blocks of one program on the way back
WIDEST = 64  # channels of a block
TAPS = 4


def serves(x: Tensor, *, once: bool = False) -> bool:
    """Whether the kernels take a map: it looks at no value.

    Args:
        x: (N, C, H, W).
        once: of a function that is differentiated once only.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or x.ndim != 4:
        return False
    if not x.is_cuda and not fused.interpreted():
        return False
    if x.dtype not in DTYPES or x.shape[1] % 8 or not 0 < x.shape[0] <= 65535:
        return False
    if not x.is_contiguous(memory_format=LAST) or (once and takes_second_gradients()):
        return False
    return fused.trouble(x.device) is None


# ---- resampling ---------------------------------------------------------------------------------------


def resample(x: Tensor, kernel: Tensor, up: int, down: int, pad: tuple[int, int]) -> Tensor:
    """`upfirdn2d` with four by four taps, up and down 1 or 2."""
    size = tuple((side * up + sum(pad) - TAPS) // down + 1 for side in x.shape[2:])
    return _Resample.apply(x, kernel.detach().float().contiguous(), up, down, pad[0], size, True)


class _Resample(torch.autograd.Function):
    """Its gradient is a resampling too: up and down change places, and the filter is turned round."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, up: int, down: int, before: int, size: tuple[int, int], flip: bool
    ) -> Tensor:
        from sam_age.models.fused import kernels

        ctx.save_for_backward(kernel)
        ctx.back = down, up, TAPS - 1 - before, tuple(x.shape[2:]), not flip
        x = x.contiguous(memory_format=LAST)
        count, channels, height, width = x.shape
        made = torch.empty((count, channels, *size), dtype=x.dtype, device=x.device, memory_format=LAST)
        block_c = _channels(channels)
        block_w = ELEMENTS // block_c
        with _on(x):
            kernels.resample[(size[0] * -(-size[1] // block_w), count, channels // block_c)](
                x, made, kernel, height, width, *size, before, channels,
                UP=up, DOWN=down, FLIP=flip, BLOCK_W=block_w, BLOCK_C=block_c, num_warps=4,
            )  # fmt: skip
        return made

    @staticmethod
    def backward(ctx: Any, of_made: Tensor) -> tuple[Any, ...]:
        return _Resample.apply(of_made, *ctx.saved_tensors, *ctx.back), *[None] * 6


# ---- before and after a convolution -------------------------------------------------------------------


def modulate(x: Tensor, style: Tensor) -> Tensor:
    """x (N, C, H, W) times style (N, C)."""
    return _Modulate.apply(x, style.float())


def activate(
    x: Tensor,
    bias: Tensor,
    gain: Tensor | None = None,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
) -> Tensor:
    """sqrt(2) LeakyReLU(gain x + strength noise + bias), slope 0.2.

    Args:
        x: (N, C, H, W).
        bias: (C,).
        gain: (N, C), no zeros: its gradient is found from what it gave.
        noise: (1 or N, 1, H, W), which takes no gradient.
        strength: (1,) of the noise.
    """
    gain = None if gain is None else gain.float()
    noise = None if noise is None else noise.detach().contiguous()
    strength = None if strength is None else strength.float()
    return _Activate.apply(x, bias.float(), gain, noise, strength)


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, style: Tensor) -> Tensor:
        from sam_age.models.fused import kernels

        style = style.contiguous()
        ctx.save_for_backward(x, style)
        count, channels, pixels, block_p, block_c, _ = _blocks(x, ELEMENTS, 1)
        made = torch.empty_like(x)
        with _on(x):
            kernels.modulate[(-(-pixels // block_p), count, channels // block_c)](
                x, made, style, pixels, channels, BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4
            )
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_made: Tensor) -> tuple[Tensor, Tensor]:
        from sam_age.models.fused import kernels

        x, style = ctx.saved_tensors
        of_made = of_made.contiguous(memory_format=LAST)
        count, channels, pixels, block_p, block_c, programs = _blocks(x, BACK_ELEMENTS, CHUNK)
        of_x, parts = torch.empty_like(x), style.new_empty((count, programs, channels))
        with _on(x):
            kernels.modulate_backward[(programs, count, channels // block_c)](
                of_made, x, of_x, parts, style, pixels, channels, min(CHUNK, -(-pixels // block_p)),
                BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4,
            )  # fmt: skip
        return of_x, parts.sum(1)


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, gain: Tensor | None, noise: Tensor | None, strength: Tensor | None
    ) -> Tensor:
        from sam_age.models.fused import kernels

        bias, gain = bias.contiguous(), None if gain is None else gain.contiguous()
        count, channels, pixels, block_p, block_c, _ = _blocks(x, ELEMENTS, 1)
        made = torch.empty_like(x)
        with _on(x):
            kernels.activate[(-(-pixels // block_p), count, channels // block_c)](
                x, made, *_given(bias, gain, noise, strength), pixels, _step(noise), channels,
                GAIN=gain is not None, NOISE=noise is not None, BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4,
            )  # fmt: skip
        ctx.save_for_backward(made, bias, gain, noise, strength)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_made: Tensor) -> tuple[Tensor | None, ...]:
        from sam_age.models.fused import kernels

        made, bias, gain, noise, strength = ctx.saved_tensors
        of_made = of_made.to(made.dtype).contiguous(memory_format=LAST)
        count, channels, pixels, block_p, block_c, programs = _blocks(made, BACK_ELEMENTS, CHUNK)
        of_x, parts = torch.empty_like(made), bias.new_empty((count, programs, 3, channels))
        with _on(made):
            kernels.activate_backward[(programs, count, channels // block_c)](
                of_made, made, of_x, parts, *_given(bias, gain, noise, strength), pixels, _step(noise), channels,
                min(CHUNK, -(-pixels // block_p)),
                GAIN=gain is not None, NOISE=noise is not None, BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4,
            )  # fmt: skip
        wanted = ctx.needs_input_grad
        return (
            of_x,
            parts[:, :, 0].sum((0, 1)) if wanted[1] else None,
            parts[:, :, 1].sum(1) if gain is not None and wanted[2] else None,
            None,
            parts[:, :, 2].sum().reshape(1) if noise is not None and wanted[4] else None,
        )


def _given(bias: Tensor, gain: Tensor | None, noise: Tensor | None, strength: Tensor | None) -> tuple[Tensor, ...]:
    """gains, noise, strength, biases: any tensor where a kernel is told not to look."""
    return (
        bias if gain is None else gain,
        bias if noise is None else noise,
        bias if strength is None else strength,
        bias,
    )


def _step(noise: Tensor | None) -> int:
    return 0 if noise is None or noise.shape[0] == 1 else noise.shape[2] * noise.shape[3]


def _blocks(x: Tensor, elements: int, chunk: int) -> tuple[int, int, int, int, int, int]:
    """N, C, H W; pixels and channels of a block; programs that take `chunk` blocks each."""
    count, channels, height, width = x.shape
    pixels, block_c = height * width, _channels(channels)
    block_p = elements // block_c
    blocks = -(-pixels // block_p)
    return count, channels, pixels, block_p, block_c, -(-blocks // min(chunk, blocks))


def _channels(channels: int) -> int:
    """Of a block: the largest power of two that divides them, up to the widest."""
    return min(channels & -channels, WIDEST)


def _on(x: Tensor) -> Any:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
