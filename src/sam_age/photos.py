"""Whole photographs: aged faces back in their place, everything else as it was.

A face that `sam_age.data.align` cut out is put back by the inverse of the same cut, under a mask that is soft at its
edge. Where the masks of neighbours overlap, each pixel goes to the face it is nearer to; faces that were not chosen
defend theirs as well. Outside the mask every pixel of the photograph stays bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sam_age.choices import Which, check_ages, choose
from sam_age.data.align import align, corners, quad_side, shown
from sam_age.data.images import Photo, read_photo
from sam_age.data.storing import write_whole
from sam_age.errors import InputError
from sam_age.models.sam import FACE_SIZE
from sam_age.sheets import Cell, sheet

if TYPE_CHECKING:
    from sam_age.data.detect import Face
    from sam_age.pipeline import AgedFace, AgingPipeline

# Half axes, in half sides of the crop, of the curve where a mask has faded out; its centre; its exponent (2: an
# ellipse, more: squarer); and the share of the half axes over which it fades. An FFHQ crop has the chin at 0.9 of its
# height and the hair at 0.05 to 0.2: "head" fades out beyond both, and before the crop's outermost pixels.
REGIONS = {
    "head": ((0.97, 0.97), (0.5, 0.5), 3.0, 0.13),  # hair too, which greys
    "face": ((0.66, 0.80), (0.5, 0.56), 2.2, 0.30),  # the skin alone: hair and background as they were
}
_SHARPNESS = 8  # how steeply neighbours' shares change between their faces
_MATCH = 24  # levels: more than this is the picture's own change, not a cast of its colours

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "method": 3, "exact": True},
    "TIFF": {"compression": "tiff_deflate"},
}


@dataclass(frozen=True)
class _Place:
    """Where a face goes: a box of the photograph and, for its pixels, the place in the crop and the weight."""

    box: tuple[int, int, int, int]  # left, top, right, bottom
    affine: tuple[float, ...]  # Pillow's six numbers: pixels of the box -> the crop, as shares of its side
    side: float  # of the crop, pixels of the photograph
    weight: np.ndarray  # (h, w) float32 in [0, 1]: of the aged face
    zone: np.ndarray  # (h, w) bool: the soft edge, where colours are compared

    @property
    def slices(self) -> tuple[slice, slice]:
        left, top, right, bottom = self.box
        return slice(top, bottom), slice(left, right)


class Paster:
    """Puts faces back into one photograph; masks are made once, for any number of results.

    Args:
        photo: from `read_photo`, or an RGB picture.
        quads: (4, 2) each, of the faces to come, as `sam_age.data.align` had them.
        others: quads of faces that are to stay as they are.
        region: "head" pastes hair and all, "face" the skin alone.
        match_colours: remove a cast: move each pasted face by the median difference, channel by channel, between it
            and the photograph in the soft edge of its mask.
        size: side of the crops that were made of the quads, pixels.
    """

    def __init__(
        self,
        photo: Photo | Image.Image,
        quads: Sequence[np.ndarray],
        *,
        others: Sequence[np.ndarray] = (),
        region: str = "head",
        match_colours: bool = True,
        size: int = FACE_SIZE,
    ) -> None:
        if region not in REGIONS:
            raise InputError(f"region is one of {', '.join(REGIONS)}, not {region!r}.")
        self.photo = photo if isinstance(photo, Photo) else Photo(photo.convert("RGB"))
        self.match_colours = match_colours
        self._pixels = np.asarray(self.photo.image)
        picture = self.photo.image.size
        planes = [corners(picture, quad, size) for quad in [*quads, *others]]
        self._places = [_place(picture, quad, planes, n, region, size) for n, quad in enumerate(quads)]

    @property
    def mask(self) -> Image.Image:
        """Where the photograph may change: "L", its size; 0: not at all, 255: replaced."""
        whole = np.zeros(self._pixels.shape[:2], np.float32)
        for place in self._places:
            whole[place.slices] += place.weight
        return Image.fromarray(np.ceil(np.clip(whole, 0, 1) * 255).astype(np.uint8))

    def paste(self, pictures: Sequence[Image.Image], strengths: Sequence[float] | None = None) -> Image.Image:
        """The photograph with these faces, one a quad, of any size: RGB, L where it was grey, RGBA with its alpha.

        Args:
            strengths: how much of each face shows, 0 to 1; None: all of it.
        """
        changes = [self._change(place, face) for place, face in zip(self._places, pictures, strict=True)]
        for change, strength in zip(changes, strengths or (), strict=strengths is not None):
            change *= strength
        result = self._pixels.copy()
        for place in self._places:
            total = np.zeros((*place.weight.shape, 3), np.float32)
            for other, change in zip(self._places, changes, strict=True):
                _add_overlap(total, place.box, change, other.box)
            result[place.slices] = np.clip(np.rint(self._pixels[place.slices] + total), 0, 255).astype(np.uint8)
        if self.photo.rgba is not None:
            return self._transparent(result)
        image = Image.fromarray(result)
        return image.getchannel(0) if self.photo.grey else image

    def _change(self, place: _Place, face: Image.Image) -> np.ndarray:
        """What a face adds to the photograph within its box, (h, w, 3)."""
        face = face.convert("L").convert("RGB") if self.photo.grey else face.convert("RGB")
        # Pillow's transform reads 4 x 4 pixels, however far apart its steps: shrink first, to what loses least
        side = min(face.width, max(1, round(1.5 * place.side)))
        if side < face.width:
            face = face.resize((side, side), Image.Resampling.LANCZOS)
        left, top, right, bottom = place.box
        affine = tuple(value * side for value in place.affine)
        size = (right - left, bottom - top)
        drawn = [  # as floats: Pillow's transform of bytes cuts fractions off, half a level on average
            band.convert("F").transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
            for band in face.split()
        ]
        change = np.stack([np.asarray(band) for band in drawn], -1) - self._pixels[place.slices]
        if self.match_colours and place.zone.any():
            change -= np.clip(np.median(change[place.zone], axis=0), -_MATCH, _MATCH)
        return change * place.weight[..., None]

    def _transparent(self, result: np.ndarray) -> Image.Image:
        """The result, made on white, as colours under the photograph's own alpha."""
        stored = np.array(self.photo.rgba)
        alpha = stored[..., 3].astype(np.float32) / 255
        for place in self._places:
            part, opacity = stored[place.slices], alpha[place.slices][..., None]
            colours = (result[place.slices] - 255 * (1 - opacity)) / np.maximum(opacity, 1 / 255)
            changed = (place.weight > 0) & (opacity[..., 0] > 0)
            part[..., :3][changed] = np.clip(np.rint(colours), 0, 255).astype(np.uint8)[changed]
        return Image.fromarray(stored)


def _place(
    picture: tuple[int, int], quad: np.ndarray, planes: list[np.ndarray], number: int, region: str, size: int
) -> _Place:
    """Box, geometry and weights of face `number` among all `planes` (corners of crops in the photograph)."""
    plane = planes[number]
    low = np.maximum(np.floor(plane.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(plane.max(0)).astype(int), picture)
    x, y = np.arange(low[0], high[0])[None, :], np.arange(low[1], high[1])[:, None]
    masks = [_mask(*_shares(other, x, y), region) for other in planes]
    mask, radius = masks[number]
    claims = [m * np.maximum(r, 1e-3) ** -_SHARPNESS for m, r in masks]
    share = claims[number] / np.maximum(sum(claims), 1e-30)
    weight = mask * share * shown(picture, quad, x, y, size)
    # only the outer edge of the mask compares like with like: neighbours and borders of the photograph do not
    zone = (weight > 0.02) & (weight < 0.98) & (share > 0.98) & (radius > 1 - REGIONS[region][3])
    inverse = _inverse(plane)
    offset = inverse[:, :2] @ low + inverse[:, 2]
    affine = (*inverse[0, :2], offset[0], *inverse[1, :2], offset[1])
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    return _Place(box, affine, quad_side(plane), weight.astype(np.float32), zone)


def _inverse(plane: np.ndarray) -> np.ndarray:
    """(2, 3): the photograph's coordinates -> shares of the crop's side, across and down.

    A quad is a parallelogram: three of its corners say where it lies.
    """
    origin, down, across = plane[0], plane[1] - plane[0], plane[3] - plane[0]
    matrix = np.linalg.inv(np.stack([across, down], 1))
    return np.concatenate([matrix, -(matrix @ origin)[:, None]], 1)


def _shares(plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels lie in a crop, as shares of its side; their middles count."""
    inverse = _inverse(plane)
    across, down = (row[0] * (x + 0.5) + row[1] * (y + 0.5) + row[2] for row in inverse)
    return across, down


def _mask(across: np.ndarray, down: np.ndarray, region: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights in [0, 1], smooth, and the distance from the region's middle: 1 where they have faded out."""
    (half_width, half_height), (x, y), exponent, feather = REGIONS[region]
    far = np.abs((across - x) * 2 / half_width) ** exponent + np.abs((down - y) * 2 / half_height) ** exponent
    radius = far ** (1 / exponent)
    inside = np.clip((1 - radius) / feather, 0, 1)
    return inside * inside * (3 - 2 * inside), radius


def _add_overlap(
    total: np.ndarray, box: tuple[int, int, int, int], change: np.ndarray, other: tuple[int, int, int, int]
) -> None:
    """Add to `total`, which lies in `box`, what `change` in the box `other` says of the same pixels."""
    left, top = max(box[0], other[0]), max(box[1], other[1])
    right, bottom = min(box[2], other[2]), min(box[3], other[3])
    if right > left and bottom > top:
        into = total[top - box[1] : bottom - box[1], left - box[0] : right - box[0]]
        into += change[top - other[1] : bottom - other[1], left - other[0] : right - other[0]]


# ---- a photograph and its people -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AgedPhoto:
    """A photograph with some of its faces at every age asked for."""

    photo: Photo
    found: list[Face]  # every face, largest first
    chosen: list[int]  # which of them were aged
    faces: list[AgedFace]  # those, one each
    ages: list[float]  # years, as asked
    paster: Paster

    def image(self, number: int = 0) -> Image.Image:
        """The photograph at `ages[number]`, of its own size; made anew at each call, as photographs are large."""
        return self.paster.paste([face.images[number] for face in self.faces])

    @property
    def images(self) -> list[Image.Image]:
        """All of them."""
        return [self.image(number) for number in range(len(self.ages))]

    @property
    def mask(self) -> Image.Image:
        """Where they may differ from the photograph; 0: nowhere."""
        return self.paster.mask

    def cells(self) -> list[Cell]:
        """The photograph and all ages, each with its caption; of several faces the numbers that `faces=` takes."""
        aged = [(self.image(number), f"age {age:g}") for number, age in enumerate(self.ages)]
        image = self.photo.image if len(self.found) == 1 else number_faces(self.photo.image, self.found)
        return [(image, "input"), *aged]

    def sheet(self, cell: int = 512) -> Image.Image:
        """They side by side, at most four in a row, none wider or higher than `cell` pixels."""
        cells = self.cells()
        columns = min(len(cells), 4)
        return sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], cell)

    def save(self, path: str | Path, number: int = 0) -> Path:
        """Write `image(number)`; see `save_photo`."""
        return save_photo(self.image(number), path, self.photo)


def age_photo(
    pipeline: AgingPipeline,
    photo: str | Path | bytes | Image.Image,
    ages: Sequence[float],
    *,
    faces: Which = "all",
    region: str = "head",
    match_colours: bool = True,
) -> AgedPhoto:
    """Age faces within a photograph: each is put back where it was, the rest stays as it is.

    Args:
        photo: a path, a file's bytes, or a picture.
        ages: target ages, years, 0 to 100.
        faces: "all", "largest", or numbers of faces, the largest being 0.
        region: "head" puts hair and all back, "face" the skin alone.
        match_colours: take out a difference in colour at the mask's edge.
    Returns:
        `images` of the photograph's size, one per age; the aged `faces`; the `mask`.
    Raises:
        InputError: not an image, no face in it, or an age or number that is none.
    """
    ages = check_ages(ages)
    if region not in REGIONS:
        raise InputError(f"region is one of {', '.join(REGIONS)}, not {region!r}.")
    name = str(photo) if isinstance(photo, str | Path) else "the picture"
    picture = read_photo(photo)
    found = pipeline.detect(picture.image, name)
    chosen = choose(faces, len(found), name)
    quads = [found[number].quad for number in chosen]
    aged = pipeline.age_faces([align(picture.image, quad, FACE_SIZE) for quad in quads], ages)
    others = [face.quad for number, face in enumerate(found) if number not in chosen]
    paster = Paster(picture, quads, others=others, region=region, match_colours=match_colours)
    placed = [replace(face, quad=quad) for face, quad in zip(aged, quads, strict=True)]
    return AgedPhoto(picture, found, chosen, placed, ages, paster)


def number_faces(image: Image.Image, found: Sequence[Face]) -> Image.Image:
    """A copy with each face's number beside its box: the numbers that `faces=` takes."""
    image = image.convert("RGB").copy()
    draw = ImageDraw.Draw(image)
    line = max(2, max(image.size) // 400)
    font = ImageFont.load_default(size=max(14, max(image.size) // 40))
    for number, face in enumerate(found):
        left, top = face.box[:2]
        draw.rectangle(tuple(face.box.tolist()), outline="yellow", width=line)
        label = draw.textbbox((left, top), str(number), font=font)
        draw.rectangle(label, fill="yellow")
        draw.text((left, top), str(number), fill="black", font=font)
    return image


def save_photo(image: Image.Image, path: str | Path, photo: Photo | None = None) -> Path:
    """Write a picture at its own size, upright, with the photograph's colour profile.

    PNG, TIFF and WebP are written without loss, JPEG at quality 95 (and what is transparent on white). EXIF is left
    out: its thumbnail shows the face as it was, its place and time are nobody's business, and turned it is already.

    Raises:
        InputError: another suffix, or a place where nothing can be written.
    """
    path = Path(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"Photos are written as {', '.join(SUFFIXES)}, not {path.name}: give it such a suffix.")
    if kind == "JPEG" and image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    profile = None if photo is None else photo.icc_profile
    file = BytesIO()
    try:
        image.save(file, format=kind, icc_profile=profile, **_OPTIONS.get(kind, {}))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, file.getvalue())
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from None
    return path
