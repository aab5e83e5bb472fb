"""Four fields of random texture that tile the plane: blotch, mottle, coarse pores, pores."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from sam_age.lifespan.dice import normals

_SIZE = 512
# lowest and highest cycles in a tile, and how fast amplitude falls with frequency
_BANDS = ((2, 8, 1.0), (6, 30, 1.0), (30, 110, 0.5), (90, 250, 0.0))


@lru_cache(maxsize=4)
def _tile(device: str) -> Tensor:
    """(1, 4, SIZE + 2, SIZE + 2) unit variance, with a border of one texel repeated from the other side."""
    y = torch.fft.fftfreq(_SIZE, dtype=torch.float64)[:, None] * _SIZE
    x = torch.fft.rfftfreq(_SIZE, dtype=torch.float64)[None] * _SIZE
    frequency = (x**2 + y**2).sqrt()
    index = torch.arange(frequency.numel())
    fields = []
    for band, (low, high, slope) in enumerate(_BANDS):
        weight = torch.exp(-((low / frequency.clamp(min=1e-3)) ** 4)) * torch.exp(-((frequency / high) ** 4))
        weight = weight / frequency.clamp(min=1) ** slope
        weight[0, 0] = 0
        spectrum = torch.complex(
            *(normals(torch.tensor(7), index, 2 * band + k).double().view_as(frequency) for k in (0, 1))
        )
        field = torch.fft.irfft2(spectrum * weight, (_SIZE, _SIZE))
        fields.append(field / field.std())
    return pad(torch.stack(fields)[None].float(), (1, 1, 1, 1), mode="circular").to(device)


def noise(uv: Tensor) -> Tensor:
    """Look the four fields up, bilinearly.

    Args:
        uv: (P, 2) in tiles; a step of 1 comes back to the same texel.
    Returns:
        (P, 4), each about standard normal over the tile.
    """
    tile = _tile(str(uv.device))
    texel = torch.remainder(uv, 1) * _SIZE + 1  # in the padded tile, from its corner
    grid = texel * (2 / (_SIZE + 2)) - 1
    return grid_sample(tile, grid[None, None], mode="bilinear", align_corners=False)[0, :, 0].T
