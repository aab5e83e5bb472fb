"""Skin: its pigments, what age and makeup do to them, its grain, and its shine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sam_age.lifespan import beard, hair, wrinkles
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import bump, step
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.noise import noise
from sam_age.lifespan.rows import at
from sam_age.lifespan.surface import Surface

_LIPSTICKS = ((0.42, 0.06, 0.075), (0.45, 0.16, 0.15), (0.30, 0.05, 0.10), (0.50, 0.20, 0.18))
# A person's melanin by leading ancestry: lowest and highest. Tones are even within them and overlap.
_MELANIN = ((0.75, 1.85), (0.22, 0.78), (0.10, 0.50))


@dataclass(frozen=True)
class SkinTraits:
    """What one's skin is made of, and worn with."""

    melanin: float  # optical depth of the brown pigment, 0.1 very fair to 1.75 very dark
    haemoglobin: float  # of the red one
    freckles: float  # 0 none
    makeup: float  # 0 none to 1, of grown women who wear it
    lipstick: tuple[float, float, float]  # linear RGB
    grain: tuple[float, float]  # where on the noise tile the face lies


def draw_skin(dice: Dice, ancestry: tuple[float, float, float], *, female: bool) -> SkinTraits:
    low, high = (sum(share * limits[k] for share, limits in zip(ancestry, _MELANIN, strict=True)) for k in (0, 1))
    fair = ancestry[2] > 0.6
    return SkinTraits(
        melanin=dice.uniform("melanin", low, high) * (0.88 if female else 1.05),
        haemoglobin=dice.uniform("haemoglobin", 0.45, 0.8) * (0.95 if female else 1.05),
        freckles=max(0.0, dice.normal("freckles", -0.3, 0.5)) if fair else 0.0,
        makeup=dice.uniform("makeup", 0.25, 1) if female and dice.chance("wears makeup", 0.75) else 0.0,
        lipstick=dice.choice("lipstick", _LIPSTICKS),
        grain=(dice.uniform("grain x"), dice.uniform("grain y")),
    )


class Paint(NamedTuple):
    """What light meets on the skin."""

    albedo: Tensor  # (P, 3) linear RGB
    height: Tensor  # (P,) metres, relief for bump mapping
    oil: Tensor  # (P,) strength of the shine, about 1


def tone(melanin: Tensor, haemoglobin: Tensor) -> Tensor:
    """Linear RGB albedo (P, 3) of skin with these pigments: what they leave of the light."""
    absorbed = melanin[:, None] * melanin.new_tensor([1.06, 1.28, 1.42])
    absorbed = absorbed + haemoglobin[:, None] * melanin.new_tensor([0.10, 0.66, 0.60])
    return torch.exp(-absorbed) * melanin.new_tensor([0.80, 0.67, 0.50])


def paint_skin(cast: Cast, surface: Surface, textures: Tensor, scale: Tensor) -> Paint:
    """Albedo, relief and shine of the skin at visible points.

    Args:
        textures: (B, 9, ...) the people's wrinkles.
        scale: (B,) size of each head, 1 = the template's.
    """
    b, canonical = surface.b, surface.canonical
    person, age = cast.person, at(cast.age, b)
    x, y, z = canonical.unbind(1)
    around = torch.atan2(x, -(y + 0.062)) * 0.09
    where = torch.stack([around, z], 1)
    grain = noise(where / 0.085 + at(person.skin.grain, b))
    front = (y < -0.05).float()

    def patch(at_x: float, at_z: float, wide: float, high: float) -> Tensor:
        """1 in the middle of a place that both halves of the face have."""
        return bump(x.abs(), at_x, wide) * bump(z, at_z, high) * front

    cheek, nose, chin = patch(0.040, 0.866, 0.018, 0.018), patch(0, 0.866, 0.012, 0.014), patch(0, 0.80, 0.016, 0.012)
    lid, ring = patch(0.031, 0.905, 0.019, 0.013), patch(0.028, 0.886, 0.014, 0.0065)

    deep = wrinkles.depths(cast)
    lines = wrinkles.look_up(textures, canonical, b) * step(-0.055, -0.065, y)[:, None]
    relief = torch.tensor([group.height for group in wrinkles.GROUPS], device=b.device)
    stain = torch.tensor([group.stain for group in wrinkles.GROUPS], device=b.device)
    groove = (lines * at(deep * relief * scale[:, None], b)).sum(1)
    stained = (lines.clamp(min=0) * at(deep.clamp(max=1.3) * stain, b)).sum(1).clamp(0, 1.2)

    young, old = step(22, 5, age), step(30, 84, age)
    rough = (0.6 + 0.4 * step(4, 20, age) + 0.9 * old) * at(person.ageing.roughness, b)
    height = at(scale, b) * (
        rough * (grain[:, 2] * 4e-5 + grain[:, 3] * 1.8e-5) * (1 - 0.5 * surface.lips) + old * grain[:, 1] * 3e-5
    )

    own_melanin = at(person.skin.melanin, b) * (1 - 0.12 * step(3, 0, age))  # babies are a little paler
    mottled = 0.35 + 0.65 * step(12, 60, age)
    melanin = own_melanin * (1 + mottled * (0.04 * grain[:, 0] + 0.018 * grain[:, 1] * (1 + 0.6 * old)))
    melanin = melanin + 0.17 * ring * (0.2 + 0.8 * step(20, 72, age)) * (1 + own_melanin) + 0.06 * lid
    red = at(person.skin.haemoglobin, b) * (0.8 + mottled * (0.08 * grain[:, 0] + 0.03 * grain[:, 1] * (1 + 0.4 * old)))
    red = red + 0.42 * cheek * (0.6 + 0.7 * young) + 0.38 * nose * (0.5 + 0.5 * old) + 0.16 * chin + 0.35 * surface.ears
    red = red + 0.14 * lid + 0.2 * stained + 0.12 * step(2.5, 0.5, age)
    freckled = (grain[:, 2] * 0.6 + grain[:, 1] * 0.3 - 1.1).clamp(0, 1) * (cheek + 1.3 * nose + 0.15)
    melanin = melanin + 0.35 * at(person.skin.freckles, b) * freckled * step(2, 6, age)
    marks = noise(where / 0.15 + 0.37 + at(person.skin.grain, b))
    spot = step(2.0, 2.5, marks[:, 1] + 0.25 * marks[:, 2]) * step(0, -0.02, y) * (1 - 0.7 * patch(0, 0.86, 0.03, 0.05))
    melanin = melanin + 0.28 * at(person.ageing.spots, b) * step(45, 85, age) * spot

    melanin, red = melanin.clamp(min=0.05), red.clamp(min=0.05)
    albedo = tone(melanin, red)
    root = hair.hair_colour(cast)
    grey = hair.greyness(cast)[:, None]
    shaven = beard.beard_shadow(cast, canonical, b) * step(-0.02, -0.04, y)
    bristle = 1 - (root * (1 - 0.5 * grey) + 0.35 * 0.5 * grey).clamp(max=1)
    albedo = albedo * (1 - 0.55 * shaven[:, None] * at(bristle, b))

    makeup = at(person.skin.makeup, b) * step(14, 20, age) * (1 - 0.15 * step(65, 90, age))
    lip = tone(melanin * 0.85 + 0.12, red + 0.62 + 0.43 * step(8, 18, age) - 0.45 * old)
    painted = at(person.skin.lipstick, b) * (0.5 + 1.5 * lip.mean(1, keepdim=True))
    lip = lip + 0.6 * makeup[:, None] * (painted - lip)
    on_lip = step(0.35, 0.75, surface.lips)
    albedo = albedo + on_lip[:, None] * (lip - albedo)
    shadow = patch(0.031, 0.9125, 0.016, 0.006)
    albedo = albedo * (1 - 0.45 * (makeup * shadow)[:, None])
    albedo = albedo * (1 - 0.33 * stained[:, None] * albedo.new_tensor([0.7, 1.0, 1.0]))
    scalp = hair.scalp_cover(cast, canonical, b)[:, None]
    albedo = albedo + scalp * (at(0.75 * (root * (1 - grey) + 0.45 * grey), b) - albedo)

    oil = 0.75 + 0.7 * nose + 0.35 * patch(0, 0.95, 0.04, 0.02) + 0.25 * cheek + 0.9 * on_lip
    oil = oil * (1 - 0.35 * old) * (1 + 0.25 * grain[:, 1]) * (1 - 0.25 * young) * (1 - 0.3 * makeup * (1 - on_lip))
    return Paint(albedo, height - groove, oil)
