"""Light: one key lamp with shadows, a sky of six colours, and a rim light from behind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sam_age.lifespan.camera import View
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import dot, unit
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.head import Heads
from sam_age.lifespan.rasterise import DEPTH_STEPS, EMPTY, FAR, depth_map
from sam_age.lifespan.rows import at, turned

MAP = 288  # side of a shadow map, texels
_REACH = 0.19  # metres from the middle of an adult head to the edge of its shadow map


@dataclass(frozen=True)
class LightTraits:
    """Where light comes from, relative to the camera."""

    azimuth: float  # degrees of the key lamp to the picture's right
    elevation: float  # degrees above the camera
    colour: tuple[float, float, float]  # of the key lamp, linear RGB about 1
    ambient: float  # strength of the sky
    tint: tuple[float, float, float]  # of the sky, about 1
    rim: float  # strength of the light from behind
    softness: float  # of shadows' edges, about 1
    exposure: float


def draw_light(dice: Dice) -> LightTraits:
    warm, strength = dice.normal("warmth", 0, 0.12), dice.uniform("strength", 0.75, 1.25)
    side = 1 if dice.chance("side", 0.5) else -1
    return LightTraits(
        azimuth=side * dice.uniform("azimuth", 8, 60),
        elevation=dice.uniform("elevation", 12, 52),
        colour=(strength * (1 + 0.6 * warm), strength, strength * (1 - warm)),
        ambient=dice.uniform("ambient", 0.26, 0.56),
        tint=(1 + dice.normal("red", 0, 0.05), 1 + dice.normal("green", 0, 0.04), 1 + dice.normal("blue", 0, 0.05)),
        rim=max(0.0, dice.normal("rim", 0.1, 0.3)),
        softness=dice.uniform("softness", 0.5, 1.6),
        exposure=dice.uniform("exposure", 0.92, 1.12),
    )


class Lights(NamedTuple):
    """The light on each portrait."""

    key: Tensor  # (B, 3) unit vector to the lamp
    key_colour: Tensor  # (B, 3)
    sky: Tensor  # (B, 6, 3) from the right, left, top, bottom, front and back of the picture
    axes: Tensor  # (B, 3, 3) rows: right, up, forward
    rim: Tensor  # (B, 3) unit vector
    rim_colour: Tensor  # (B, 1)

    def ambient(self, normals: Tensor, b: Tensor) -> Tensor:
        """Sky light (P, 3) on surfaces that face `normals` (P, 3)."""
        along = turned(self.axes, normals, b)
        plus, minus = along.clamp(min=0) ** 2, (-along).clamp(min=0) ** 2
        share = torch.stack([plus[:, 0], minus[:, 0], plus[:, 1], minus[:, 1], minus[:, 2], plus[:, 2]], 1)
        return turned(self.sky.transpose(1, 2), share, b)


def lights(cast: Cast, view: View, backdrop: Tensor) -> Lights:
    """Args: backdrop: (B, size, size, 3); its colours spill onto the sides of the head."""
    traits = cast.scene.light
    azimuth, elevation = torch.deg2rad(traits.azimuth), torch.deg2rad(traits.elevation)
    across = azimuth.sin()[:, None] * view.right - azimuth.cos()[:, None] * view.forward
    key = elevation.cos()[:, None] * across + elevation.sin()[:, None] * view.up
    edge = backdrop.shape[2] // 4
    means = [part.mean((1, 2)) for part in (backdrop[:, :, -edge:], backdrop[:, :, :edge], backdrop)]
    right, left, behind = (0.55 * mean + 0.45 * mean.mean(1, keepdim=True) for mean in means)
    ambient = traits.tint * traits.ambient[:, None]
    floor = ambient.new_tensor([0.42, 0.36, 0.33])
    sky = [0.35 + 0.9 * right, 0.35 + 0.9 * left, torch.ones_like(left) * 1.05, floor.expand_as(left),
           torch.ones_like(left) * 0.75, 0.2 + 0.8 * behind]  # fmt: skip
    rim = -0.55 * traits.azimuth.sign()[:, None] * view.right + 0.8 * view.forward + 0.35 * view.up
    return Lights(
        key=key,
        key_colour=traits.colour * 1.9,
        sky=torch.stack(sky, 1) * ambient[:, None],
        axes=torch.stack([view.right, view.up, view.forward], 1),
        rim=unit(rim),
        rim_colour=1.8 * (traits.rim * ambient.mean(1))[:, None],
    )


class Shadows:
    """Shadow maps of the key lamp: one of the surfaces, one of the hair.

    Args:
        surface: (B, V, 3) posed vertices.
        hair, hair_portrait: (Q, 3) points on posed strands and the portrait of each.
    """

    def __init__(
        self,
        light: Lights,
        heads: Heads,
        view: View,
        surface: Tensor,
        faces: Tensor,
        hair: Tensor,
        hair_portrait: Tensor,
    ) -> None:
        self.key, self.batch = light.key, len(surface)
        every = torch.arange(self.batch, device=surface.device)
        self.centre = view.pose(heads.centre, every) - heads.scale[:, None] * surface.new_tensor([0, 0, 0.03])
        self.reach = _REACH * heads.scale
        across = unit(torch.linalg.cross(light.key, light.key.new_tensor([0.0, 0.0, 1.0]).expand_as(light.key)))
        self.across, self.down = across, -torch.linalg.cross(across, light.key)
        b = every.repeat_interleave(surface.shape[1])
        self.surface = depth_map(self._project(surface.flatten(0, 1), b).view_as(surface), faces, MAP)
        where = self._project(hair, hair_portrait)
        x, y = where[:, 0].long(), where[:, 1].long()
        inside = ((x >= 0) & (x < MAP) & (y >= 0) & (y < MAP)).nonzero()[:, 0]
        texel = (hair_portrait[inside] * MAP + y[inside]) * MAP + x[inside]
        depth = torch.full((self.batch * MAP * MAP,), EMPTY, dtype=torch.int64, device=surface.device)
        depth.scatter_reduce_(0, texel, (where[inside, 2] * DEPTH_STEPS).long(), "amin")
        self.hair = torch.where(depth < EMPTY, depth.float() / DEPTH_STEPS, torch.full_like(self.surface, FAR))

    def _project(self, points: Tensor, b: Tensor) -> Tensor:
        """(..., 3) world -> x, y in texels and depth (metres + 1) from the lamp."""
        away = points - at(self.centre, b)
        scale = at(0.5 * MAP / self.reach, b)
        return torch.stack(
            [
                dot(away, at(self.across, b)) * scale + 0.5 * MAP,
                dot(away, at(self.down, b)) * scale + 0.5 * MAP,
                1 - dot(away, at(self.key, b)),
            ],
            -1,
        )

    def lit(
        self, points: Tensor, b: Tensor, *, bias: float | Tensor, radius: float | Tensor, of: Tensor, taps: int = 12
    ) -> Tensor:
        """(P,) share of the lamp that points see past the map `of` (`surface` or `hair`).

        Args:
            bias: metres that a point may lie behind the surface and still be lit.
            radius: texels over which the edge is soft.
            taps: samples.
        """
        x, y, depth = self._project(points, b).unbind(-1)
        depth = depth - bias
        hidden = torch.zeros_like(depth)
        first = b * (MAP * MAP)
        for tap in range(taps):  # a sunflower's pattern covers a disc evenly
            r, angle = radius * math.sqrt((tap + 0.5) / taps), tap * 2.399963
            column = (x + r * math.cos(angle)).long().clamp(0, MAP - 1)
            line = (y + r * math.sin(angle)).long().clamp(0, MAP - 1)
            hidden += of.index_select(0, first + line * MAP + column) < depth
        return 1 - hidden / taps
