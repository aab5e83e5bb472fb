"""Hair as what it is: thousands of thin curves. Here they are drawn and lit; `hair`, `brows` and `beard` grow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam_age.lifespan.camera import View, towards
from sam_age.lifespan.curves import dot, step, unit
from sam_age.lifespan.head import Heads
from sam_age.lifespan.images import blur, gather, scatter
from sam_age.lifespan.light import Lights, Shadows
from sam_age.lifespan.rasterise import DEPTH_STEPS, EMPTY
from sam_age.lifespan.rows import at

_ID_BITS = 30
_SOFT = 0.45
_DEEP = 0.0015  # metres below the outer hair at which hair is taken for hidden
_BIAS = 0.0004  # metres that a strand may lie under the surface and be seen: roots do


class Strands(NamedTuple):
    """Strands of one sort, of all portraits of a batch, in the head's own frame before it is turned.

    M strands of S + 1 points each; M may be 0.
    """

    points: Tensor  # (M, S + 1, 3) metres, root first
    portrait: Tensor  # (M,) row in the batch, ascending
    layer: Tensor  # (M,) 0 deep, 1 outermost: deep strands see less light
    tint: Tensor  # (M,) how much lighter or darker than the person's hair, standard normal
    colour: Tensor  # (M, 3) linear RGB albedo, greyness included
    opacity: Tensor  # (M,) 0-1: a baby's hair is too fine to hide what is behind it


class Sort(NamedTuple):
    """How strands of one sort are drawn."""

    width: int  # pixels in a picture of side 512
    opacity: float
    fades: float  # share of opacity lost at the tip
    gloss: float
    lift: float  # metres nearer to the camera than they are, so that short hair is not lost in the skin
    matte: bool  # hair of the head: softened where strands are few


SCALP = Sort(width=2, opacity=1.0, fades=0.0, gloss=1.0, lift=0.0, matte=True)
BROW = Sort(width=1, opacity=0.75, fades=0.5, gloss=0.12, lift=0.0006, matte=False)
LASH = Sort(width=1, opacity=0.80, fades=0.5, gloss=0.12, lift=0.0006, matte=False)
BEARD = Sort(width=1, opacity=0.75, fades=0.5, gloss=0.12, lift=0.0006, matte=False)


class Seen(NamedTuple):
    """The nearest strand at each pixel that has one."""

    pixel: Tensor  # (P,) index into B * size * size, ascending
    b: Tensor  # (P,)
    sort: Tensor  # (P,) which of the sorts
    strand: Tensor  # (P,) index among the strands of its sort
    along: Tensor  # (P,) 0 root to 1 tip
    position: Tensor  # (P, 3) world
    tangent: Tensor  # (P, 3) unit
    depth: Tensor  # (P,) metres


def draw(groups: Sequence[tuple[Strands, Sort]], view: View, behind: Tensor, size: int) -> Seen:
    """Find the strand that is nearest at each pixel.

    Args:
        behind: (B * size * size,) depth of the surface, FAR where there is none.
    """
    best = torch.full_like(behind, EMPTY, dtype=torch.int64)
    starts, ends, segment_strand, segment_along, first = [], [], [], [], [0]
    for strands, sort in groups:
        world = view.pose(strands.points, strands.portrait)
        pixels = view.project(world, strands.portrait, size)
        steps = world.shape[1] - 1
        _splat(best, pixels, strands, sort, behind, size, first[-1])
        starts.append(world[:, :-1].reshape(-1, 3))
        ends.append(world[:, 1:].reshape(-1, 3))
        index = torch.arange(len(world) * steps, device=behind.device)
        segment_strand.append(torch.div(index, max(steps, 1), rounding_mode="floor"))
        segment_along.append((index % max(steps, 1)) / max(steps, 1))
        first.append(first[-1] + len(index))
    pixel = (best < EMPTY).nonzero()[:, 0]
    segment = best[pixel] & ((1 << _ID_BITS) - 1)
    b = torch.div(pixel, size * size, rounding_mode="floor")
    start, end = torch.cat(starts)[segment], torch.cat(ends)[segment]
    limits = torch.tensor(first[1:], device=pixel.device)
    sort_of = torch.bucketize(segment, limits, right=True)
    both = view.project(torch.stack([start, end], 1), b, size)
    x, y = pixel % size + 0.5, torch.div(pixel, size, rounding_mode="floor") % size + 0.5
    line = both[:, 1, :2] - both[:, 0, :2]
    t = dot(torch.stack([x, y], 1) - both[:, 0, :2], line) / dot(line, line).clamp(min=1e-6)
    t = t.clamp(0, 1)
    per_sort = torch.tensor([1.0 / max(s.points.shape[1] - 1, 1) for s, _ in groups], device=pixel.device)
    return Seen(
        pixel=pixel,
        b=b,
        sort=sort_of,
        strand=torch.cat(segment_strand)[segment],
        along=torch.cat(segment_along)[segment] + t * per_sort[sort_of],
        position=start + t[:, None] * (end - start),
        tangent=unit(end - start),
        depth=(best[pixel] >> _ID_BITS).float() / DEPTH_STEPS,
    )


def _splat(best: Tensor, pixels: Tensor, strands: Strands, sort: Sort, behind: Tensor, size: int, first: int) -> None:
    """Enter the points of one sort's strands into `best`, packed (depth, segment).

    Hair of the head goes in from the outside: what then lies below it, most of it, is not even looked at.
    """
    steps = pixels.shape[1] - 1
    start, end = pixels[:, :-1].reshape(-1, 3), pixels[:, 1:].reshape(-1, 3)
    owner = strands.portrait.repeat_interleave(steps)
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    on_picture = (high[:, 0] >= 0) & (high[:, 1] >= 0) & (low[:, 0] < size) & (low[:, 1] < size) & (low[:, 2] > 0)
    middle = (start + end)[:, :2].mul(0.5).long().clamp(0, size - 1)
    middle = (owner * size + middle[:, 1]) * size + middle[:, 0]
    near = on_picture & (low[:, 2] < behind.index_select(0, middle) + 0.02)
    outer = (strands.layer > 0.6).repeat_interleave(steps) if sort.matte else torch.ones_like(near)
    segment = (near & outer).nonzero()[:, 0]
    _enter(best, start[segment], end[segment], owner[segment], segment + first, sort, behind, size)
    segment = (near & ~outer).nonzero()[:, 0]
    over = (best.index_select(0, middle[segment]) >> _ID_BITS).float() / DEPTH_STEPS
    segment = segment[low[segment, 2] < over + _DEEP]
    _enter(best, start[segment], end[segment], owner[segment], segment + first, sort, behind, size)


def _enter(
    best: Tensor, start: Tensor, end: Tensor, owner: Tensor, number: Tensor, sort: Sort, behind: Tensor, size: int
) -> None:
    """Enter the points of some segments (N, 3) to (N, 3), whose numbers are `number` (N,)."""
    count = ((end - start)[:, :2].abs().amax(1) / 1.05).ceil().long().clamp(1, 64)
    row = torch.repeat_interleave(count)
    nth = torch.arange(len(row), device=best.device) - (count.cumsum(0) - count).index_select(0, row)
    stride = (end - start) / count[:, None]

    def along(k: int) -> Tensor:
        return start[:, k].index_select(0, row) + (nth + 0.5) * stride[:, k].index_select(0, row)

    x, y, depth = along(0), along(1).floor().long(), along(2)
    key = (((depth - sort.lift) * DEPTH_STEPS).long() << _ID_BITS) | number.index_select(0, row)
    line = (owner.index_select(0, row) * size + y) * size
    above = (y >= 0) & (y < size)
    width = max(1, round(sort.width * size / 512))
    for k in range(width):
        column = (x + (k - 0.5 * (width - 1))).floor().long()
        pixel = torch.where(above & (column >= 0) & (column < size), line + column, -1)
        seen = ((pixel >= 0) & (depth < behind.index_select(0, pixel.clamp(min=0)) + _BIAS)).nonzero()[:, 0]
        best.scatter_reduce_(0, pixel.index_select(0, seen), key.index_select(0, seen), "amin")


def shade(
    seen: Seen, groups: Sequence[tuple[Strands, Sort]], heads: Heads, view: View, light: Lights, shadows: Shadows
) -> Tensor:
    """Radiance (P, 3) of the strands seen.

    Source: Kajiya & Kay 1989; two highlights, of which the second has the hair's colour, after Marschner et al. 2003.
    """
    own, layer, colour = (_each(seen, groups, name) for name in ("tint", "layer", "colour"))
    gloss = seen.tangent.new_tensor([sort.gloss for _, sort in groups])[seen.sort]
    scalp = seen.tangent.new_tensor([float(sort.matte) for _, sort in groups])[seen.sort]
    b, key = seen.b, at(light.key, seen.b)
    every = torch.arange(len(heads.scale), device=b.device)
    outward = unit(seen.position - view.pose(heads.centre, every)[b])
    colour = colour * (1 + 0.22 * own.clamp(-2, 2))[:, None]
    colour = (colour * (1 + scalp * (0.38 * seen.along - 0.28))[:, None]).clamp(min=0.004)

    bias = 0.010 * at(heads.scale, b)
    past_hair = shadows.lit(seen.position, b, bias=bias, radius=3.0, of=shadows.hair, taps=6)
    past_head = shadows.lit(seen.position, b, bias=bias, radius=3.0, of=shadows.surface, taps=6)
    lamp = past_head * (past_hair * scalp + (0.4 + 0.6 * past_hair) * (1 - scalp))
    open_ = torch.where(scalp > 0, 0.34 + 0.66 * layer.clamp(0, 1) ** 1.2, torch.full_like(layer, 0.85))
    across = (1 - dot(seen.tangent, key) ** 2).clamp(min=0).sqrt()
    facing = dot(outward, key)
    diffuse = (0.45 * across + 0.55) * ((facing + 0.35) / 1.35).clamp(min=0) * lamp * (0.35 + 0.65 * open_)
    sky = light.ambient(outward, b) * (1.1 * open_)[:, None]
    out = colour * (sky + at(light.key_colour, b) * diffuse[:, None])

    half = unit(key + towards(view.camera, seen.position, b))

    def lobe(shift: float, power: float) -> Tensor:
        leaning = unit(seen.tangent + outward * (shift + 0.05 * own)[:, None])
        return (1 - dot(leaning, half) ** 2).clamp(min=0) ** (power / 2)

    first, second = lobe(-0.10, 160.0) * (1 + 0.6 * own).clamp(min=0), lobe(0.14, 30.0)
    strength = gloss * lamp * open_ * ((facing + 0.3) / 1.3).clamp(min=0)
    glints = (0.010 + 0.10 * colour) * first[:, None] + 0.66 * colour * second[:, None]
    return out + strength[:, None] * at(light.key_colour, b) * glints


def compose(
    frame: Tensor, seen: Seen, colour: Tensor, groups: Sequence[tuple[Strands, Sort]], open_behind: Tensor
) -> Tensor:
    """Lay the strands over the picture.

    Where strands of the head are few they are let through softly, so that none stands alone like a wire; where
    they leave small gaps, most of all before an open background, these are closed with hair in shadow.

    Args:
        frame: (B, 3, size, size).
        open_behind: (B * size * size,) 1 where there is no skin behind: background or cloth.
    """
    batch, _, size, _ = frame.shape
    opacity = colour.new_tensor([sort.opacity for _, sort in groups])[seen.sort]
    fades = colour.new_tensor([sort.fades for _, sort in groups])[seen.sort]
    matte = colour.new_tensor([float(sort.matte) for _, sort in groups])[seen.sort]
    mass = scatter(torch.cat([colour * matte[:, None], matte[:, None]], 1), seen.pixel, batch, size)
    mass = blur(mass, 0.0042 * size)
    cover = mass[:, 3:]
    around = gather(mass, seen.pixel)
    few = 0.25 + 0.13 * (1 - open_behind[seen.pixel])  # before skin a stray hair is seen more than before a wall
    alone = step(few, few + 0.35, around[:, 3])
    softened = _SOFT * matte[:, None]  # hairs are finer than a pixel and a half, and so mix with their neighbours
    colour = colour + softened * (around[:, :3] / (around[:, 3:] + 1e-4) - colour)
    fine = _each(seen, groups, "opacity")
    fine = fine * (1 - (1 - fine) * open_behind[seen.pixel])  # fuzz is lost against the light: no halo round a baby
    alpha = opacity * fine * (1 - fades * seen.along) * (matte * alone + 1 - matte)

    hair = scatter(torch.cat([colour * alpha[:, None], alpha[:, None], torch.ones_like(alpha)[:, None]], 1),
                   seen.pixel, batch, size)  # fmt: skip
    solid = blur(scatter((matte * fine)[:, None], seen.pixel, batch, size), 0.0042 * size)
    dense = 0.25 + 0.30 * (1 - open_behind.view(batch, 1, size, size))  # before skin only specks are closed
    gaps = step(dense, dense + 0.35, solid) * (1 - hair[:, 4:])
    filled = frame * (1 - gaps) + gaps * 0.62 * mass[:, :3] / (cover + 1e-4)
    return filled * (1 - hair[:, 3:4]) + hair[:, :3]


def solid(seen: Seen, groups: Sequence[tuple[Strands, Sort]]) -> Tensor:
    """(P,) how much a pixel's strand hides what is behind it: 1 for hair of the head, less a baby's, 0 for brows."""
    matte = seen.depth.new_tensor([float(sort.matte) for _, sort in groups])[seen.sort]
    return matte * _each(seen, groups, "opacity")


def _each(seen: Seen, groups: Sequence[tuple[Strands, Sort]], name: str) -> Tensor:
    """A field of `Strands` (P, ...) for the strand at each pixel."""
    sizes = [len(strands.tint) for strands, _ in groups]
    first = torch.tensor([sum(sizes[:k]) for k in range(len(sizes))], device=seen.sort.device)
    return torch.cat([getattr(strands, name) for strands, _ in groups])[first[seen.sort] + seen.strand]
