"""The crop that FFHQ made of every face: eyes level, the mouth below them, a fixed share of hair and chin.

A *quad* is the square to cut out, as four corners in the photograph's pixels, float array (4, 2) of (x, y), in the
order upper left, lower left, lower right, upper right of the crop. Coordinates count pixel centres: (0, 0) is the
middle of the first pixel, as landmark detectors give them.

Source: Karras et al. 2019 (StyleGAN), appendix A and the FFHQ dataset tool; shrinking, padding and the blurred
borders are theirs. The authors of SAM resample straight to 256 pixels (`supersample=1`), which aliases; FFHQ itself
resamples to four times the size and reduces, which is the default here.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from sam_age.errors import InputError

_BORDER = 0.1  # margin kept around the quad when cropping, share of its side
_PAD = 0.3  # least padding once padding is needed at all, share of the side
_BLUR = 0.02  # standard deviation of the blur on padded borders, share of the side


def quad_from_points(left_eye: np.ndarray, right_eye: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """FFHQ's square for a face whose eye centres and middle of the mouth are known.

    Args:
        left_eye, right_eye, mouth: (x, y) in pixels; left and right as seen in the picture.
    Returns:
        The quad, (4, 2). Its side is 4 times the distance between the eyes or 3.6 times that from eyes to mouth,
        whichever is larger; it is turned by the mean of the two directions.
    Raises:
        InputError: the points coincide.
    """
    eyes = (left_eye + right_eye) / 2
    across = right_eye - left_eye
    down = mouth - eyes
    x = across + np.array([down[1], -down[0]])  # the two axes, one turned by 90 degrees, averaged
    length = np.hypot(*x)
    if not np.isfinite(length) or length < 1e-6:
        raise InputError("These landmarks are not a face: eyes and mouth coincide. Check the landmarks.")
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8) / length
    y = np.array([-x[1], x[0]])
    centre = eyes + down * 0.1
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def quad_from_68(landmarks: np.ndarray) -> np.ndarray:
    """The quad from dlib's 68 landmarks, (68, 2): eye centres are the means of six points each."""
    points = _points(landmarks, 68)
    return quad_from_points(points[36:42].mean(0), points[42:48].mean(0), (points[48] + points[54]) / 2)


def quad_from_5(landmarks: np.ndarray) -> np.ndarray:
    """The quad from MTCNN's five: left eye, right eye, nose, left and right corner of the mouth, (5, 2).

    FFHQ reads only eye centres and mouth corners off the 68, so five points lose nothing but averaging.
    """
    points = _points(landmarks, 5)
    return quad_from_points(points[0], points[1], (points[3] + points[4]) / 2)


def quad_side(quad: np.ndarray) -> float:
    """Side of the square in pixels."""
    return float(np.hypot(*(quad[3] - quad[0])))


def is_aligned(size: tuple[int, int], quad: np.ndarray, tolerance: float = 0.1) -> bool:
    """Is a picture of `size` (width, height) already the crop that `quad` asks for?

    True when every corner of the quad lies within `tolerance` (share of the picture's side) of the picture's own.
    """
    width, height = size
    corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], float)
    return width == height and bool(np.abs(quad - corners).max() <= tolerance * width)


def align(image: Image.Image, quad: np.ndarray, size: int = 256, *, supersample: int = 4) -> Image.Image:
    """Cut the quad out of a photograph, as FFHQ did.

    Args:
        image: the photograph, RGB.
        quad: (4, 2), see above; may leave the picture, which is then continued by blurred reflection.
        size: side of the crop in pixels.
        supersample: resample at this many times `size` and reduce with Lanczos. 4 is FFHQ's own quality, 1 is
            the authors of SAM's (their 256-pixel crops come out jagged, but are what their numbers were made with).
    Returns:
        The crop, RGB, size x size.
    """
    image, quad = frame(image, quad, size)
    detail = size * supersample
    # Pillow measures from the corner of the first pixel, landmarks from its middle: hence the half.
    places = tuple((quad + 0.5).ravel().tolist())
    crop = image.transform((detail, detail), Image.Transform.QUAD, places, Image.Resampling.BILINEAR)
    return crop if supersample == 1 else crop.resize((size, size), Image.Resampling.LANCZOS)


def frame(image: Image.Image, quad: np.ndarray, size: int = 256) -> tuple[Image.Image, np.ndarray]:
    """The part of a photograph that `align` resamples, and the quad in it: shrunk, cropped and padded.

    Large faces are first reduced by a whole factor (to no less than twice `size`), then everything farther from
    the quad than a tenth of its side is cut away; where the quad leaves the photograph it is continued.
    """
    plan = _plan(image.size, quad, size)
    if plan.reduced != image.size:
        image = image.resize(plan.reduced, Image.Resampling.LANCZOS)
    if plan.box != (0, 0, *image.size):
        image = image.crop(plan.box)
    if plan.padded:
        image = _continue(image, plan.before, plan.after, plan.side * _BLUR)
    return image, plan.quad


def corners(image_size: tuple[int, int], quad: np.ndarray, size: int = 256) -> np.ndarray:
    """Where the corners of `align`'s crop lie in the photograph, (4, 2), to put something back there.

    Measured from the corner of the first pixel, not from its middle as quads are. For large faces this is not
    quad + 0.5: shrinking rounds the photograph's size, and moves pixel middles (FFHQ divides the quad alone).
    """
    plan = _plan(image_size, quad, size)
    return (plan.quad - plan.before + plan.box[:2] + 0.5) * np.divide(image_size, plan.reduced)


def shown(image_size: tuple[int, int], quad: np.ndarray, x: np.ndarray, y: np.ndarray, size: int = 256) -> np.ndarray:
    """How far `align`'s crop shows the photograph as it is: 1, down to 0 where it is blurred towards padding.

    Args:
        x, y: pixels of the photograph, arrays that broadcast.
    """
    plan = _plan(image_size, quad, size)
    if not plan.padded:
        return np.ones(np.broadcast_shapes(x.shape, y.shape))
    scale = np.divide(plan.reduced, image_size)
    place = [(at + 0.5) * scale[n] - 0.5 - plan.box[n] + plan.before[n] for n, at in enumerate((x, y))]
    width, height = np.subtract(plan.box[2:], plan.box[:2]) + plan.before + plan.after
    return 1 - _blurred(_outside(*place, (width, height), plan.before, plan.after))


class _Plan(NamedTuple):
    """What happens to a photograph before its quad is resampled."""

    reduced: tuple[int, int]  # width and height it is shrunk to
    box: tuple[int, int, int, int]  # cut out of that: left, top, right, bottom
    before: np.ndarray  # (x, y) pixels to continue it by at the left and the top
    after: np.ndarray  # and at the right and the bottom
    padded: bool  # is it continued at all
    quad: np.ndarray  # (4, 2) in the result
    side: float  # of the quad


def _plan(image_size: tuple[int, int], quad: np.ndarray, size: int) -> _Plan:
    quad = np.array(quad, np.float64)
    if quad.shape != (4, 2) or not np.isfinite(quad).all():
        raise InputError(f"A quad is 4 finite points (x, y), found shape {quad.shape}. See sam_age.data.align.")
    side = quad_side(quad)
    if side < 1:
        raise InputError(f"The face is only {side:.2f} pixels wide. Leave it out.")

    width, height = image_size
    factor = int(side / size * 0.5)
    if factor > 1:
        width, height = round(width / factor), round(height / factor)
        quad, side = quad / factor, side / factor

    border = max(round(side * _BORDER), 3)
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    left, top = (max(int(v) - border, 0) for v in low)
    right, bottom = (min(int(v) + border, limit) for v, limit in zip(high, (width, height), strict=True))
    if right <= left or bottom <= top:
        raise InputError("The face lies outside the picture. Check the landmarks.")
    quad = quad - (left, top)

    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    before = np.maximum(-low + border, 0)
    after = np.maximum(high - (right - left, bottom - top) + border, 0)
    padded = bool(max(before.max(), after.max()) > border - 4)
    if padded:
        least = round(side * _PAD)
        before, after = np.maximum(before, least), np.maximum(after, least)
    else:
        before = after = np.zeros(2, int)
    return _Plan((width, height), (left, top, right, bottom), before, after, padded, quad + before, side)


def _outside(x: np.ndarray, y: np.ndarray, size: tuple[int, int], before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """1 at the outermost pixel of a continued picture, 0 where the photograph begins, negative inside it."""
    width, height = size
    return 1 - np.minimum(
        np.minimum(x / before[0], (width - 1 - x) / after[0]), np.minimum(y / before[1], (height - 1 - y) / after[1])
    )


def _blurred(outside: np.ndarray) -> np.ndarray:
    """Share of the blurred picture: it begins a third of the padding inside the photograph."""
    return np.clip(outside * 3 + 1, 0, 1)


def _continue(image: Image.Image, before: np.ndarray, after: np.ndarray, blur: float) -> Image.Image:
    """Reflect the picture outwards, ever more blurred and fading into its median colour."""
    from scipy.ndimage import gaussian_filter  # slow to import, and few faces leave their photograph

    pad = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    pixels = np.pad(np.asarray(image, np.float32), pad, "reflect")
    height, width, _ = pixels.shape
    x, y = np.arange(width, dtype=np.float64)[None, :], np.arange(height, dtype=np.float64)[:, None]
    outside = _outside(x, y, (width, height), before, after)[..., None]
    pixels = pixels + (gaussian_filter(pixels, (blur, blur, 0)) - pixels) * _blurred(outside)
    pixels = pixels + (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(outside, 0, 1)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _points(landmarks: np.ndarray, count: int) -> np.ndarray:
    points = np.asarray(landmarks, np.float64)
    if points.shape != (count, 2):
        raise InputError(f"Expected {count} landmarks (x, y), found an array of shape {points.shape}.")
    return points
