"""Light on skin and cloth: relief, diffuse light that wraps and bleeds under the skin, and shine."""

from __future__ import annotations

import torch
from torch import Tensor

from sam_age.lifespan.camera import View, towards
from sam_age.lifespan.curves import dot, unit
from sam_age.lifespan.images import blur, gather, scatter
from sam_age.lifespan.light import Lights
from sam_age.lifespan.rows import at
from sam_age.lifespan.surface import Surface

_WRAP = (0.30, 0.13, 0.08)  # how far light reaches round an edge of skin, per channel
# Light that enters skin leaves it elsewhere: standard deviation in metres on an adult face, and share, per channel
_BLEED = ((0.0030, 0.75), (0.0013, 0.55), (0.0009, 0.45))
_PIXELS_PER_METRE = 3.84  # of an adult face, for a picture of side 1: FFHQ's framing fixes it


def relief(surface: Surface, height: Tensor, where: Tensor, camera: Tensor, batch: int, size: int) -> Tensor:
    """Normals (P, 3) bent by a relief.

    Args:
        height: (P,) metres along the normal.
        where: (P,) bool, points that have relief.
        camera: (B, 3), a near origin that keeps float32 exact.

    Source: Mikkelsen 2010, "Bump mapping unparametrized surfaces on the GPU", with differences between pixels.
    """
    values = torch.cat([surface.position - at(camera, surface.b), height[:, None]], 1)
    image = scatter(values, surface.pixel, batch, size)
    dx, dy = torch.zeros_like(image), torch.zeros_like(image)
    dx[..., 1:-1] = (image[..., 2:] - image[..., :-2]) * 0.5
    dy[:, :, 1:-1] = (image[:, :, 2:] - image[:, :, :-2]) * 0.5
    dx, dy = gather(dx, surface.pixel), gather(dy, surface.pixel)
    normal = surface.normal
    r1, r2 = torch.linalg.cross(dy[:, :3], normal), torch.linalg.cross(normal, dx[:, :3])
    area = dot(dx[:, :3], r1)
    whole = (dx[:, :3].norm(dim=1) < 3.0 / size) & (dy[:, :3].norm(dim=1) < 3.0 / size) & (area.abs() > 1e-12) & where
    slope = (dx[:, 3:] * r1 + dy[:, 3:] * r2) / torch.where(whole, area, torch.ones_like(area))[:, None]
    slope = torch.where(whole[:, None], slope, torch.zeros_like(slope))
    slope = slope / (1 + 0.6 * slope.norm(dim=1, keepdim=True))
    return unit(normal - slope)


def irradiance(
    surface: Surface, normal: Tensor, light: Lights, lamp: Tensor, occlusion: Tensor, hair_nearby: Tensor
) -> Tensor:
    """Light (P, 3) that falls on skin.

    Args:
        lamp: (P,) share of the lamp seen.
        occlusion: (P,) share of the sky seen.
        hair_nearby: (P,) 0-1, which takes sky light away.
    """
    b = surface.b
    wrap = normal.new_tensor(_WRAP)
    facing = dot(normal, at(light.key, b))[:, None]
    diffuse = ((facing + wrap) / (1 + wrap)).clamp(min=0) ** 1.15
    open_ = (occlusion.clamp(0, 1) ** 1.15)[:, None] ** normal.new_tensor([0.80, 1.0, 1.05])
    direct = at(light.key_colour, b) * diffuse * lamp.clamp(min=0)[:, None] ** normal.new_tensor([0.85, 1.0, 1.0])
    total = light.ambient(normal, b) * open_ * (1 - 0.45 * hair_nearby[:, None]) + direct * (0.35 + 0.65 * open_)
    behind = dot(normal, at(light.rim, b)).clamp(min=0) * open_[:, 0]
    return total + behind[:, None] * at(light.rim_colour, b)


def bleed(light: Tensor, skin: Tensor, surface: Surface, batch: int, size: int) -> Tensor:
    """Subsurface scattering in screen space: irradiance (P, 3) blurred within the skin (P,) 0-1, red farthest."""
    masked = scatter(torch.cat([light * skin[:, None], skin[:, None]], 1), surface.pixel, batch, size)
    out = light.clone()
    for channel, (sigma, share) in enumerate(_BLEED):
        pair = blur(masked[:, [channel, 3]], max(0.5, sigma * _PIXELS_PER_METRE * size))
        spread = gather(pair, surface.pixel)
        mixed = light[:, channel] * (1 - share) + share * spread[:, 0] / (spread[:, 1] + 1e-4)
        out[:, channel] = torch.where(skin > 0, mixed, light[:, channel])
    return out


def shine(
    surface: Surface, normal: Tensor, light: Lights, view: View, lamp: Tensor, oil: Tensor, wet: Tensor
) -> Tensor:
    """Reflections (P, 3) off the skin's oil; `wet` (P,) 0-1 is where they are sharp, as on lips."""
    b = surface.b
    seen, key = towards(view.camera, surface.position, b), at(light.key, b)
    half = unit(key + seen)
    glance, facing = dot(normal, half).clamp(min=0), dot(normal, seen).clamp(min=0.02)
    fresnel = 0.035 + 0.965 * (1 - dot(seen, half).clamp(0, 1)) ** 5
    lobe = glance**14 * 1.2 + glance**55 * 2.6 * (1 + 2 * wet)
    direct = oil * fresnel * lobe * dot(normal, key).clamp(min=0) ** 0.5 * lamp
    mirrored = unit(2 * dot(normal, seen)[:, None] * normal - seen)
    sky = light.ambient(mirrored, b) * ((0.028 + 0.35 * (1 - facing) ** 5) * oil * surface.occlusion)[:, None]
    return 0.55 * direct[:, None] * at(light.key_colour, b) + 0.7 * sky
