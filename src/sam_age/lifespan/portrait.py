"""The portrait: person, age and scene to a picture, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from sam_age.errors import InputError
from sam_age.lifespan import beard, brows, clothes, eyes, glasses, hair, mouth, shade, strands, wrinkles
from sam_age.lifespan.asset import LEFT_EYE, RIGHT_EYE, SKIN, head_asset
from sam_age.lifespan.background import backdrops
from sam_age.lifespan.camera import posed_body, view
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.dice import normals
from sam_age.lifespan.head import shape, vertex_normals
from sam_age.lifespan.images import blur, gather, scatter
from sam_age.lifespan.light import Shadows, lights
from sam_age.lifespan.noise import noise
from sam_age.lifespan.person import Person
from sam_age.lifespan.rows import at
from sam_age.lifespan.scene import Scene
from sam_age.lifespan.skin import paint_skin
from sam_age.lifespan.stack import stack
from sam_age.lifespan.surface import see

SIZES = (32, 1024)  # pixels, smallest and largest portrait
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


def _light_field(cast: Cast, size: int) -> Tensor:
    """Linear RGB (B, 3, size, size), before film and supersampling."""
    batch, device = len(cast), cast.age.device
    asset = head_asset(str(device))

    # ---- geometry
    heads = shape(cast, asset)
    frame = view(cast, heads, asset)
    every = torch.arange(batch, device=device)
    dressed = heads.vertices + heads.normals * clothes.bulk(cast, asset, heads)[..., None]
    posed = posed_body(dressed, frame, asset)
    posed_normals = vertex_normals(posed, asset.faces)
    surface, fragments = see(frame.project(posed, every, size), posed, posed_normals, heads, asset, size)
    groups = [
        (hair.grow_hair(cast, heads, asset), strands.SCALP),
        (brows.grow_brows(cast, heads, asset), strands.BROW),
        (brows.grow_lashes(cast, heads, asset), strands.LASH),
        (beard.grow_beard(cast, heads, asset), strands.BEARD),
    ]
    tresses = strands.draw(groups, frame, fragments.depth, size)

    # ---- light
    backdrop = backdrops(cast, size)
    light = lights(cast, frame, backdrop)
    scalp = groups[0][0]
    points = frame.pose(scalp.points[:, 1::2], scalp.portrait)
    owners = scalp.portrait[:, None].expand(points.shape[:2])
    shadows = Shadows(light, heads, frame, posed, asset.faces, points.reshape(-1, 3), owners.reshape(-1))
    b, soft = surface.b, cast.scene.light.softness
    lamp = shadows.lit(
        surface.position + surface.normal * 0.0015, b, bias=0.004, radius=3.2 * at(soft, b), of=shadows.surface
    )
    past_hair = shadows.lit(surface.position, b, bias=0.006, radius=5.0 * at(soft, b), of=shadows.hair)
    lamp = lamp * (0.2 + 0.8 * past_hair)
    spectacles = glasses.see(cast, heads, frame, asset, fragments.depth, tresses, size)
    if spectacles is not None:
        lamp = lamp * (1 - 0.6 * gather(spectacles.shadow, surface.pixel)[:, 0])

    # ---- what the surface is made of
    seeds, who = torch.unique(cast.person.seed, return_inverse=True)
    paint = paint_skin(cast, surface, wrinkles.paint(seeds)[who], heads.scale)
    covered = clothes.cover(cast, surface.canonical, b)
    fabric, folds = clothes.cloth(cast, surface.canonical, b, noise)
    teeth = mouth.paint_mouth(cast, surface, heads, frame, asset, size)
    albedo = paint.albedo + covered[:, None] * (fabric - paint.albedo)
    albedo = torch.where(teeth.inside[:, None], teeth.albedo, albedo)
    height = paint.height + covered * (folds - paint.height)
    occlusion = surface.occlusion + teeth.tooth * (0.8 - surface.occlusion)
    lamp = lamp + teeth.tooth * (0.75 - lamp)
    outward = torch.einsum("bij,j->bi", frame.turn, frame.turn.new_tensor([0.0, -0.995, 0.0995]))[b]
    surface = surface._replace(normal=surface.normal + teeth.tooth[:, None] * (outward - surface.normal))

    # ---- light on it
    on_skin = surface.kind == SKIN
    bent = shade.relief(surface, height, on_skin, frame.camera, batch, size)
    covered_by_hair = torch.ones(len(tresses.pixel), 1, device=device)
    nearby = gather(blur(scatter(covered_by_hair, tresses.pixel, batch, size), 0.00625 * size), surface.pixel)[:, 0]
    falling = shade.irradiance(surface, bent, light, lamp, occlusion, nearby)
    skin = on_skin.float() * (1 - covered)
    falling = shade.bleed(falling, skin, surface, batch, size)
    glint = shade.shine(surface, bent, light, frame, lamp, paint.oil, surface.lips)
    colour = albedo * falling + skin[:, None] * glint
    ball = ((surface.kind == LEFT_EYE) | (surface.kind == RIGHT_EYE)).nonzero()[:, 0]
    lids = eyes.lid_shadow(surface, batch, size)
    colour[ball] = eyes.shade_eyes(cast, surface.of(ball), heads, frame, light, lamp[ball], lids[ball])

    # ---- the picture
    picture = backdrop.permute(0, 3, 1, 2).reshape(batch, 3, -1).clone()
    flat = picture.permute(0, 2, 1).reshape(-1, 3)
    flat[surface.pixel] = colour
    picture = flat.view(batch, size, size, 3).permute(0, 3, 1, 2)
    open_behind = torch.ones(batch * size * size, device=device)
    open_behind[surface.pixel] = covered
    radiance = strands.shade(tresses, groups, heads, frame, light, shadows)
    picture = strands.compose(picture, tresses, radiance, groups, open_behind)
    return glasses.wear(picture, spectacles, cast, frame, light)


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
