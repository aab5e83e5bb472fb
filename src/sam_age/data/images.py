"""Whatever a user calls a picture -> 8-bit RGB, upright, and what it takes to save it as it came."""

import io
import struct
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from sam_age.errors import InputError

# Those that Pillow reads, and three (HEIC, HEIF, JXL) that it reads only with a plugin: listed all the same, so
# that such a photo is reported as unreadable instead of silently left out.
_READ = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
IMAGE_SUFFIXES = frozenset([*_READ, ".jp2", ".avif", ".heic", ".heif", ".jxl"])

UNNAMED = "the given bytes"
"""What errors call a picture that came without a name."""

_EXIF_ORIENTATION = 0x0112
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
_PLAIN_CHUNKS = (b"IDAT", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYs", b"bKGD", b"tIME")  # change no pixel
_JXL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")


class Photo(NamedTuple):
    """A decoded photograph.

    Attributes:
        image: 8-bit RGB, upright; transparent parts laid on white.
        orientation: what EXIF said (1-8, 1 = upright).
        rgba: where the picture has transparent parts: colours as stored and alpha, RGBA, upright.
        grey: the picture has no colours.
        icc_profile: the colour profile that `image` (its luminance, where grey) is in; None: sRGB, as far as known.
    """

    image: Image.Image
    orientation: int = 1
    rgba: Image.Image | None = None
    grey: bool = False
    icc_profile: bytes | None = None


def read_photo(source: str | Path | bytes | Image.Image, *, name: str | None = None) -> Photo:
    """Decode one picture: EXIF rotation applied; greyscale, palette, CMYK, 16-bit, alpha become 8-bit RGB.

    Transparent parts are laid on white; 16-bit values are rescaled, not clipped; of an animation the first frame
    is taken. Colour profiles of RGB and greyscale are kept beside the pixels, which stay as they are, as in the
    authors' code; CMYK and Lab are brought to sRGB by theirs.

    Args:
        source: a path, the file's bytes, or a picture that Pillow has read.
        name: what to call the picture in an error (default: the path).
    Raises:
        InputError: no such file, not an image, damaged, or larger than Pillow's limit (twice
            `PIL.Image.MAX_IMAGE_PIXELS`: a "decompression bomb").
    """
    if isinstance(source, Image.Image):
        return _decoded(source, name or "the picture")
    name = name or (UNNAMED if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"Cannot read {name}: {reason}. Give the path of an image file.") from error
    if not data:
        raise InputError(f"{name} is empty (0 bytes), not an image. Copy it again or leave it out.")
    _need_plugin(data, name)
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels and refuses from 179: the phones of today take 108.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise _too_large(name, error) from error
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        raise _unreadable(name, error) from error
    with image:
        pixels = plain_png(data)
        if pixels is not None:
            return Photo(Image.fromarray(pixels), icc_profile=image.info.get("icc_profile") or None)
        return _decoded(image, name)


def plain_png(data: bytes) -> np.ndarray | None:
    """The pixels of a PNG of 8-bit RGB and nothing else (no transparency, EXIF or text, rows one after the other), by
    kornia's decoder in a third of Pillow's time: (H, W, 3). None: it is another file, or damaged, and Pillow's to read.

    Training on FFHQ as it comes is a matter of decoding PNGs.
    """
    header = _plain_png_header(data)
    if header is None or header[0] * header[1] > 2 * (Image.MAX_IMAGE_PIXELS or 0):  # Pillow refuses them
        return None
    try:
        from kornia_rs.io import decode_image_png_u8

        return np.asarray(decode_image_png_u8(data, header, "rgb"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # panics of Rust are no Exception; whatever it is, Pillow tells what is wrong with the file
        return None


def _plain_png_header(data: bytes) -> tuple[int, int] | None:
    """Its height and width, if its chunks say that it is one that `plain_png` takes."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    found, at = None, 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return None
        if kind == b"IHDR" and length == 13:
            width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, at + 8)
            found = (height, width) if (depth, colours, interlaced) == (8, 2, 0) else None
        elif kind == b"IEND":
            return found
        elif kind not in _PLAIN_CHUNKS:
            return None
        at += 12 + length
    return None


def read_image(source: str | Path | bytes | Image.Image, *, name: str | None = None) -> Image.Image:
    """The picture of `read_photo` alone: 8-bit RGB, upright."""
    return read_photo(source, name=name).image


def _decoded(image: Image.Image, name: str) -> Photo:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            orientation = _orientation(image)  # before loading: Pillow turns TIFFs upright as it decodes them
            image.load()
            upright = _upright(image, _orientation(image))
            rgb = _to_rgb(upright)
            grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
            own = image.mode not in ("CMYK", "LAB", "YCbCr", "HSV")  # else the profile is another space's
            profile = image.info.get("icc_profile") if own else None
            return Photo(rgb, orientation, _to_rgba(upright), grey, profile or None)
    except Image.DecompressionBombError as error:
        raise _too_large(name, error) from error
    except Exception as error:
        raise _unreadable(name, error) from error


def _too_large(name: str, error: Exception) -> InputError:
    return InputError(f"{name} unpacks to far more pixels than a photograph has ({error}). Reduce it first.")


def _unreadable(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "no known image format"
    return InputError(f"{name} is not an image Pillow can read ({reason}). Convert it or leave it out.")


def _need_plugin(data: bytes, name: str) -> None:
    """HEIC and JPEG XL by Pillow's plugins, where they are installed; else the error names what to install."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        if find_spec("pillow_heif") is None:
            raise InputError(
                f"{name} is HEIC, which Pillow cannot read alone: pip install pillow-heif, or save it as JPEG."
            )
        import pillow_heif

        pillow_heif.register_heif_opener()
    elif data.startswith(_JXL_STARTS):
        if find_spec("pillow_jxl") is None:
            raise InputError(
                f"{name} is JPEG XL, which Pillow cannot read alone: pip install pillow-jxl-plugin, or save it as JPEG."
            )
        import pillow_jxl  # noqa: F401 importing registers it


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
    transparent = _to_rgba(image)
    if transparent is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, transparent).convert("RGB")
    if mode in ("CMYK", "LAB") and image.info.get("icc_profile"):
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a profile that is damaged, or another space's
            return image.convert("RGB")
    return image.convert("RGB")


def _to_rgba(image: Image.Image) -> Image.Image | None:
    """Colours as stored, and alpha; None where the format has none."""
    deep = image.mode == "F" or image.mode.startswith("I")  # there, the transparent value is one of many bits
    has_alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or ("transparency" in image.info and not deep)
    return image.convert("RGBA") if has_alpha else None


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
