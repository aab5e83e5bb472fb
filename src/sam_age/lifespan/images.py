"""Small image operations that several stages share: blur, and scattering pixels into pictures and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def gaussian_kernel(sigma: float, device: torch.device | str = "cpu") -> Tensor:
    """1-D, cut at 2.5 sigma, sums to 1."""
    reach = math.ceil(2.5 * sigma)
    t = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
    kernel = torch.exp(-0.5 * (t / sigma) ** 2)
    return kernel / kernel.sum()


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (..., H, W), zeros outside; `sigma` in pixels."""
    shape = images.shape
    kernel = gaussian_kernel(sigma, images.device)
    reach = len(kernel) // 2
    flat = images.reshape(-1, 1, *shape[-2:])
    flat = conv2d(
        conv2d(flat, kernel.view(1, 1, -1, 1), padding=(reach, 0)), kernel.view(1, 1, 1, -1), padding=(0, reach)
    )
    return flat.view(shape)


def scatter(values: Tensor, pixel: Tensor, batch: int, size: int) -> Tensor:
    """Pixel values (P, C) laid into black pictures (B, C, size, size); `pixel` indexes B * size * size."""
    flat = values.new_zeros(batch * size * size, values.shape[1])
    flat[pixel] = values
    return flat.view(batch, size, size, -1).permute(0, 3, 1, 2)


def gather(images: Tensor, pixel: Tensor) -> Tensor:
    """The inverse of `scatter`: (B, C, H, W) -> (P, C)."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])[pixel]
