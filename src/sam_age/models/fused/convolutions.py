"""The generator's convolutions with frozen weights, each with its epilogue: forward, and back to what went in.

Weights are cast, scaled, turned and folded once. A gradient is a plain convolution with the flipped, transposed
weight. For doubling the resolution there are three forms of the same thing, of which one is fastest for a shape and a
device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_age.models.fused import launch
from sam_age.models.fused.launch import LAST, Colours, Layer
from sam_age.models.ops import fold

DOUBLING = ("transposed", "subpixel", "folded")
"""Doubling the resolution, I -> O channels from H x H pixels to 2H x 2H:

transposed: a transposed convolution of stride 2 (18 I O H^2 operations), then the filter and the epilogue.
subpixel: the same numbers from a 2 x 2 convolution with 4 O outputs, some of its taps zero (32 I O H^2).
folded: filter and weight in one, a 3 x 3 convolution with 4 O outputs (72 I O H^2), then the epilogue alone.
"""

KEEPING = ("cudnn", "paired")
"""Keeping it, I -> O channels:

cudnn: a convolution and the epilogue.
paired: the same of two neighbouring pixels as one of twice the channels, which in memory they are; half of its
    taps are zero (36 I O operations a pixel for 18). For few channels, which fill half of cuDNN's tiles.
"""

PAIRED = 32
"""Channels in and out, at most, that are tried in pairs."""

Sums = tuple[Tensor, Tensor | None, Tensor | None]


class Convolution:
    """A 3 x 3 convolution that keeps the resolution, and its epilogue, in any of `KEEPING`.

    Args:
        weight: (O, I, 3, 3), float32, at its runtime scale.
    """

    unmeasured: ClassVar = {False: "cudnn", True: "cudnn"}  # forward, back

    def __init__(self, weight: Tensor, layer: Layer, dtype: torch.dtype) -> None:
        self.layer, self.dtype = layer, dtype
        self.inputs = weight.shape[1]
        self.plain = weight
        self.weights: dict[tuple[str, bool], Tensor] = {}

    def forms(self) -> tuple[str, ...]:
        return KEEPING if max(self.inputs, self.layer.channels) <= PAIRED else KEEPING[:1]

    def weight(self, form: str, *, back: bool) -> Tensor:
        """Of one form and direction: made when it is first asked for."""

        def make() -> Tensor:
            weight = self.plain.transpose(0, 1).flip(2, 3) if back else self.plain
            return _laid_out(paired(weight) if form == "paired" else weight, self.dtype)

        return _kept(self.weights, (form, back), make)

    def forward(
        self,
        form: str,
        x: Tensor,
        gain: Tensor,
        noise: Tensor,
        style: Tensor | None,
        *,
        colours: Colours | None = None,
        rgb_style: Tensor | None = None,
        below: Tensor | None = None,
        keep: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """x (N, I, S, S) channels-last, times its styles -> z, picture: see `launch.epilogue`."""
        given = {"colours": colours, "rgb_style": rgb_style, "below": below, "keep": keep}
        convolved = self.convolved(form, x, self.weight(form, back=False))
        return launch.epilogue(convolved, self.layer, gain, noise, style, **given)

    @staticmethod
    def convolved(form: str, x: Tensor, weight: Tensor) -> Tensor:
        """x (N, I, S, S) channels-last -> (N, O, S, S), alike; weight: of that form."""
        if form == "paired":
            return one_by_one(F.conv2d(in_pairs(x), weight, padding=1).contiguous(memory_format=LAST))
        return F.conv2d(x, weight, padding=1).contiguous(memory_format=LAST)

    def of_convolved(
        self,
        of_z: Tensor | None,
        z: Tensor,
        gain: Tensor,
        noise: Tensor,
        style: Tensor | None,
        sums: Sums,
        *,
        colours: Colours | None = None,
        rgb_style: Tensor | None = None,
        of_rgb: Tensor | None = None,
    ) -> Tensor:
        """Gradients of z, which is overwritten, and of the picture -> of what the convolution gave."""
        given = {"colours": colours, "rgb_style": rgb_style, "of_rgb": of_rgb}
        return launch.epilogue_backward(of_z, z, self.layer, gain, noise, style, sums=sums, **given)

    def backward(self, form: str, of_convolved: Tensor) -> Tensor:
        """Gradient of what the convolution gave -> of x."""
        return self.convolved(form, of_convolved, self.weight(form, back=True))


class UpConvolution:
    """A modulated convolution that doubles the resolution, its filter and its epilogue, in any of `DOUBLING`.

    Args:
        weight: (O, I, 3, 3), float32, at its runtime scale.
        kernel: (4, 4), the filter that follows.
    """

    unmeasured: ClassVar = {
        False: "subpixel",
        True: "transposed",
    }  # plain convolutions, which cuDNN does well everywhere

    def __init__(self, weight: Tensor, kernel: Tensor, layer: Layer, dtype: torch.dtype) -> None:
        self.layer, self.dtype = layer, dtype
        self.inputs = weight.shape[1]
        self.plain, self.kernel = weight, kernel
        self.weights: dict[tuple[str, bool], Tensor] = {}

    def weight(self, form: str, *, back: bool) -> Tensor:
        """Of one form and direction: made when it is first asked for."""

        def make() -> Tensor:
            if form == "transposed":  # (I, O, 3, 3) either way, as a transposed convolution and its gradient take it
                return _laid_out(self.plain.transpose(0, 1), self.dtype)
            weight = subpixel(self.plain) if form == "subpixel" else folded(self.plain, self.kernel)
            return _laid_out(weight.transpose(0, 1).flip(2, 3) if back else weight, self.dtype)

        return _kept(self.weights, (form, back), make)

    def forms(self) -> tuple[str, ...]:
        return DOUBLING

    def forward(self, form: str, x: Tensor, gain: Tensor, noise: Tensor, style: Tensor) -> Tensor:
        """x (N, I, H, H) channels-last, times its styles -> z (N, O, 2H, 2H)."""
        weight = self.weight(form, back=False)
        if form == "transposed":
            spread = F.conv_transpose2d(x, weight, stride=2).contiguous(memory_format=LAST)
            return launch.fir_epilogue(spread, self.layer, gain, noise, style)
        convolved = F.conv2d(x, weight, padding=1).contiguous(memory_format=LAST)
        if form == "subpixel":
            return launch.fir_epilogue(convolved, self.layer, gain, noise, style, phases=True)
        return launch.epilogue(convolved, self.layer, gain, noise, style, phases=True)[0]

    def backward(
        self, form: str, of_z: Tensor, z: Tensor, gain: Tensor, noise: Tensor, style: Tensor, sums: Sums
    ) -> Tensor:
        """Gradient of z -> of x."""
        weight = self.weight(form, back=True)
        given = (of_z, z, self.layer, gain, noise, style)
        if form == "folded":
            of_x = F.conv2d(launch.epilogue_backward(*given, phases=True, sums=sums), weight, padding=1)
        elif form == "subpixel":
            of_x = F.conv2d(launch.fir_epilogue_backward(*given, phases=True, sums=sums), weight)
        else:
            of_x = F.conv2d(launch.fir_epilogue_backward(*given, sums=sums), weight, stride=2)
        return of_x.contiguous(memory_format=LAST)


def paired(weight: Tensor) -> Tensor:
    """A convolution of pixels as one of pairs of them: (O, I, 3, 3) -> (2 O, 2 I, 3, 3), for `in_pairs` and padding 1.

    From pixel b of the pair t pairs to the right pixel a gets the tap 2 t + b - a to the right of the middle one.
    """
    outputs, inputs = weight.shape[:2]
    pairs = weight.new_zeros((2, outputs, 2, inputs, 3, 3))
    for a, b, t in itertools.product((0, 1), (0, 1), (-1, 0, 1)):
        tap = 2 * t + b - a
        if -1 <= tap <= 1:
            pairs[a, :, b, :, :, t + 1] = weight[..., tap + 1]
    return pairs.flatten(2, 3).flatten(0, 1)


def in_pairs(x: Tensor) -> Tensor:
    """(N, C, H, W) channels-last -> (N, 2 C, H, W / 2), alike: the same numbers in the same places."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).view(n, h, w // 2, 2 * c).permute(0, 3, 1, 2)


def one_by_one(x: Tensor) -> Tensor:
    """What `in_pairs` was given."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).view(n, h, 2 * w, c // 2).permute(0, 3, 1, 2)


def subpixel(weight: Tensor) -> Tensor:
    """A transposed convolution of stride 2 by phases: (O, I, 3, 3) -> (4 O, I, 2, 2), for `conv2d` with padding 1.

    Even rows of its result take the taps 2 and 0 of one pixel and the next, odd ones tap 1 of the second alone; and so
    do columns.
    """
    taps = ((2, 0), (None, 1))
    phases = weight.new_zeros((2, 2, *weight.shape[:2], 2, 2))
    for a in range(2):
        for b in range(2):
            for i, row in enumerate(taps[a]):
                for j, column in enumerate(taps[b]):
                    if row is not None and column is not None:
                        phases[a, b, :, :, i, j] = weight[:, :, row, column]
    return phases.flatten(0, 2)


def folded(weight: Tensor, kernel: Tensor) -> Tensor:
    """The same with the filter after it: (O, I, 3, 3), (4, 4) -> (4 O, I, 3, 3), for `conv2d` with padding 1."""
    whole = fold(weight, kernel, flip=False)  # (O, I, 6, 6), of a transposed convolution with padding 2
    phases = [whole[:, :, a : a + 5 : 2, b : b + 5 : 2].flip(2, 3) for a in range(2) for b in range(2)]
    return torch.cat(phases)


def capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being recorded."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _kept(weights: dict[tuple[str, bool], Tensor], key: tuple[str, bool], make: Callable[[], Tensor]) -> Tensor:
    if key in weights:
        return weights[key]
    weight = make()
    if not capturing(weight):  # what is made in a recording lives in its memory
        weights[key] = weight
    return weight


def _laid_out(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=LAST)
