"""What is behind the person: a place out of focus, as behind the faces of FFHQ.

Every backdrop is one recipe with its own amounts: light that changes from top to bottom across a soft horizon, upright
and level shapes (doors, shelves, windows, buildings), discs of light, a window's light on the wall, a vignette. All is
painted small, since nothing in it is sharp, and enlarged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import step
from sam_age.lifespan.dice import Dice, normals, uniforms

_SIDE = 80  # pixels of the small painting
_SHAPES, _DISCS = 14, 26
_KINDS = {  # and how common they are
    "studio": 3, "wall": 3, "window light": 2, "room": 4, "garden": 4, "street": 3, "sky": 1.5, "night": 1.5,
}  # fmt: skip
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class BackdropTraits:
    """Amounts of the recipe; lengths are shares of the picture's side, colours linear RGB."""

    top: Colour
    bottom: Colour
    horizon: float  # height from the top at which one becomes the other
    horizon_width: float
    shapes: float  # 0-1 how plainly shapes stand out
    upright: float  # 0 level ones, 1 upright ones
    contrast: float  # spread of their brightness, natural log
    hue: float  # spread of their colours
    discs: float  # 0-1 opacity of discs
    disc_size: float
    disc_light: float  # their brightness over what is behind
    disc_top: float  # they lie below this height from the top
    window: float  # brightness of a window's light on the wall, over the wall's
    blur: float  # width of edges
    vignette: float  # darkening of the corners, 0-1
    name: str


def draw_backdrop(dice: Dice) -> BackdropTraits:
    name = dice.choice(
        "kind",
        ("studio", "wall", "window light", "room", "garden", "street", "sky", "night"),
        (3, 3, 2, 4, 4, 3, 1.5, 1.5),
    )
    warm, tint = dice.normal("warm", 0, 0.10), dice.normal("tint", 0, 0.04)

    def colour(light: float, name: str, spread: float = 0.05, base: Colour = (1, 1, 1)) -> Colour:
        own = [dice.normal(f"{name} {k}", 0, spread) for k in range(3)]
        shift = (warm, tint, -warm)
        red, green, blue = (max(0.01, light * base[k] * math.exp(own[k] + shift[k])) for k in range(3))
        return red, green, blue

    amounts = dict(
        horizon=dice.uniform("horizon", 0.3, 0.75), horizon_width=dice.uniform("fade", 0.3, 0.8), shapes=0.0,
        upright=dice.uniform("upright"), contrast=0.4, hue=0.1, discs=0.0, disc_size=0.05, disc_light=1.3, disc_top=0.0,
        window=0.0, blur=dice.uniform("blur", 0.02, 0.06), vignette=dice.uniform("vignette", 0.0, 0.25), name=name,
    )  # fmt: skip
    light = dice.uniform("light")
    if name == "studio":
        light = 0.04 + 0.6 * light
        top, bottom = colour(light, "a", 0.12), colour(light * dice.uniform("fall", 0.4, 1.3), "b", 0.12)
        amounts["vignette"] = dice.uniform("vignette", 0.1, 0.5)
    elif name == "wall":
        light = 0.15 + 0.55 * light
        top = colour(light, "a", 0.16)
        bottom = tuple(c * dice.uniform("fall", 0.75, 1.05) for c in top)
        amounts |= {"shapes": dice.uniform("shapes", 0.0, 0.35), "contrast": 0.25, "hue": 0.05}
    elif name == "window light":
        light = 0.10 + 0.35 * light
        top, bottom = colour(light, "a", 0.12), colour(light * 0.8, "b", 0.08)
        amounts |= {"window": dice.uniform("window", 0.6, 1.8), "blur": dice.uniform("blur", 0.015, 0.05)}
    elif name == "room":
        light = 0.08 + 0.35 * light
        top, bottom = colour(light, "a", 0.1), colour(light * 0.7, "b", 0.15, (1.1, 0.95, 0.8))
        amounts |= {
            "shapes": dice.uniform("shapes", 0.5, 0.95), "contrast": dice.uniform("contrast", 0.4, 0.8), "hue": 0.16,
            "discs": dice.uniform("lamps", -0.6, 0.5), "disc_light": 2.2, "disc_size": 0.035,
        }  # fmt: skip
    elif name == "garden":
        light = 0.06 + 0.22 * light
        top, bottom = colour(light * 1.5, "a", 0.12, (0.8, 1.0, 0.7)), colour(light, "b", 0.15, (0.62, 1.0, 0.36))
        amounts |= {
            "shapes": dice.uniform("shapes", 0.2, 0.6), "contrast": 0.45, "hue": 0.14,
            "discs": dice.uniform("leaves", 0.35, 0.9), "disc_size": dice.uniform("leaf", 0.04, 0.10),
            "disc_light": dice.uniform("sun", 1.1, 1.9),
        }  # fmt: skip
    elif name == "street":
        light = 0.15 + 0.35 * light
        top, bottom = (
            colour(light * 1.6, "a", 0.08, (0.92, 0.98, 1.1)),
            colour(light * 0.55, "b", 0.1, (1.0, 0.95, 0.9)),
        )
        amounts |= {
            "shapes": dice.uniform("shapes", 0.5, 0.9), "upright": 0.85, "contrast": 0.5, "hue": 0.10,
            "horizon_width": 0.35, "discs": dice.uniform("lamps", -0.5, 0.4), "disc_light": 1.7,
        }  # fmt: skip
    elif name == "sky":
        light = 0.3 + 0.4 * light
        top = colour(light, "a", 0.06, (0.62, 0.84, 1.12))
        bottom = colour(light * dice.uniform("ground", 0.35, 0.9), "b", 0.12, (0.95, 0.93, 0.80))
        amounts |= {"horizon": dice.uniform("horizon", 0.55, 1.0), "horizon_width": dice.uniform("fade", 0.08, 0.3)}
        amounts |= {"shapes": dice.uniform("clouds", 0.0, 0.35), "upright": 0.0, "contrast": 0.25, "hue": 0.04}
    else:  # night
        light = 0.008 + 0.04 * light
        top, bottom = colour(light, "a", 0.15, (0.8, 0.9, 1.2)), colour(light * 1.4, "b", 0.15, (1.1, 0.95, 0.85))
        amounts |= {"discs": dice.uniform("lamps", 0.4, 0.9), "disc_light": dice.uniform("bright", 5, 12), "hue": 0.3}
        amounts |= {"disc_size": dice.uniform("lamp", 0.03, 0.06), "shapes": 0.4, "contrast": 0.8}
    return BackdropTraits(top=top, bottom=bottom, **amounts)


def backdrops(cast: Cast, size: int) -> Tensor:
    """Linear RGB (B, size, size, 3), about 0-1.5."""
    traits, seed = cast.scene.backdrop, cast.scene.seed[:, None]
    device, batch = cast.age.device, len(cast)
    edge = torch.linspace(0, 1, _SIDE, device=device)
    y, x = edge.view(1, -1, 1, 1), edge.view(1, 1, -1, 1)

    def each(values: Tensor) -> Tensor:
        return values.view(batch, 1, 1, -1)

    def drawn(count: int, stream: int, *, normal: bool = False) -> Tensor:
        """(count, B, 1, 1, 1) numbers of the scene."""
        index = torch.arange(count, device=device)[None]
        return (normals if normal else uniforms)(seed, index, stream).T.view(count, batch, 1, 1, 1)

    down = step(each(traits.horizon - traits.horizon_width / 2), each(traits.horizon + traits.horizon_width / 2), y)
    picture = each(traits.top) + down * (each(traits.bottom) - each(traits.top))
    picture = picture.expand(batch, _SIDE, _SIDE, 3)
    blur = each(traits.blur)

    def box(cx: Tensor, cy: Tensor, wide: Tensor, high: Tensor) -> Tensor:
        return step(wide + blur, wide - blur, (x - cx).abs()) * step(high + blur, high - blur, (y - cy).abs())

    upright, opacity = each(traits.upright), each(traits.shapes)
    cx, cy = 1.3 * drawn(_SHAPES, 10) - 0.15, 1.3 * drawn(_SHAPES, 11) - 0.15
    small, large = 0.02 + 0.13 * drawn(_SHAPES, 12), 0.12 + 0.5 * drawn(_SHAPES, 13)
    stands = step(-0.2, 0.2, upright - drawn(_SHAPES, 14))
    bright = torch.exp(each(traits.contrast) * drawn(_SHAPES, 15, normal=True).clamp(-2, 2))
    tint = torch.cat([drawn(_SHAPES, 16 + k, normal=True).clamp(-2, 2) for k in range(3)], -1)
    tint = torch.exp(each(traits.hue) * tint)
    for k in range(_SHAPES):
        wide, high = torch.lerp(large[k], small[k], stands[k]), torch.lerp(small[k], large[k], stands[k])
        share = box(cx[k], cy[k], wide, high) * opacity
        picture = picture + share * (picture.mean((1, 2), keepdim=True) * bright[k] * tint[k] - picture)

    opacity = each(traits.discs).clamp(min=0)
    cx, cy = 1.1 * drawn(_DISCS, 30) - 0.05, drawn(_DISCS, 31)
    radius = each(traits.disc_size) * (0.6 + 0.8 * drawn(_DISCS, 32))
    cy = each(traits.disc_top) + (1.05 - each(traits.disc_top)) * cy
    light = torch.exp(0.5 * drawn(_DISCS, 33, normal=True).clamp(-2, 2)) * each(traits.disc_light)
    tint = torch.cat([drawn(_DISCS, 34 + k, normal=True).clamp(-2, 2) for k in range(3)], -1)
    tint = torch.exp(1.2 * each(traits.hue) * tint)
    ground = picture
    for k in range(_DISCS):
        away = ((x - cx[k]) ** 2 + (y - cy[k]) ** 2 + 1e-8).sqrt()
        share = step(radius[k] * 1.15, radius[k] * 0.8, away) * opacity * 0.7
        picture = picture + share * (ground * light[k] * tint[k] - picture)

    slant = (drawn(1, 40) - 0.5)[0] * 0.8
    left, above = 0.15 + 0.5 * drawn(1, 41)[0], 0.05 + 0.4 * drawn(1, 42)[0]
    panes = torch.zeros_like(x + y)
    for column in range(2):
        for line in range(2):
            panes = panes + box(
                left + 0.24 * column + slant * (y - 0.3), above + 0.3 * line, 0.10 + 0 * left, 0.13 + 0 * left
            )
    picture = picture * (1 + each(traits.window) * panes.clamp(0, 1))
    corner = ((x - 0.5) ** 2 + (y - 0.5) ** 2) * 2
    picture = (picture * (1 - each(traits.vignette) * corner)).clamp(0, 1.4)
    enlarged = interpolate(picture.permute(0, 3, 1, 2), size=(size, size), mode="bicubic", align_corners=False)
    return enlarged.permute(0, 2, 3, 1).clamp(0, 1.5)
