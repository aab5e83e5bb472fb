"""Convolutions for training on GPUs: PyTorch's own, but for two slow spots of cuDNN.

StyleGAN2's regularisations take gradients of gradients. What comes back to a weight there, PyTorch makes of a
convolution with a kernel as large as the picture: on an H200, seconds for R1 at 256 pixels. Written as what it is, the
gradient of a convolution's weight, it is as fast as the first one. And maps of 1 to 7 channels (RGB) find no fast
kernel in half precision: zeros fill them up to 8.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 8  # channels, of half-precision tensor-core kernels


class _Shape(NamedTuple):
    """What a convolution does besides its tensors."""

    stride: int
    padding: int
    transposed: bool
    output_padding: tuple[int, int]  # rows and columns at the end that a transposed one is short of

    def arguments(self) -> tuple[Any, ...]:
        """As PyTorch's operators take them."""
        return [self.stride] * 2, [self.padding] * 2, [1, 1], self.transposed, list(self.output_padding), 1

    def back(self, given: Tensor, made: Tensor, kernel: int) -> _Shape:
        """The convolution that takes gradients from what was made back to what was given."""
        if self.transposed:
            return _Shape(self.stride, self.padding, False, (0, 0))
        short = [
            side - ((out - 1) * self.stride - 2 * self.padding + kernel)
            for side, out in zip(given.shape[2:], made.shape[2:], strict=True)
        ]
        return _Shape(self.stride, self.padding, True, (short[0], short[1]))


class _Convolve(torch.autograd.Function):
    """x, weight -> y, as often differentiable as one likes, by convolutions of the same size each time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: _Shape) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = shape
        return torch.ops.aten.convolution(x, weight, None, *shape.arguments())

    @staticmethod
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _Convolve.apply(of_y, weight, ctx.shape.back(x, of_y, weight.shape[-1]))
        if ctx.needs_input_grad[1] and _Mode.weights:
            of_weight = _WeightGradient.apply(of_y, x, weight, ctx.shape)
        return of_x, of_weight, None


class _WeightGradient(torch.autograd.Function):
    """gradient of y, x -> gradient of the weight: bilinear, so its own gradients are convolutions again."""

    @staticmethod
    def forward(ctx: Any, of_y: Tensor, x: Tensor, weight: Tensor, shape: _Shape) -> Tensor:
        ctx.save_for_backward(of_y, x)
        ctx.shape, ctx.kernel = shape, weight.shape[-1]
        wanted = [False, True, False]  # of x, the weight, a bias
        backward = torch.ops.aten.convolution_backward
        return backward(of_y, x, weight.detach(), None, *shape.arguments(), wanted)[1]

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor) -> tuple[Tensor | None, ...]:
        of_y, x = ctx.saved_tensors
        of_of_y = of_x = None
        if ctx.needs_input_grad[0]:
            of_of_y = _Convolve.apply(x, of_weight, ctx.shape)
        if ctx.needs_input_grad[1]:
            of_x = _Convolve.apply(of_y, of_weight, ctx.shape.back(x, of_y, ctx.kernel))
        return of_of_y, of_x, None, None


class _Mode:
    """Of the whole process: gradients on a GPU are taken in a thread of their own, which knows no context variables."""

    twice = False
    weights = True


@contextlib.contextmanager
def differentiable_twice() -> Iterator[None]:
    """Convolutions whose second gradients are as fast as the first, on GPUs; calling one takes a little longer."""
    before, _Mode.twice = _Mode.twice, True
    try:
        yield
    finally:
        _Mode.twice = before


def takes_second_gradients() -> bool:
    """Whether `differentiable_twice` is on."""
    return _Mode.twice


@contextlib.contextmanager
def weights_left_out() -> Iterator[None]:
    """Around `torch.autograd.grad` with respect to maps or styles alone, of what is `differentiable_twice`: an autograd
    function is not told which of its gradients are asked for, and would make those of the weights too."""
    before, _Mode.weights = _Mode.weights, False
    try:
        yield
    finally:
        _Mode.weights = before


def _differentiates_itself(x: Tensor) -> bool:
    return x.is_cuda and _Mode.twice and not torch.compiler.is_compiling()


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """`torch.nn.functional.conv2d`: x (N, I, H, W), weight (O, I, K, K) -> (N, O, H', W')."""
    x, weight = _autocast(x, weight)
    outputs = weight.shape[0]
    if _fills_up(x):
        few, missing = -weight.shape[1] % ALIGNED, -outputs % ALIGNED
        x = F.pad(x, (0, 0, 0, 0, 0, few)) if few else x
        weight = F.pad(weight, (0, 0, 0, 0, 0, few, 0, missing)) if few or missing else weight
    if _differentiates_itself(x):
        y = _Convolve.apply(x, weight, _Shape(stride, padding, False, (0, 0)))
    else:
        y = F.conv2d(x, weight, stride=stride, padding=padding)
    y = y[:, :outputs] if y.shape[1] > outputs else y
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` for one that reads colours: square, its stride and padding the same along both axes."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, stride=self.stride[0], padding=int(self.padding[0]))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int, padding: int = 0) -> Tensor:
    """`torch.nn.functional.conv_transpose2d`: x (N, I, H, W), weight (I, O, K, K) -> (N, O, H', W')."""
    x, weight = _autocast(x, weight)
    if _differentiates_itself(x):
        return _Convolve.apply(x, weight, _Shape(stride, padding, True, (0, 0)))
    return F.conv_transpose2d(x, weight, stride=stride, padding=padding)


def _fills_up(x: Tensor) -> bool:
    return x.is_cuda and x.element_size() == 2


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """What autocast would do to a convolution's arguments; inside of an autograd function it comes too late."""
    kind = tensors[0].device.type
    if not tensors[0].is_cuda or not torch.is_autocast_enabled(kind):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors]
