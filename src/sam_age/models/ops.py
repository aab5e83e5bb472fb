"""StyleGAN2's building blocks in plain PyTorch: any device, any float dtype, differentiable twice.

Written from StyleGAN2 (Karras et al. 2020) so that parameters carry the names and scales of rosinality's
state dicts. Modulated convolutions share one weight across the batch (scale the input, convolve once,
scale the output): equal to the per-sample weights of eq. 1-3, without a grouped convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.models.convolve import conv2d, conv_transpose2d
from sam_age.models.fused import learning

SQRT2 = math.sqrt(2)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fir_kernel(taps: Sequence[float], gain: float = 1.0) -> Tensor:
    """Outer product of 1-D filter taps with itself, summing to `gain`: (K,) -> (K, K)."""
    kernel = torch.tensor(taps, dtype=torch.float32)
    kernel = kernel[:, None] * kernel[None, :]
    return kernel * (gain / kernel.sum())


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Upsample with zeros, pad, convolve with an FIR kernel, subsample.

    Args:
        x: (N, C, H, W).
        kernel: (KH, KW); a true convolution, so it is flipped.
        up, down: integer factors.
        pad: zeros before and after, the same on both axes; negative values crop.
    Returns:
        (N, C, H', W') with H' = (H up + pad[0] + pad[1] - KH) // down + 1.
    """
    if kernel.shape == (learning.TAPS, learning.TAPS) and max(up, down) <= 2 and learning.serves(x):
        return learning.resample(x, kernel, up, down, pad)
    channels, height, width = x.shape[1:]
    if up > 1:
        x = x[..., :, None, :, None]
        x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(-1, channels, height * up, width * up)
    if pad != (0, 0):
        x = F.pad(x, (*pad, *pad))
    kernel = kernel.flip(0, 1).to(x.dtype)
    if torch.compiler.is_compiling() and not _exporting():
        return _shifted_sum(x, kernel, down)
    return F.conv2d(x, kernel.expand(channels, 1, -1, -1), stride=down, groups=channels)


def _exporting() -> bool:
    """Inside torch.export, where nothing fuses passes: onnxruntime takes half the time with filters as convolutions."""
    return getattr(torch.compiler, "is_exporting", lambda: False)()  # not in torch before 2.7


def _shifted_sum(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Correlation of each channel with a kernel, tap by tap: a compiler makes one pass of it, together with what is
    done before and after."""
    rows, columns = (side - taps + 1 for side, taps in zip(x.shape[2:], kernel.shape, strict=True))
    taps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    return sum(kernel[i, j] * x[..., i : i + rows : stride, j : j + columns : stride] for i, j in taps)


def folds_filters(x: Tensor) -> bool:
    """Whether filters are folded into the weights beside them: on GPUs without a kernel for filters, where one of its
    own is a slow pass over memory and four times the products are cheap. A CPU multiplies slowly, and a compiler makes
    the filter a part of another pass."""
    return x.is_cuda and not torch.compiler.is_compiling() and not learning.serves(x)


def fold(weight: Tensor, kernel: Tensor, *, flip: bool) -> Tensor:
    """A convolution's weight and the FIR filter before or after it, as one weight.

    Args:
        weight: (O, I, K, K), as `conv2d` takes it.
        kernel: (F, F), as `upfirdn2d` takes it.
        flip: for a filter before `conv2d`; False for one after `conv_transpose2d`.
    Returns:
        (O, I, K + F - 1, K + F - 1).
    """
    size = weight.shape[-1]
    kernel = (kernel if flip else kernel.flip(0, 1)).to(weight.dtype)  # conv2d correlates, with the other side of it
    with torch.autocast(weight.device.type, enabled=False):
        one = torch.eye(size**2, dtype=weight.dtype, device=weight.device).reshape(-1, 1, size, size)
        spread = F.conv2d(one, kernel[None, None], padding=len(kernel) - 1)  # where each entry of the weight goes
        folded = weight.flatten(2) @ spread.flatten(1)
    return folded.reshape(*weight.shape[:2], *spread.shape[2:])


def leaky_relu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """sqrt(2) LeakyReLU(x + bias) with slope 0.2; bias (C,) goes to dimension 1 of x."""
    if bias is not None:
        if learning.serves(x, once=True):
            return learning.activate(x, bias)
        x = x + bias.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))
    return F.leaky_relu(x, 0.2) * SQRT2


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    up_kernel: Tensor | None = None,
    down_kernel: Tensor | None = None,
) -> Tensor:
    """Convolve each sample with `weight` scaled by its style (StyleGAN2, eq. 1-3).

    Args:
        x: (N, I, H, W).
        weight: (O, I, K, K), K odd, already at its runtime scale.
        style: (N, I), one factor per input channel.
        demodulate: rescale so that each output channel keeps unit expected variance.
        up_kernel: FIR kernel (sum 4); doubles the resolution by transposed convolution and this blur.
        down_kernel: FIR kernel (sum 1); blurs, then halves the resolution.
    Returns:
        (N, O, H, W), doubled or halved as asked.
    """
    x, gain = modulated_without_gain(
        x, weight, style, demodulate=demodulate, up_kernel=up_kernel, down_kernel=down_kernel
    )
    return x if gain is None else x * gain[:, :, None, None].to(x.dtype)


def modulated_without_gain(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    up_kernel: Tensor | None = None,
    down_kernel: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`modulated_conv2d` but for its last step: (N, O, H, W), and what it is to be multiplied by, (N, O), or None."""
    style = at_least_float32(style)
    gain = None
    if demodulate:
        power = weight.to(style.dtype).square().sum((2, 3))  # (O, I): the kernel's taps share one style
        with torch.autocast(x.device.type, enabled=False):
            gain = torch.rsqrt(style.square() @ power.T + 1e-8)
        if x.dtype == torch.float16:  # keep x * style in range; demodulation undoes it
            peak = style.abs().amax(1, keepdim=True).clamp_min(1e-8)
            style, gain = style / peak, gain * peak
    x = learning.modulate(x, style) if learning.serves(x, once=True) else x * style[:, :, None, None].to(x.dtype)
    size = weight.shape[-1]
    if up_kernel is not None:
        x = up_convolve(x, weight, up_kernel)
    elif down_kernel is not None:
        x = down_convolve(x, weight, down_kernel)
    else:
        x = conv2d(x, weight.to(x.dtype), padding=size // 2)
    return x, gain


def up_convolve(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """Transposed convolution with stride 2, then an FIR filter (sum 4): (N, I, H, W) -> (N, O, 2H, 2W)."""
    size = weight.shape[-1]
    # the transposed convolution leaves 2H + size - 2 rows; the filter trims them to 2H
    excess = (kernel.shape[0] - 2) - (size - 1)
    before, after = (excess + 1) // 2 + 1, excess // 2 + 1
    if folds_filters(x) and before == after:
        whole = fold(weight, kernel, flip=False).to(x.dtype)
        return conv_transpose2d(x, whole.transpose(0, 1), stride=2, padding=len(kernel) - 1 - before)
    x = conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2)
    return upfirdn2d(x, kernel, pad=(before, after))


def down_convolve(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """An FIR filter (sum 1), then a convolution with stride 2: (N, I, H, W) -> (N, O, H / 2, W / 2)."""
    before, after = down_padding(kernel, weight.shape[-1])
    if folds_filters(x) and before == after:
        return conv2d(x, fold(weight, kernel, flip=True).to(x.dtype), stride=2, padding=before)
    x = upfirdn2d(x, kernel, pad=(before, after))
    return conv2d(x, weight.to(x.dtype), stride=2)


def down_padding(kernel: Tensor, conv_size: int) -> tuple[int, int]:
    """Zeros around the blur so that a stride-2, unpadded convolution gives exactly half the size."""
    total = (kernel.shape[0] - 2) + (conv_size - 1)
    return (total + 1) // 2, total // 2


class PixelNorm(nn.Module):
    """Scale each latent to unit mean square: (N, D) -> (N, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: the stored weight is unit normal / lr_mul.

    It always runs at the precision of its weights, autocast or not: it makes styles, whose rounding
    would scale whole feature maps.
    """

    def __init__(
        self, in_dim: int, out_dim: int, bias_init: float = 0.0, lr_mul: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_dim,), float(bias_init)))
        self.scale, self.lr_mul, self.activate = lr_mul / math.sqrt(in_dim), lr_mul, activate

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = F.linear(x.to(self.weight.dtype), self.weight * self.scale)
            bias = self.bias * self.lr_mul
            return leaky_relu(x, bias) if self.activate else x + bias


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate: unit-normal weights, scaled at run time."""

    def __init__(
        self, in_channels: int, channels: int, size: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.scale, self.stride, self.padding = 1 / math.sqrt(in_channels * size**2), stride, padding

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.scale).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return conv2d(x, weight, bias, stride=self.stride, padding=self.padding)


class FusedLeakyReLU(nn.Module):
    """Per-channel bias, LeakyReLU 0.2, gain sqrt(2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.bias)


class Blur(nn.Module):
    """FIR low-pass filter with fixed padding; `gain` 4 makes up for zeros inserted before it."""

    def __init__(self, taps: Sequence[float], pad: tuple[int, int] = (0, 0), gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("kernel", fir_kernel(taps, gain))
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn2d(x, self.kernel, pad=self.pad)


class Upsample(nn.Module):
    """Double the resolution with an FIR filter."""

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("kernel", fir_kernel(taps, gain=4.0))
        excess = self.kernel.shape[0] - 2
        self.pad = ((excess + 1) // 2 + 1, excess // 2)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return upfirdn2d(x, self.kernel, up=2, pad=self.pad)
        # of convolutions by group a GPU takes the gradients, and more so theirs, very slowly: two products instead
        rows, columns = (self._enlarging(side, x) for side in x.shape[2:])
        return rows @ x @ columns.T

    def _enlarging(self, side: int, x: Tensor) -> Tensor:
        """(2 side, side): the filter, an outer product of one with itself, along one axis."""
        taps = (self.kernel.sum(1) / self.kernel.sum().sqrt()).to(x.dtype)
        one = torch.eye(side, dtype=x.dtype, device=x.device)
        spaced = F.pad(torch.stack([one, torch.zeros_like(one)], 2).flatten(1), self.pad)
        return spaced.unfold(1, len(taps), 1).matmul(taps.flip(0)).T


class ModulatedConv2d(nn.Module):
    """Style -> modulated convolution; `resample` is None, "up" or "down"."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        size: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        resample: str | None = None,
        taps: Sequence[float] = (1, 3, 3, 1),
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, in_channels, size, size))
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.scale = 1 / math.sqrt(in_channels * size**2)
        self.demodulate, self.resample = demodulate, resample
        if resample is not None:  # only its kernel is used: it is a state-dict entry of the authors' files
            self.blur = Blur(taps, gain=4.0 if resample == "up" else 1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x: (N, I, H, W), w: (N, style_dim) -> (N, O, H, W), doubled or halved as built."""
        x, gain = self.without_gain(x, w)
        return x if gain is None else x * gain[:, :, None, None].to(x.dtype)

    def without_gain(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """`forward` but for its last step, see `modulated_without_gain`."""
        return modulated_without_gain(
            x,
            self.weight[0] * self.scale,
            self.modulation(w),
            demodulate=self.demodulate,
            up_kernel=self.blur.kernel if self.resample == "up" else None,
            down_kernel=self.blur.kernel if self.resample == "down" else None,
        )
