"""The inside of the mouth: two rows of teeth on an arch, seen through the lips, and what is behind them.

MakeHuman's head has no teeth. A ray through each pixel of the mouth's cavity is met with a parabolic arch in the
head's own frame, and the teeth are painted where it lands.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sam_age.lifespan.asset import MOUTH, SOCKET, TONGUE, HeadAsset
from sam_age.lifespan.camera import View
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import bump, step, unit
from sam_age.lifespan.head import Heads
from sam_age.lifespan.images import blur, gather, scatter
from sam_age.lifespan.rows import at, turned
from sam_age.lifespan.surface import Surface

_LANDMARK = (0.0, -0.1627, 0.849)  # canonical: below the nose, which moves with the upper jaw
_TOOTH = 0.0074  # metres, width of an upper front tooth


class Teeth(NamedTuple):
    """What the mouth's inside looks like at each visible point of the head; elsewhere nothing."""

    inside: Tensor  # (P,) bool: cavity, tongue or socket
    albedo: Tensor  # (P, 3)
    tooth: Tensor  # (P,) share of tooth or gum


def paint_mouth(cast: Cast, surface: Surface, heads: Heads, view: View, asset: HeadAsset, size: int) -> Teeth:
    """Colours of the cavities, teeth included."""
    kind = surface.kind
    albedo = surface.position.new_zeros(len(kind), 3)
    for part, colour in ((MOUTH, (0.16, 0.035, 0.03)), (TONGUE, (0.42, 0.14, 0.13)), (SOCKET, (0.26, 0.10, 0.08))):
        albedo = torch.where((kind == part)[:, None], albedo.new_tensor(colour), albedo)
    tooth = torch.zeros_like(surface.occlusion)
    mouth = ((kind == MOUTH) | (kind == TONGUE)).nonzero()[:, 0]
    if len(mouth):
        colour, share = _teeth(cast, surface.of(mouth), heads, view, asset)
        spread = gather(blur(_mask(surface, mouth, len(cast), size), 2.2 * size / 512), surface.pixel[mouth])[:, 0]
        share = share * (0.25 + 0.75 * step(0.30, 0.75, spread))  # darker towards the lips
        share = share * step(0.6, 2.0, cast.age)[surface.b[mouth]]  # newborns have none
        albedo[mouth] = albedo[mouth] + share[:, None] * (colour - albedo[mouth])
        tooth[mouth] = share
    return Teeth((kind == MOUTH) | (kind == TONGUE) | (kind == SOCKET), albedo, tooth)


def _mask(surface: Surface, where: Tensor, batch: int, size: int) -> Tensor:
    return scatter(torch.ones(len(where), 1, device=where.device), surface.pixel[where], batch, size)


def _teeth(cast: Cast, mouth: Surface, heads: Heads, view: View, asset: HeadAsset) -> tuple[Tensor, Tensor]:
    """Colour (P, 3), and share (P,) of what is tooth or gum."""
    b = mouth.b
    below_nose = int((asset.template - asset.template.new_tensor(_LANDMARK)).abs().sum(1).argmin())
    mark, eyes = heads.vertices[:, below_nose], heads.eyes.mean(1)
    canonical_eyes = torch.cat([asset.template[index] for index in asset.eye_vertices])[:, 2].mean()
    stretch = (eyes[:, 2] - mark[:, 2]) / (canonical_eyes - asset.template[below_nose, 2])
    lips = heads.vertices[:, (asset.lips > 0.5).nonzero()[:, 0]]
    front = lips[..., 1].amin(1) + 0.0105 * stretch  # of the upper front teeth
    bite = mark[:, 2] - 0.0200 * stretch

    origin = _unturned(view, view.camera, torch.arange(len(cast), device=b.device))[b]
    point = _unturned(view, mouth.position, b)
    ray = unit(point - origin)
    stretch, front = at(stretch, b), at(front, b)
    x = torch.zeros_like(front)
    for _ in range(3):  # the arch recedes with x, which depends on where the ray meets it
        depth = front + (0.011 / stretch) * (x / 0.022) ** 2
        hit = origin + ray * ((depth - origin[:, 1]) / ray[:, 1])[:, None]
        x = (hit[:, 0] - at(mark[:, 0], b)) / stretch
    z = (hit[:, 2] - at(bite, b)) / stretch

    place = x.abs() / _TOOTH
    off = (place - place.round()).abs()
    gap, edge = bump(off, 0, 0.06) * 0.35, 0.0006 * torch.cos(place * 6.283)
    upper, lower = step(-0.0012, 0.0002, z + edge), step(-0.0035, -0.0048, z) * 0.75 * step(-0.0145, -0.0125, z)
    share = (upper + lower).clamp(0, 1) * step(0.027, 0.025, x.abs()) * (point[:, 1] - front > -0.004)
    old = step(30, 84, at(cast.age, b))
    white = x.new_tensor([0.88, 0.83, 0.72]) * (1 - old[:, None] * x.new_tensor([0.066, 0.11, 0.22]))
    white = white * ((1 - gap) * (1 - 0.75 * (x.abs() / 0.026).clamp(0, 1) ** 1.5))[:, None]
    gum = step(0.0085, 0.0100, z)[:, None]
    return white + gum * (x.new_tensor([0.315, 0.112, 0.105]) - white), share


def _unturned(view: View, points: Tensor, b: Tensor) -> Tensor:
    """World (P, 3) back to the head's own frame."""
    return turned(view.turn.transpose(1, 2), points - at(view.pivot, b), b) + at(view.pivot, b)
