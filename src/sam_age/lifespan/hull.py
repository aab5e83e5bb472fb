"""How far the head reaches in every direction: what hair lies upon."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from sam_age.lifespan.asset import SKIN, HeadAsset
from sam_age.lifespan.dice import uniforms
from sam_age.lifespan.head import Heads

AROUND, UP = 72, 36  # cells of longitude and latitude
_SAMPLES = 26_000


def points_on(triangle: Tensor, weights: Tensor, vertices: Tensor, asset: HeadAsset) -> Tensor:
    """Points (B, n, 3) on heads (B, V, 3), given by triangle (n,) and barycentric weights (n, 3)."""
    corners = asset.faces[triangle]
    return sum(vertices[:, corners[:, k]] * weights[:, k, None] for k in range(3))


def scattered(asset: HeadAsset, allowed: Tensor, count: int, stream: int) -> tuple[Tensor, Tensor]:
    """Points spread evenly over the allowed triangles (F,) of the template: triangle (n,), weights (n, 3)."""
    a, b, c = asset.template[asset.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1).double() * allowed
    index = torch.arange(count, device=asset.device)
    seed = torch.tensor(0, device=asset.device)
    u, v, w = (uniforms(seed, index, stream + k) for k in range(3))
    triangle = torch.searchsorted(area.cumsum(0) / area.sum(), u.double()).clamp(max=len(area) - 1)
    root = v.sqrt()
    return triangle, torch.stack([1 - root, root * (1 - w), root * w], 1)


@lru_cache(maxsize=4)
def _shell(asset_device: str) -> tuple[Tensor, Tensor]:
    from sam_age.lifespan.asset import head_asset

    asset = head_asset(asset_device)
    top = asset.template[asset.faces][:, :, 2].amax(1)
    ears = asset.ears[asset.faces].amax(1)
    return scattered(asset, (asset.kind == SKIN) & (top > 0.76) & (ears < 0.3), _SAMPLES, 50)


class Hull:
    """Radius of each head (metres from `heads.centre`) by direction, smooth.

    Ears are left out: hair lies behind and over them.
    """

    def __init__(self, heads: Heads, asset: HeadAsset) -> None:
        away = points_on(*_shell(str(asset.device)), heads.vertices, asset) - heads.centre[:, None]
        radius = away.norm(dim=2)
        column, row = _cell(away / radius[..., None])
        cell = row.long().clamp(0, UP - 1) * AROUND + column.long() % AROUND
        grid = torch.zeros(len(away), UP * AROUND, device=away.device)
        grid.scatter_reduce_(1, cell, radius, "amax", include_self=True)
        grid = grid.view(-1, 1, UP, AROUND)
        for _ in range(UP):  # cells that no point fell into, below the neck
            spread = max_pool2d(_wrapped(grid), 3, stride=1)
            grid = torch.where(grid > 0, grid, spread)
        for _ in range(2):
            grid = avg_pool2d(_wrapped(grid), 3, stride=1)
        self.grid = grid.reshape(len(away), -1)

    def radius(self, direction: Tensor, b: Tensor) -> Tensor:
        """(P,) at unit directions (P, 3)."""
        column, row = _cell(direction)
        column, row = column - 0.5, (row - 0.5).clamp(0, UP - 1.001)
        left, low = column.floor(), row.floor()
        s, t = column - left, row - low
        first = b * (UP * AROUND) + low.long() * AROUND
        left = left.long() % AROUND
        right = (left + 1) % AROUND
        flat = self.grid.view(-1)
        bottom = flat[first + left] * (1 - s) + flat[first + right] * s
        top = flat[first + AROUND + left] * (1 - s) + flat[first + AROUND + right] * s
        return bottom * (1 - t) + top * t


def _cell(direction: Tensor) -> tuple[Tensor, Tensor]:
    x, y, z = direction.unbind(-1)
    column = (torch.atan2(x, -y) / math.pi + 1) * (AROUND / 2)
    return column, (torch.asin(z.clamp(-1, 1)) / math.pi + 0.5) * UP


def _wrapped(grid: Tensor) -> Tensor:
    return pad(pad(grid, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate")
