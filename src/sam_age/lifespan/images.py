"""Small image operations that several stages share: blur, and scattering pixels into pictures and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

_WIDE = 1.6  # pixels of sigma from which a blur is done at half size


def gaussian_kernel(sigma: float) -> list[float]:
    """1-D, cut at 2.5 sigma, sums to 1."""
    reach = math.ceil(2.5 * sigma)
    kernel = [math.exp(-0.5 * (t / sigma) ** 2) for t in range(-reach, reach + 1)]
    return [weight / sum(kernel) for weight in kernel]


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (..., H, W), zeros outside; `sigma` in pixels.

    Wide blurs work on pictures of half the size, as often as they stay wide: many times as fast, and off by less
    than a hundredth of the contrast. Shifted sums, because a convolution of one channel is slow on CPUs.
    """
    shape = images.shape
    if sigma > _WIDE and shape[-1] % 2 == 0 and shape[-2] % 2 == 0:
        # pooling two pixels and reading between them blur by a variance of a quarter pixel and of about a half
        half = blur(avg_pool2d(images.reshape(-1, 1, *shape[-2:]), 2), (sigma**2 - 0.75) ** 0.5 / 2)
        return interpolate(half, scale_factor=2, mode="bilinear", align_corners=False).view(shape)
    kernel = gaussian_kernel(sigma)
    for dim in (-2, -1):
        images = _smear(images, kernel, dim)
    return images


def _smear(images: Tensor, kernel: list[float], dim: int) -> Tensor:
    out = torch.zeros_like(images)
    length, reach = images.shape[dim], len(kernel) // 2
    for k, weight in enumerate(kernel):
        shift = k - reach
        here, there = max(0, -shift), max(0, shift)
        n = length - abs(shift)
        if n > 0:
            out.narrow(dim, here, n).add_(images.narrow(dim, there, n), alpha=weight)
    return out


def scatter(values: Tensor, pixel: Tensor, batch: int, size: int) -> Tensor:
    """Pixel values (P, C) laid into black pictures (B, C, size, size); `pixel` indexes B * size * size."""
    flat = values.new_zeros(batch * size * size, values.shape[1])
    flat[pixel] = values
    return flat.view(batch, size, size, -1).permute(0, 3, 1, 2)


def gather(images: Tensor, pixel: Tensor) -> Tensor:
    """The inverse of `scatter`: (B, C, H, W) -> (P, C)."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])[pixel]
