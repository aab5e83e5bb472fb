"""Eyes: an iris on the ball, looking somewhere, under lids that shade it, with the lamp's reflection."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sam_age.lifespan.asset import LEFT_EYE, RIGHT_EYE
from sam_age.lifespan.camera import View, towards
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import between, bump, dot, step, unit
from sam_age.lifespan.dice import Dice, uniforms
from sam_age.lifespan.head import Heads
from sam_age.lifespan.images import blur, gather, scatter
from sam_age.lifespan.light import Lights
from sam_age.lifespan.rows import at
from sam_age.lifespan.surface import Surface

# outer colour and that around the pupil, linear RGB
_IRISES = {
    "brown": ((0.10, 0.045, 0.018), (0.05, 0.02, 0.008)),
    "light brown": ((0.15, 0.075, 0.028), (0.09, 0.042, 0.014)),
    "hazel": ((0.12, 0.12, 0.045), (0.14, 0.08, 0.025)),
    "blue": ((0.12, 0.22, 0.32), (0.24, 0.30, 0.33)),
    "grey": ((0.20, 0.26, 0.28), (0.30, 0.32, 0.30)),
    "green": ((0.12, 0.22, 0.14), (0.22, 0.20, 0.08)),
}
_FIBRES = (7, 13, 23, 37)  # waves around the iris


@dataclass(frozen=True)
class EyeTraits:
    """The colour of the eyes."""

    outer: tuple[float, float, float]  # linear RGB of the iris
    ring: tuple[float, float, float]  # of the zone around the pupil
    name: str


def draw_eyes(dice: Dice, ancestry: tuple[float, float, float]) -> EyeTraits:
    if ancestry[2] * dice.uniform("pale") > 0.42:
        name = dice.choice("iris", ("hazel", "blue", "grey", "green", "light brown"), (1, 2, 1, 1, 1))
    else:
        name = dice.choice("iris", ("brown", "light brown"), (3, 1))
    outer, ring = _IRISES[name]
    return EyeTraits(outer, ring, name)


def lid_shadow(surface: Surface, batch: int, size: int) -> Tensor:
    """(P,) how much light the lids leave on the eyeball, 0-1: less near the edges, least under the upper lid."""
    eye = ((surface.kind == LEFT_EYE) | (surface.kind == RIGHT_EYE)).float()[:, None]
    spread = blur(scatter(eye, surface.pixel, batch, size), 1.6 * size / 256)
    down = torch.roll(spread, round(2 * size / 256), 2)
    inner, upper = gather(spread, surface.pixel)[:, 0], gather(down, surface.pixel)[:, 0]
    return (inner * 1.15).clamp(0, 1) * (0.25 + 0.85 * upper).clamp(0, 1)


def shade_eyes(
    cast: Cast, surface: Surface, heads: Heads, view: View, light: Lights, lamp: Tensor, lids: Tensor
) -> Tensor:
    """Radiance (P, 3) of points that all lie on eyeballs.

    Args:
        lamp: (P,) share of the lamp seen.
        lids: (P,) from `lid_shadow`.
    """
    b, age = surface.b, at(cast.age, surface.b)
    every = torch.arange(len(cast), device=b.device)
    left = (surface.kind == LEFT_EYE).long()
    eye = 2 * b + (1 - left)  # which eyeball of the batch: left, right of each portrait
    centre = view.pose(heads.eyes, every).reshape(-1, 3)[eye]
    out = unit(surface.position - centre)
    gaze = _gaze(cast, view, out, eye, centre)

    radius = between(age, (0, 2, 8, 16), (0.0057, 0.0058, 0.0059, 0.0060)) * 1.06
    iris_angle = torch.asin((radius / at(heads.eye_radius, b)).clamp(max=0.62))
    r = torch.acos(dot(out, gaze).clamp(-1, 1)) / iris_angle
    across = unit(at(view.right, b) - gaze * dot(at(view.right, b), gaze)[:, None])
    turn = torch.atan2(dot(out, torch.linalg.cross(gaze, across)), dot(out, across))

    base = _ball(cast, b, age, r, turn)
    bulge = (1 - (r / 1.15) ** 2).clamp(min=0)[:, None]
    cornea = unit(out + 0.55 * bulge * (out - gaze * dot(out, gaze)[:, None]))
    shade = (lids**1.2 * 1.25)[:, None]
    direct = (dot(out, at(light.key, b)) * 0.6 + 0.4).clamp(min=0) * (0.4 + 0.6 * lamp)
    lit = light.ambient(out, b) * 0.95 + at(light.key_colour, b) * direct[:, None]
    colour = base * lit * shade.clamp(max=1)

    seen = towards(view.camera, surface.position, b)
    mirrored = unit(2 * dot(cornea, seen)[:, None] * cornea - seen)
    key, up, forward = at(light.key, b), at(view.up, b), at(view.forward, b)
    window = unit(key * 0.75 + up * 0.25 - forward * 0.35)
    soft = unit(-key + 1.8 * up * dot(key, up)[:, None] - forward * 1.1)
    spark = step(0.955, 0.985, dot(mirrored, window)) * 1.5 * shade[:, 0].clamp(max=1)
    glow = step(0.80, 0.99, dot(mirrored, soft)) * 0.06
    colour = colour + at(light.key_colour, b) * (0.5 * spark + glow)[:, None]
    return colour + light.ambient(mirrored, b) * 0.035 * shade


def _gaze(cast: Cast, view: View, out: Tensor, eye: Tensor, centre: Tensor) -> Tensor:
    """(P, 3) where each eye looks: between the camera and the middle of what its lids leave open."""
    total = out.new_zeros(2 * len(cast), 3).index_add_(0, eye, out)
    opening = unit(total)[eye]
    b = torch.div(eye, 2, rounding_mode="floor")
    share = at(0.55 + 0.3 * step(10, 2, cast.age), b)[:, None]
    past = at(cast.scene.pose.gaze, b)
    look = (1 - share) * towards(view.camera, centre, b) + share * opening
    return unit(look + 0.7 * past[:, :1] * at(view.right, b) + 0.4 * past[:, 1:] * at(view.up, b))


def _ball(cast: Cast, b: Tensor, age: Tensor, r: Tensor, turn: Tensor) -> Tensor:
    """(P, 3) albedo at `r` iris radii from the axis and angle `turn` around it."""
    eyes, seed = cast.person.eyes, at(cast.person.seed, b)
    fibre = sum(
        torch.cos(turn * k + 6.283 * uniforms(seed, torch.full_like(seed, k), 31) + r * 3 * math.sin(k))
        for k in _FIBRES
    )
    ring = bump(r, 0.45, 0.16)[:, None]
    iris = (at(eyes.outer, b) * (1 - ring) + at(eyes.ring, b) * ring) * (1 + 0.11 * fibre[:, None]) * 1.25
    iris = iris * (1 - 0.75 * step(0.78, 1.0, r))[:, None]
    pupil = between(age, (0, 15, 80), (0.42, 0.40, 0.28))
    iris = iris * step(pupil - 0.05, pupil + 0.05, r)[:, None] + 0.004
    iris = iris + (0.12 * bump(r, 0.95, 0.08) * step(65, 90, age))[:, None]  # arcus senilis
    old, young = step(30, 84, age), step(1.2, 0, age)
    yellow = torch.stack(
        [torch.ones_like(old), 1 - 0.05 * old, 1 - 0.14 * old - 0.033 * at(cast.person.skin.melanin, b)], 1
    )
    white = iris.new_tensor([0.58, 0.53, 0.50]) * yellow + young[:, None] * iris.new_tensor([-0.03, 0.0, 0.04])
    veins = step(1.2, 2.6, r) * (0.6 + 0.6 * old)
    white = white * (1 - veins[:, None] * iris.new_tensor([0.05, 0.25, 0.26]))
    edge = step(0.94, 1.06, r)[:, None]
    return iris * (1 - edge) + white * edge
