"""What is seen at each pixel of the head, before it is painted and lit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sam_age.lifespan.asset import HeadAsset
from sam_age.lifespan.curves import unit
from sam_age.lifespan.head import Heads
from sam_age.lifespan.rasterise import Fragments, rasterise


class Surface(NamedTuple):
    """The visible points of all portraits of a batch, one after the other."""

    pixel: Tensor  # (P,) index into B * size * size
    b: Tensor  # (P,) row in the batch, ascending
    kind: Tensor  # (P,) what it belongs to, see `asset`
    position: Tensor  # (P, 3) metres, posed
    normal: Tensor  # (P, 3) unit
    canonical: Tensor  # (P, 3) where on the template
    occlusion: Tensor  # (P,) share of the sky seen
    lips: Tensor  # (P,) masks, 0-1
    ears: Tensor

    def of(self, mask: Tensor) -> Surface:
        """The points where mask (P,) holds."""
        return Surface(*(field[mask] for field in self))


def see(
    pixels: Tensor, posed: Tensor, normals: Tensor, heads: Heads, asset: HeadAsset, size: int
) -> tuple[Surface, Fragments]:
    """Rasterise the heads.

    Args:
        pixels: (B, V, 3) projected vertices.
        posed, normals: (B, V, 3) the same vertices in the world.
        size: side of the pictures.
    """
    seen = rasterise(pixels, asset.faces, size, size)
    corners = asset.faces[seen.triangle]
    b = seen.portrait
    fixed = torch.cat([asset.template, asset.lips[:, None], asset.ears[:, None]], 1)
    vertex = torch.cat([posed, normals, heads.occlusion[..., None], fixed.expand(len(posed), -1, -1)], 2)
    flat, first = vertex.flatten(0, 1), b * vertex.shape[1]
    mean = sum(flat.index_select(0, first + corners[:, k]) * seen.weights[:, k, None] for k in range(3))
    surface = Surface(
        pixel=seen.pixel,
        b=b,
        kind=asset.kind[seen.triangle],
        position=mean[:, :3],
        normal=unit(mean[:, 3:6]),
        canonical=mean[:, 7:10],
        occlusion=mean[:, 6],
        lips=mean[:, 10],
        ears=mean[:, 11],
    )
    return surface, seen
