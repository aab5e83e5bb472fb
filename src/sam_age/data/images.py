"""Whatever a user calls a picture -> 8-bit RGB, upright."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from sam_age.errors import InputError

# Those that Pillow reads, and three (HEIC, HEIF, JXL) that it reads only with a plugin: listed all the same, so
# that such a photo is reported as unreadable instead of silently left out.
_READ = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
IMAGE_SUFFIXES = frozenset([*_READ, ".jp2", ".avif", ".heic", ".heif", ".jxl"])

_EXIF_ORIENTATION = 0x0112


class Photo(NamedTuple):
    """A decoded photograph: `image` is 8-bit RGB and upright, `orientation` is what EXIF said (1-8, 1 = upright)."""

    image: Image.Image
    orientation: int


def read_photo(source: str | Path | bytes, *, name: str | None = None) -> Photo:
    """Decode one picture: EXIF rotation applied; greyscale, palette, CMYK, 16-bit, alpha become 8-bit RGB.

    Transparent parts are laid on white; 16-bit values are rescaled, not clipped; of an animation the first frame
    is taken. Colour profiles are ignored, as in the authors' code.

    Args:
        source: a path, or the file's bytes.
        name: what to call the picture in an error (default: the path).
    Raises:
        InputError: no such file, not an image, damaged, or larger than Pillow's limit (twice
            `PIL.Image.MAX_IMAGE_PIXELS`: a "decompression bomb").
    """
    name = name or ("the given bytes" if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"Cannot read {name}: {reason}. Give the path of an image file.") from error
    if not data:
        raise InputError(f"{name} is empty (0 bytes), not an image. Copy it again or leave it out.")
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels and refuses from 179: the phones of today take 108.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                orientation = _orientation(image)
                return Photo(_to_rgb(_upright(image, orientation)), orientation)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name} unpacks to far more pixels than a photograph has ({error}). Reduce it first."
        ) from error
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "no known image format"
        raise InputError(f"{name} is not an image Pillow can read ({reason}). Convert it or leave it out.") from error


def read_image(source: str | Path | bytes, *, name: str | None = None) -> Image.Image:
    """The picture of `read_photo` alone: 8-bit RGB, upright."""
    return read_photo(source, name=name).image


def _orientation(image: Image.Image) -> int:
    try:
        value = int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make the picture unusable
        return 1
    return value if 1 <= value <= 8 else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode == "F" or mode.startswith("I"):
        return Image.fromarray(_to_8_bit(np.asarray(image), deep=mode.startswith("I;16"))).convert("RGB")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray, *, deep: bool) -> np.ndarray:
    """Greyscale of more than 8 bits -> uint8. deep: known to hold 16 bits; else guessed from the largest value."""
    real = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64))
    top = float(values.max(initial=0))
    if deep:
        full = 65535.0
    elif real and top <= 1:
        full = 1.0
    else:
        full = next((limit for limit in (255.0, 65535.0) if top <= limit), top)
    return np.clip(np.rint(values / full * 255), 0, 255).astype(np.uint8)
