"""Patch edits: what changed between two pictures, or two codes, kept to a part of the face.

Places are shares of the aligned face's side, x from the left and y from the top: FFHQ's crop puts the eyes at
(0.375, 0.475) and (0.625, 0.475) and the mouth at (0.5, 0.7), give or take a few hundredths. A mask is 1 where the
change is shown, 0 where it is not, and fades inwards from its edge: outside the region nothing changes at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.stylegan2 import Generator, Noise

FEATHER = 0.04  # share of the face's side over which a change fades in


@dataclass(frozen=True)
class Box:
    """A rectangle by its edges, shares of the side."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, x: Tensor, y: Tensor) -> Tensor:
        """Which of the points lie inside."""
        return (x >= self.left) & (x <= self.right) & (y >= self.top) & (y <= self.bottom)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse by its centre and half axes, shares of the side."""

    x: float
    y: float
    half_width: float
    half_height: float

    def covers(self, x: Tensor, y: Tensor) -> Tensor:
        """Which of the points lie inside."""
        return ((x - self.x) / self.half_width).square() + ((y - self.y) / self.half_height).square() <= 1


@dataclass(frozen=True)
class Region:
    """What lies in any of some shapes and in none of others."""

    inside: tuple[Box | Ellipse, ...]
    outside: tuple[Box | Ellipse, ...] = ()

    def covers(self, x: Tensor, y: Tensor) -> Tensor:
        """Which of the points belong to it."""
        within = reduce(torch.logical_or, (shape.covers(x, y) for shape in self.inside))
        return reduce(lambda kept, shape: kept & ~shape.covers(x, y), self.outside, within)


_FACE = Ellipse(0.5, 0.55, 0.27, 0.33)
_EYES = (Ellipse(0.375, 0.475, 0.095, 0.06), Ellipse(0.625, 0.475, 0.095, 0.06))
_LIPS = Ellipse(0.5, 0.715, 0.12, 0.055)

REGIONS: dict[str, Region] = {
    "face": Region((_FACE,)),
    "hair": Region((Box(0, 0, 1, 0.24), Ellipse(0.5, 0.4, 0.45, 0.42), Box(0, 0.2, 0.2, 1), Box(0.8, 0.2, 1, 1)),
                   (Ellipse(0.5, 0.58, 0.27, 0.34), Box(0.2, 0.62, 0.8, 1))),
    "forehead": Region((Ellipse(0.5, 0.33, 0.22, 0.1),)),
    "brows": Region((Ellipse(0.365, 0.4, 0.11, 0.045), Ellipse(0.635, 0.4, 0.11, 0.045))),
    "eyes": Region(_EYES),
    "nose": Region((Ellipse(0.5, 0.57, 0.085, 0.11),)),
    "mouth": Region((_LIPS,)),
    "beard": Region((Ellipse(0.5, 0.76, 0.27, 0.17),), (Box(0, 0, 1, 0.635), Ellipse(0.5, 0.715, 0.095, 0.03))),
    "skin": Region((_FACE,), (*_EYES, _LIPS)),
}  # fmt: skip
"""Parts of an aligned face, by name; their outlines are means, not segmentations."""

Where = str | Box | Ellipse | Region | Image.Image | Tensor | Iterable["Where"]
"""Names of regions ("hair", "hair+beard"), shapes, a mask picture (white: show), a mask (H, W) in 0-1, or several."""


def mask_of(where: Where, size: int, feather: float = FEATHER) -> Tensor:
    """A mask (1, 1, size, size), 0 to 1.

    Args:
        where: see `Where`; of several, each point takes the largest value.
        size: side of the pictures it is for, pixels.
        feather: share of the side over which it rises from 0 at the edge to 1; 0 for a sharp one. Mask pictures are
            feathered as well.
    Raises:
        InputError: an unknown region, or a mask that shows nothing.
    """
    if not 0 <= feather <= 0.5:
        raise InputError(f"feather is a share of the face's side, from 0 to 0.5, not {feather}.")
    mask = _feathered(_drawn(where, size), round(feather * size))
    if not mask.any():
        raise InputError("The mask shows nothing: enlarge the region, or lessen feather.")
    return mask


def _drawn(where: Where, size: int) -> Tensor:
    """The mask with sharp edges."""
    if isinstance(where, str):
        names = [name.strip() for name in where.split("+")]
        if unknown := [name for name in names if name not in REGIONS]:
            raise InputError(f"There is no region {unknown[0]!r}. Known: {', '.join(REGIONS)}; join several by +.")
        return _largest(_drawn(REGIONS[name], size) for name in names)
    if isinstance(where, Box | Ellipse | Region):
        middle = (torch.arange(size) + 0.5) / size
        return where.covers(middle[None, :], middle[:, None]).float()[None, None]
    if isinstance(where, Image.Image):
        # box: every pixel of the mask counts, and where it is black all around the result is exactly 0
        small = where.convert("L").resize((size, size), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small, np.float32) / 255)[None, None]
    if isinstance(where, Tensor):
        if where.ndim != 2 or not ((where >= 0) & (where <= 1)).all():
            raise InputError(f"A mask is (H, W) with values from 0 to 1, not {list(where.shape)}.")
        return F.interpolate(where.detach().float().cpu()[None, None], size=(size, size), mode="area")
    return _largest(_drawn(each, size) for each in where)


def _largest(masks: Iterable[Tensor]) -> Tensor:
    masks = list(masks)
    if not masks:
        raise InputError(f"No region is given. Known: {', '.join(REGIONS)}.")
    return reduce(torch.maximum, masks)


def _feathered(mask: Tensor, pixels: int) -> Tensor:
    """Fade inwards: what was 0 stays exactly 0, what is `pixels` away from it stays as it is."""
    if pixels < 1:
        return mask
    shown = (mask > 0).float()
    for _ in range(2):  # two boxes make a tent: a smooth ramp, half of it on either side of the edge
        shown = F.pad(shown, (pixels // 2, pixels - pixels // 2) * 2, mode="replicate")
        shown = F.avg_pool2d(shown, pixels + 1, stride=1)
    inner = torch.where(shown > 1 - 1e-5, 1.0, (2 * shown - 1).clamp(0, 1))  # sums of ones are not quite one
    return torch.where(mask > 0, inner * mask, 0.0)


def patch(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """`before` with what changed in `after` where the mask is 1; exact at 0 and 1.

    Args:
        before, after: (N, C, S, S), pictures or feature maps.
        mask: (1 or N, 1, S, S), 0 to 1.
    """
    return torch.lerp(before, after, mask.to(before).expand_as(before))


def patch_images(
    before: Image.Image, after: Image.Image, where: Where, feather: float = FEATHER
) -> Image.Image:  # fmt: skip
    """The same for two RGB pictures of one size: outside the region, every pixel is that of `before`."""
    if before.size != after.size or before.width != before.height:
        raise InputError(f"Two square pictures of one size are patched, not {before.size} and {after.size}: resize.")
    mask = mask_of(where, before.width, feather)[0, 0, :, :, None].numpy()
    old, new = (np.asarray(picture.convert("RGB"), np.float32) for picture in (before, after))
    return Image.fromarray(np.rint(old + mask * (new - old)).astype(np.uint8))


@torch.no_grad()
def synthesize_patch(
    generator: Generator,
    before: Tensor,
    after: Tensor,
    where: Where,
    feather: float = FEATHER,
    noise: Noise = "stored",
) -> Tensor:
    """The picture of one code, and in a region that of another, blended in the generator's feature maps.

    Both are made side by side; behind every layer the second's map is set back to the first's outside the region, so
    that what grows inside fits its surroundings. The last blend is one of pixels: outside the region the result is
    the first picture, bit for bit but for the batch's rounding.

    Args:
        before, after: codes (N, n_styles, D).
        where, feather: see `mask_of`.
    Returns:
        (N, 3, size, size).
    """
    sharp = mask_of(where, generator.size, feather)
    masks = {2**level: F.avg_pool2d(sharp, generator.size // 2**level) for level in range(2, _log2(generator.size) + 1)}
    masks = {side: mask.to(before) for side, mask in masks.items()}
    count = len(before)

    def keep_outside(module: nn.Module, inputs: Sequence[Tensor], maps: Tensor) -> Tensor:
        first, second = maps[:count], maps[count:]
        return torch.cat([first, patch(first, second, masks[maps.shape[-1]])])

    layers = [generator.conv1, *generator.convs, generator.to_rgb1, *generator.to_rgbs]
    hooks = [layer.register_forward_hook(keep_outside) for layer in layers]
    try:
        return generator.synthesize(torch.cat([before, after]), noise)[count:]
    finally:
        for hook in hooks:
            hook.remove()


def _log2(size: int) -> int:
    return size.bit_length() - 1
