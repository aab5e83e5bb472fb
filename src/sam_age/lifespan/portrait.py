"""The portrait: person, age and scene to a picture, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from sam_age.errors import InputError
from sam_age.lifespan import beard, brows, clothes, eyes, glasses, hair, mouth, shade, strands, wrinkles
from sam_age.lifespan.asset import LEFT_EYE, RIGHT_EYE, SKIN, HeadAsset, head_asset
from sam_age.lifespan.background import backdrops
from sam_age.lifespan.camera import View, posed_body, view
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.dice import normals
from sam_age.lifespan.head import Heads, shape, vertex_normals
from sam_age.lifespan.images import blur, gather, scatter
from sam_age.lifespan.light import Lights, Shadows, lights
from sam_age.lifespan.noise import noise
from sam_age.lifespan.person import Person
from sam_age.lifespan.rows import at
from sam_age.lifespan.scene import Scene
from sam_age.lifespan.skin import paint_skin
from sam_age.lifespan.stack import stack
from sam_age.lifespan.surface import Surface, see

SIZES = (32, 1024)  # pixels, smallest and largest portrait
_HIDDEN = 0.985  # share of hair around a pixel from which the skin below is not seen
SUPERSAMPLING = 2  # every pixel is the mean of so many by so many


@torch.no_grad()
def render(
    people: Sequence[Person],
    ages: Sequence[float],
    scenes: Sequence[Scene],
    *,
    size: int = 256,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Portraits: row i is `people[i]` at `ages[i]` in `scenes[i]`.

    Args:
        ages: years, 0-100.
        size: side in pixels.
    Returns:
        uint8 (B, 3, size, size), RGB, on `device`. The same arguments give the same picture on every machine, up
        to float32 rounding: see docs/lifespan.md for how little that moves.
    Raises:
        InputError: an age outside 0-100, a size outside 32-1024, or lists of different lengths.
    """
    if not len(people) == len(ages) == len(scenes):
        raise InputError(f"As many people, ages and scenes, please: not {len(people)}, {len(ages)} and {len(scenes)}.")
    if wrong := [age for age in ages if not 0 <= age <= 100]:
        raise InputError(f"Ages are years from 0 to 100, not {wrong[0]}.")
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"Portraits are {SIZES[0]} to {SIZES[1]} pixels wide, not {size}.")
    if not people:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8, device=device)
    years = torch.tensor([float(age) for age in ages], device=device)
    cast = Cast(stack(people, device), years, stack(scenes, device))
    return develop(_light_field(cast, size * SUPERSAMPLING), cast)


class _Stage(NamedTuple):
    """Everybody in place, before there is light."""

    heads: Heads
    view: View
    mesh: Tensor  # (B, V, 3) posed vertices
    surface: Surface  # what of it is seen
    depth: Tensor  # (B * size * size,) of it, metres
    groups: Sequence[tuple[strands.Strands, strands.Sort]]
    tresses: strands.Seen  # what is seen of the hair
    hairy: Tensor  # (B, 1, size, size) 0-1, hair of the head nearby


class _Matter(NamedTuple):
    """What the visible surface is made of."""

    albedo: Tensor  # (P, 3)
    height: Tensor  # (P,) metres of relief
    oil: Tensor  # (P,) shine
    covered: Tensor  # (P,) 0-1 by cloth
    tooth: Tensor  # (P,) 0-1


def _light_field(cast: Cast, size: int) -> Tensor:
    """Linear RGB (B, 3, size, size), before film and supersampling."""
    asset = head_asset(str(cast.age.device))
    stage = _set_stage(cast, asset, size)
    backdrop = backdrops(cast, size)
    light = lights(cast, stage.view, backdrop)
    shadows = _shadows(stage, light, asset)
    spectacles = glasses.see(cast, stage.heads, stage.view, asset, stage.depth, stage.tresses, size)

    lamp = _lamp(cast, stage, shadows)
    if spectacles is not None:
        lamp = lamp * (1 - 0.6 * gather(spectacles.shadow, stage.surface.pixel)[:, 0])
    matter = _matter(cast, stage, asset, size)
    colour = _shaded(cast, stage, matter, light, lamp, size)

    picture = backdrop.reshape(-1, 3).index_copy(0, stage.surface.pixel, colour)
    picture = picture.view(len(cast), size, size, 3).permute(0, 3, 1, 2)
    open_behind = torch.ones_like(stage.depth).index_copy(0, stage.surface.pixel, matter.covered)
    radiance = strands.shade(stage.tresses, stage.groups, stage.heads, stage.view, light, shadows)
    picture = strands.compose(picture, stage.tresses, radiance, stage.groups, open_behind)
    return glasses.wear(picture, spectacles, cast, stage.view, light)


def _set_stage(cast: Cast, asset: HeadAsset, size: int) -> _Stage:
    heads = shape(cast, asset)
    frame = view(cast, heads, asset)
    every = torch.arange(len(cast), device=cast.age.device)
    dressed = heads.vertices + heads.normals * clothes.bulk(cast, asset, heads)[..., None]
    mesh = posed_body(dressed, frame, asset)
    normal = vertex_normals(mesh, asset.faces)
    surface, fragments = see(frame.project(mesh, every, size), mesh, normal, heads, asset, size)
    groups = [
        (hair.grow_hair(cast, heads, asset), strands.SCALP),
        (brows.grow_brows(cast, heads, asset), strands.BROW),
        (brows.grow_lashes(cast, heads, asset), strands.LASH),
        (beard.grow_beard(cast, heads, asset), strands.BEARD),
    ]
    tresses = strands.draw(groups, frame, fragments.depth, size)
    hairy = blur(scatter(strands.solid(tresses, groups)[:, None], tresses.pixel, len(cast), size), 0.00625 * size)
    seen = (gather(hairy, surface.pixel)[:, 0] < _HIDDEN).nonzero()[:, 0]  # skin under hair need not be painted
    return _Stage(heads, frame, mesh, surface.of(seen), fragments.depth, groups, tresses, hairy)


def _shadows(stage: _Stage, light: Lights, asset: HeadAsset) -> Shadows:
    scalp = stage.groups[0][0]
    points = stage.view.pose(scalp.points[:, 1::2], scalp.portrait)
    owners = scalp.portrait[:, None].expand(points.shape[:2])
    return Shadows(light, stage.heads, stage.view, stage.mesh, asset.faces, points.reshape(-1, 3), owners.reshape(-1))


def _lamp(cast: Cast, stage: _Stage, shadows: Shadows) -> Tensor:
    """(P,) share of the lamp that each visible point sees; hair lets a fifth through."""
    surface, soft = stage.surface, at(cast.scene.light.softness, stage.surface.b)
    above = surface.position + surface.normal * 0.0015
    lamp = shadows.lit(above, surface.b, bias=0.004, radius=3.2 * soft, of=shadows.surface)
    past_hair = shadows.lit(surface.position, surface.b, bias=0.006, radius=5.0 * soft, of=shadows.hair)
    return lamp * (0.2 + 0.8 * past_hair)


def _matter(cast: Cast, stage: _Stage, asset: HeadAsset, size: int) -> _Matter:
    """Skin where it is bare, cloth where it is covered, both on the edge, and what is inside the mouth."""
    surface = stage.surface
    covered = clothes.cover(cast, surface.canonical, surface.b)
    seeds, who = torch.unique(cast.person.seed, return_inverse=True)
    bare = (covered < 1).nonzero()[:, 0]
    skin = paint_skin(cast, surface.of(bare), wrinkles.paint(seeds)[who], stage.heads.scale)
    albedo = torch.zeros_like(surface.position).index_copy(0, bare, skin.albedo)
    height = torch.zeros_like(covered).index_copy(0, bare, skin.height)
    oil = torch.zeros_like(covered).index_copy(0, bare, skin.oil)
    dressed = (covered > 0).nonzero()[:, 0]
    fabric, folds = clothes.cloth(cast, surface.canonical[dressed], surface.b[dressed], noise)
    share = covered[dressed]
    albedo[dressed] += share[:, None] * (fabric - albedo[dressed])
    height[dressed] += share * (folds - height[dressed])
    teeth = mouth.paint_mouth(cast, surface, stage.heads, stage.view, asset, size)
    albedo = torch.where(teeth.inside[:, None], teeth.albedo, albedo)
    return _Matter(albedo, height, oil, covered, teeth.tooth)


def _shaded(cast: Cast, stage: _Stage, matter: _Matter, light: Lights, lamp: Tensor, size: int) -> Tensor:
    """(P, 3) light that comes from each visible point."""
    surface, view, batch = stage.surface, stage.view, len(cast)
    # teeth stand upright and rather free, unlike the cavity that they are painted on
    outward = torch.einsum("bij,j->bi", view.turn, view.turn.new_tensor([0.0, -0.995, 0.0995]))
    tooth = matter.tooth[:, None]
    surface = surface._replace(normal=surface.normal + tooth * (at(outward, surface.b) - surface.normal))
    occlusion = surface.occlusion + matter.tooth * (0.8 - surface.occlusion)
    lamp = lamp + matter.tooth * (0.75 - lamp)

    on_skin = surface.kind == SKIN
    bent = shade.relief(surface, matter.height, on_skin, view.camera, batch, size)
    falling = shade.irradiance(surface, bent, light, lamp, occlusion, gather(stage.hairy, surface.pixel)[:, 0])
    skin = on_skin.float() * (1 - matter.covered)
    falling = shade.bleed(falling, skin, surface, batch, size)
    glint = shade.shine(surface, bent, light, view, lamp, matter.oil, surface.lips)
    colour = matter.albedo * falling + skin[:, None] * glint
    ball = ((surface.kind == LEFT_EYE) | (surface.kind == RIGHT_EYE)).nonzero()[:, 0]
    lids = eyes.lid_shadow(surface, batch, size)
    colour[ball] = eyes.shade_eyes(cast, surface.of(ball), stage.heads, view, light, lamp[ball], lids[ball])
    return colour


def develop(picture: Tensor, cast: Cast) -> Tensor:
    """Linear light (B, 3, n, n) to the 8-bit picture: exposure, film curve, sRGB, grain."""
    picture = pad(avg_pool2d(picture, SUPERSAMPLING), (2, 2, 2, 2), mode="replicate")
    picture = blur(picture, 0.42)[..., 2:-2, 2:-2] * (0.92 * cast.scene.light.exposure)[:, None, None, None]
    picture = (picture * (1 + 0.10 * picture) / (1 + 0.32 * picture) * 1.12).clamp(0, 1)
    picture = torch.where(picture < 0.0031308, picture * 12.92, 1.055 * picture.clamp(min=1e-6) ** (1 / 2.4) - 0.055)
    each = torch.arange(picture[0].numel(), device=picture.device)
    grain = normals(cast.scene.seed[:, None], each, 7).view_as(picture)
    picture = picture + grain * cast.scene.grain[:, None, None, None]
    return (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
