"""StyleGAN2 generator and discriminator, with rosinality's state-dict keys.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020: the skip
generator and the residual discriminator (section 4.1, config F), minibatch standard deviation as in
Karras et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sam_age.models import fused as fast
from sam_age.models.fused import learning
from sam_age.models.ops import (
    SQRT2,
    Blur,
    EqualConv2d,
    EqualLinear,
    FusedLeakyReLU,
    ModulatedConv2d,
    PixelNorm,
    Upsample,
    down_convolve,
    down_padding,
    fir_kernel,
)

Noise = str | Sequence[Tensor]
"""Where the per-pixel noise comes from: "stored" (the buffers), "random", or one map per layer."""


def channels_at(resolution: int, channel_multiplier: float, channel_max: int) -> int:
    """Feature maps at a resolution: halved with every doubling, at most `channel_max`.

    >>> [channels_at(r, 2, 512) for r in (4, 32, 64, 128, 1024)]
    [512, 512, 512, 256, 32]
    """
    return max(1, min(channel_max, int(16384 * channel_multiplier) // resolution))


def check_size(size: int) -> int:
    """log2 of an image size that StyleGAN2 can have, or ValueError."""
    if size < 8 or size > 1024 or size & (size - 1):
        raise ValueError(f"The image size must be a power of two from 8 to 1024, not {size}.")
    return int(math.log2(size))


class NoiseInjection(nn.Module):
    """Add noise of a learned strength to every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + (self.weight * noise).to(x.dtype)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias and activation."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        style_dim: int,
        taps: Sequence[float],
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, channels, 3, style_dim, resample=resample, taps=taps)
        self.noise = NoiseInjection()
        self.activate = FusedLeakyReLU(channels)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        x, gain = self.conv.without_gain(x, w)
        if learning.serves(x, once=True):
            return learning.activate(x, self.activate.bias, gain, noise, self.noise.weight)
        return self.activate(self.noise(x * gain[:, :, None, None].to(x.dtype), noise))


class ToRGB(nn.Module):
    """Features -> RGB, added to the upsampled image of the resolution below."""

    def __init__(self, in_channels: int, style_dim: int, taps: Sequence[float], upsample: bool = True) -> None:
        super().__init__()
        if upsample:
            self.upsample = Upsample(taps)
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, w: Tensor, image: Tensor | None = None) -> Tensor:
        rgb = self.conv(x, w)
        rgb = rgb + self.bias.to(rgb.dtype)
        return rgb if image is None else rgb + self.upsample(image)


class ConstantInput(nn.Module):
    """The learned 4x4 map that every image starts from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        return self.input.expand(batch, -1, -1, -1)


class Generator(nn.Module):
    """StyleGAN2: z -> w -> image.

    Args:
        size: side of the image in pixels, a power of two up to 1024.
        style_dim: length of z and w.
        n_mlp: layers of the mapping network.
        channel_multiplier: scales all widths; 2 is config F, 1 halves the layers above 32 pixels.
        channel_max: widest layer; with a fractional multiplier this makes small models.
        blur_kernel: taps of the resampling filter.
        lr_mlp: learning-rate multiplier of the mapping network.
        fused: Triton kernels for synthesis with frozen weights. "auto": where they serve (a GPU with Triton, bfloat16
            or float32, no gradients for weights or of gradients); False: never; True: always, or say why not.
        form: of the fused path's layers, one of `models.fused.convolutions.DOUBLING` or `KEEPING`, for the layers that
            have it; "auto": whichever is fastest on the device, timed in the first calls.

    `fused` and `form` are attributes too, and no part of `config`: they change no result beyond rounding.

    `latent_avg` (style_dim,) is the centre of W, used for truncation and as the start of w+ codes. It is
    not part of the state dict (rosinality keeps it beside); `sam_age.weights.load` sets it.

    >>> generator = Generator(32, style_dim=16, n_mlp=2, channel_multiplier=0.0625, channel_max=16)
    >>> generator(torch.randn(2, 16)).shape
    torch.Size([2, 3, 32, 32])
    """

    latent_avg: Tensor

    def __init__(
        self,
        size: int = 1024,
        style_dim: int = 512,
        n_mlp: int = 8,
        channel_multiplier: float = 2,
        channel_max: int = 512,
        blur_kernel: Sequence[float] = (1, 3, 3, 1),
        lr_mlp: float = 0.01,
        fused: bool | str = "auto",
        form: str = "auto",
    ) -> None:
        super().__init__()
        self.fused, self.form = fused, form
        log_size = check_size(size)
        self.config = {
            "size": size,
            "style_dim": style_dim,
            "n_mlp": n_mlp,
            "channel_multiplier": channel_multiplier,
            "channel_max": channel_max,
            "blur_kernel": list(blur_kernel),
            "lr_mlp": lr_mlp,
        }
        self.size, self.style_dim = size, style_dim
        self.n_latent = 2 * log_size - 2
        self.n_noise = 2 * log_size - 3

        self.style = nn.Sequential(
            PixelNorm(),
            *(EqualLinear(style_dim, style_dim, lr_mul=lr_mlp, activate=True) for _ in range(n_mlp)),
        )
        width = channels_at(4, channel_multiplier, channel_max)
        self.input = ConstantInput(width)
        self.conv1 = StyledConv(width, width, style_dim, blur_kernel)
        self.to_rgb1 = ToRGB(width, style_dim, blur_kernel, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for level in range(3, log_size + 1):
            below, width = width, channels_at(2**level, channel_multiplier, channel_max)
            self.convs.append(StyledConv(below, width, style_dim, blur_kernel, resample="up"))
            self.convs.append(StyledConv(width, width, style_dim, blur_kernel))
            self.to_rgbs.append(ToRGB(width, style_dim, blur_kernel))

        self.noises = nn.Module()
        for layer in range(self.n_noise):
            side = 2 ** ((layer + 5) // 2)
            self.noises.register_buffer(f"noise_{layer}", torch.randn(1, 1, side, side))
        self.register_buffer("latent_avg", torch.zeros(style_dim), persistent=False)

    def mapping(self, z: Tensor) -> Tensor:
        """z (N, style_dim), unit normal -> w (N, style_dim)."""
        return self.style(z)

    @torch.no_grad()
    def mean_latent(self, samples: int = 4096, generator: torch.Generator | None = None) -> Tensor:
        """Average w of `samples` random z: (1, style_dim). `generator` makes it repeatable."""
        weight = self.input.input
        z = torch.randn(samples, self.style_dim, generator=generator, dtype=weight.dtype, device="cpu")
        return self.mapping(z.to(weight.device)).mean(0, keepdim=True)

    def noise_maps(self, noise: Noise, batch: int) -> list[Tensor]:
        """One (1 or N, 1, S, S) map per layer, from "stored", "random" or given maps."""
        stored = [getattr(self.noises, f"noise_{layer}") for layer in range(self.n_noise)]
        if isinstance(noise, str):
            if noise == "stored":
                return stored
            if noise == "random":
                return [
                    torch.randn(batch, 1, *m.shape[2:], dtype=self.input.input.dtype, device=m.device) for m in stored
                ]
            raise ValueError(f'noise is "stored", "random" or a list of maps, not {noise!r}.')
        if len(noise) != self.n_noise:
            raise ValueError(f"A {self.size}-pixel generator takes {self.n_noise} noise maps, not {len(noise)}.")
        return list(noise)

    def synthesize(
        self, w_plus: Tensor, noise: Noise = "stored", return_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """One style vector per layer -> image.

        Args:
            w_plus: (N, n_latent, style_dim).
            noise: "stored" (repeatable), "random", or n_noise maps.
            return_features: also give the activations before the last ToRGB.
        Returns:
            (N, 3, size, size), nominally in [-1, 1] but not clipped; and (N, C, size, size) if asked. Under autocast
            the plain path gives autocast's dtype, the fused one that of w_plus.
        """
        if w_plus.ndim != 3 or w_plus.shape[1:] != (self.n_latent, self.style_dim):
            raise ValueError(
                f"w_plus is (N, {self.n_latent}, {self.style_dim}) for {self.size} pixels, not {tuple(w_plus.shape)}."
            )
        batch = w_plus.shape[0]  # len() would fix the size of the batch in an exported graph
        maps = self.noise_maps(noise, batch)
        if self._goes_fast(w_plus, maps):
            from sam_age.models.fused.synthesis import synthesize

            dtype = fast.compute_dtype(self, w_plus.device)
            return synthesize(self, w_plus, maps, dtype, features=return_features)
        x = self.conv1(self.input(batch), w_plus[:, 0], maps[0])
        image = self.to_rgb1(x, w_plus[:, 1])
        for block, to_rgb in enumerate(self.to_rgbs):
            layer = 1 + 2 * block  # ToRGB shares its style with the next block's first convolution
            x = self.convs[2 * block](x, w_plus[:, layer], maps[layer])
            x = self.convs[2 * block + 1](x, w_plus[:, layer + 1], maps[layer + 1])
            image = to_rgb(x, w_plus[:, layer + 2], image)
        return (image, x) if return_features else image

    def _goes_fast(self, w_plus: Tensor, maps: list[Tensor]) -> bool:
        """Whether synthesis takes the fused path: here alone it is decided."""
        if self.fused is False:
            return False
        if self.fused not in (True, "auto"):
            raise ValueError(f'fused is True, False or "auto", not {self.fused!r}.')
        reason = fast.reason_against(self, w_plus, maps)
        if reason is not None and self.fused is True:
            raise ValueError(f'The fused generator cannot run: {reason}. Set fused to "auto" or False.')
        return reason is None

    def forward(
        self,
        z: Tensor,
        z_mix: Tensor | None = None,
        inject_index: int | None = None,
        truncation: float = 1.0,
        truncation_latent: Tensor | None = None,
        noise: Noise = "random",
        return_latents: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """z (N, style_dim) -> image (N, 3, size, size), and w+ if asked.

        Args:
            z_mix, inject_index: style mixing; layers from inject_index on take their style from z_mix.
            truncation: 1 keeps w, 0 gives the average face.
            truncation_latent: centre of truncation, `latent_avg` unless given.
        """
        centre = self.latent_avg if truncation_latent is None else truncation_latent
        codes = []
        for latent in (z,) if z_mix is None else (z, z_mix):
            w = self.mapping(latent)
            codes.append(w if truncation == 1 else centre + truncation * (w - centre))
        if len(codes) == 1:
            w_plus = codes[0][:, None].expand(-1, self.n_latent, -1)
        else:
            if inject_index is None or not 0 <= inject_index <= self.n_latent:
                raise ValueError(f"Style mixing needs inject_index in 0..{self.n_latent}, not {inject_index}.")
            w_plus = torch.cat(
                [
                    codes[0][:, None].expand(-1, inject_index, -1),
                    codes[1][:, None].expand(-1, self.n_latent - inject_index, -1),
                ],
                dim=1,
            )
        image = self.synthesize(w_plus, noise)
        return (image, w_plus) if return_latents else image


class ConvLayer(nn.Sequential):
    """Discriminator layer: optional blur and stride 2, convolution, optional biased activation."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        size: int,
        taps: Sequence[float],
        down: bool = False,
        activate: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        if down:
            layers.append(Blur(taps, pad=down_padding(fir_kernel(taps), size)))
        stride, padding = (2, 0) if down else (1, size // 2)
        layers.append(EqualConv2d(in_channels, channels, size, stride, padding, bias=False))
        if activate:
            layers.append(FusedLeakyReLU(channels))
        super().__init__(*layers)
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        if not self.down:
            return super().forward(x)
        blur, conv, *activation = self
        x = down_convolve(x, conv.weight * conv.scale, blur.kernel)
        return activation[0](x) if activation else x


class ResBlock(nn.Module):
    """Two convolutions and a skip, halving the resolution."""

    def __init__(self, in_channels: int, channels: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels, 3, taps)
        self.conv2 = ConvLayer(in_channels, channels, 3, taps, down=True)
        self.skip = ConvLayer(in_channels, channels, 1, taps, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / SQRT2


GROUP = 4
"""Samples whose spread the discriminator sees."""


def minibatch_stddev(x: Tensor, group: int = GROUP) -> Tensor:
    """Append the mean standard deviation within groups of samples as one more channel.

    Sample i belongs with i + batch/group, i + 2 batch/group, ...; a batch that 4 does not divide uses the
    largest group that does.
    """
    batch, channels, height, width = x.shape
    group = next(g for g in range(min(group, batch), 0, -1) if batch % g == 0)
    grouped = x.reshape(group, batch // group, channels, height, width)
    stddev = torch.sqrt(grouped.var(0, unbiased=False) + 1e-8).mean((1, 2, 3))
    return torch.cat([x, stddev.repeat(group)[:, None, None, None].expand(-1, 1, height, width)], 1)


def side_by_side(one: Tensor, other: Tensor) -> Tensor:
    """Two batches (N, ...), N a multiple of `GROUP`, as one (2 N, ...) in which no group of `minibatch_stddev` has
    samples of both, and each has those that it has alone: `taken_apart` undoes it."""
    return torch.cat([part for pair in zip(one.chunk(GROUP), other.chunk(GROUP), strict=True) for part in pair])


def taken_apart(joined: Tensor) -> tuple[Tensor, Tensor]:
    """What was `side_by_side`: (2 N, ...) -> twice (N, ...)."""
    parts = joined.chunk(2 * GROUP)
    return torch.cat(parts[0::2]), torch.cat(parts[1::2])


class Discriminator(nn.Module):
    """StyleGAN2's residual discriminator: images (N, 3, size, size) in [-1, 1] -> scores (N, 1)."""

    def __init__(
        self,
        size: int = 1024,
        channel_multiplier: float = 2,
        channel_max: int = 512,
        blur_kernel: Sequence[float] = (1, 3, 3, 1),
    ) -> None:
        super().__init__()
        log_size = check_size(size)
        self.config = {
            "size": size,
            "channel_multiplier": channel_multiplier,
            "channel_max": channel_max,
            "blur_kernel": list(blur_kernel),
        }
        width = channels_at(size, channel_multiplier, channel_max)
        layers: list[nn.Module] = [ConvLayer(3, width, 1, blur_kernel)]
        for level in range(log_size, 2, -1):
            above, width = width, channels_at(2 ** (level - 1), channel_multiplier, channel_max)
            layers.append(ResBlock(above, width, blur_kernel))
        self.convs = nn.Sequential(*layers)
        self.final_conv = ConvLayer(width + 1, width, 3, blur_kernel)
        self.final_linear = nn.Sequential(EqualLinear(width * 16, width, activate=True), EqualLinear(width, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.final_conv(minibatch_stddev(self.convs(images)))
        return self.final_linear(x.flatten(1))
