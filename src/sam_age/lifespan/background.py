"""What is behind the person: a place out of focus, as behind the faces of FFHQ.

A place is painted small and with the range of real light (`places`), then photographed: the lens spreads every point
to a disc, which turns bright specks into bokeh, and darkens the corners.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import step
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.places import MARGIN, PAINTERS, SIDE, Canvas

Colour = tuple[float, float, float]
_WHITEST = 1.3  # radiance where the picture saturates

# Linear RGB of what walls, doors and furniture are made of, and how common they are behind people.
_MATERIALS = {
    (0.70, 0.68, 0.65): 3,  # white paint
    (0.52, 0.48, 0.42): 3,  # plaster
    (0.40, 0.34, 0.27): 2,  # beige
    (0.30, 0.30, 0.31): 3,  # grey
    (0.13, 0.13, 0.14): 2,  # dark grey
    (0.20, 0.24, 0.30): 2,  # blue grey
    (0.24, 0.28, 0.22): 1,  # sage
    (0.30, 0.21, 0.14): 1.5,  # light wood
    (0.13, 0.075, 0.045): 1.5,  # dark wood
    (0.23, 0.11, 0.08): 1,  # brick
    (0.42, 0.50, 0.57): 1,  # pale blue
    (0.045, 0.06, 0.10): 0.7,  # navy
    (0.42, 0.31, 0.16): 0.6,  # ochre
}
# How common a place is, and the lens's blur there: radius of the disc, share of the picture's side.
_PLACES = {
    "studio": (3.0, 0.02, 0.05),
    "wall": (3.0, 0.02, 0.05),
    "window light": (1.5, 0.012, 0.03),
    "room": (5.5, 0.018, 0.065),
    "garden": (3.5, 0.025, 0.075),
    "street": (3.5, 0.02, 0.06),
    "open country": (2.0, 0.012, 0.045),
    "night": (2.0, 0.025, 0.07),
    "facade": (2.0, 0.012, 0.04),
}


@dataclass(frozen=True)
class BackdropTraits:
    """The place and the lens. What stands where is drawn from the scene's seed."""

    kind: int  # which of `places.PAINTERS`
    name: str  # its name
    first: Colour  # of the largest surface, linear RGB albedo
    second: Colour  # of what stands before it
    third: Colour
    light: float  # on the place over that on the person
    warmth: float  # natural log of red over white in the place's light
    slope: tuple[float, float]  # natural log by which light grows across the picture, and down it
    blur: float  # radius of the disc that the lens makes of a point, share of the picture's side
    vignette: float  # share of light that the corners lose


def draw_backdrop(dice: Dice) -> BackdropTraits:
    name = dice.choice("place", list(_PLACES), [weight for weight, _, _ in _PLACES.values()])
    _, sharpest, softest = _PLACES[name]

    def material(which: str) -> Colour:
        base = dice.choice(which, list(_MATERIALS), list(_MATERIALS.values()))
        light = dice.normal(f"{which} light", 0, 0.18)
        red, green, blue = (c * math.exp(light + dice.normal(f"{which} {k}", 0, 0.04)) for k, c in enumerate(base))
        return red, green, blue

    return BackdropTraits(
        kind=list(_PLACES).index(name),
        name=name,
        first=material("first"),
        second=material("second"),
        third=material("third"),
        light=math.exp(dice.normal("light", 0, 0.30)),
        warmth=dice.normal("warmth", 0, 0.07),
        slope=(dice.normal("slope x", 0, 0.45), dice.normal("slope y", 0, 0.25)),
        blur=sharpest * (softest / sharpest) ** dice.uniform("blur"),
        vignette=dice.uniform("vignette", 0.02, 0.22),
    )


def backdrops(cast: Cast, size: int) -> Tensor:
    """Linear RGB (B, size, size, 3), 0-1.3."""
    traits, seed = cast.scene.backdrop, cast.scene.seed
    picture = torch.zeros(len(cast), SIDE, SIDE, 3, device=seed.device)
    for kind, paint in enumerate(PAINTERS):
        rows = (traits.kind == kind).nonzero()[:, 0]
        if len(rows):
            colours = (colour[rows] for colour in (traits.first, traits.second, traits.third))
            picture[rows] = paint(Canvas(seed[rows], *colours))

    canvas = Canvas(seed, traits.first, traits.second, traits.third)
    tint = torch.stack([traits.warmth, 0 * traits.warmth, -traits.warmth], 1)[:, None, None]
    slope = traits.slope[:, :, None, None]
    spread = slope[:, 0] * (canvas.x - 0.5) + slope[:, 1] * (canvas.y - 0.5)
    picture = picture * torch.exp(tint + (spread + traits.light.log()[:, None, None])[..., None])
    picture = through_lens(picture.permute(0, 3, 1, 2), traits.blur * (SIDE - 2 * MARGIN))
    corner = ((canvas.x - 0.5) ** 2 + (canvas.y - 0.5) ** 2) * 2
    picture = picture * (1 - traits.vignette[:, None, None] * corner)[:, None]
    picture = picture.clamp(min=0)
    picture = picture / (1 + (picture / _WHITEST) ** 3) ** (1 / 3)  # the sensor saturates softly
    picture = picture[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    return enlarge(picture, size).permute(0, 2, 3, 1)


def through_lens(picture: Tensor, radius: Tensor) -> Tensor:
    """Spread every point of pictures (B, 3, n, n) to a disc of `radius` (B,) pixels; what leaves one side comes in at
    the other.
    """
    n = picture.shape[-1]
    away = torch.arange(n, device=picture.device)
    away = torch.minimum(away, n - away).float()
    distance = (away[:, None] ** 2 + away[None] ** 2).sqrt()
    disc = step(radius[:, None, None] + 0.9, radius[:, None, None] - 0.9, distance) + 1e-6 * (distance == 0)
    disc = disc / disc.sum((1, 2), keepdim=True)
    spectrum = torch.fft.rfft2(disc).real[:, None]  # a disc about the origin is even: no imaginary part
    return torch.fft.irfft2(torch.fft.rfft2(picture) * spectrum, s=(n, n))


def enlarge(picture: Tensor, size: int) -> Tensor:
    """(B, C, n, n) -> (B, C, size, size) by cubic B-splines, which have no rings, no blocks and no corners."""
    n = picture.shape[-1]
    at = ((torch.arange(size, device=picture.device) + 0.5) * (n / size) - 0.5).clamp(0, n - 1)
    # pixels beyond the edge repeat those on it
    near = torch.arange(-2, n + 2, device=picture.device)
    away = (at[:, None] - near).abs()
    weights = torch.where(away < 1, 2 / 3 - away**2 + away**3 / 2, (2 - away).clamp(min=0) ** 3 / 6)
    spline = torch.zeros(size, n, device=picture.device).index_add_(1, near.clamp(0, n - 1), weights)
    return spline @ picture @ spline.T
