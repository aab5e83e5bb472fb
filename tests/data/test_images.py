"""Whatever a user calls a picture becomes upright 8-bit RGB, or one line."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from sam_age.data.images import plain_png, read_image, read_photo
from sam_age.errors import InputError


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = read_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def scene() -> Image.Image:
    """24 x 16, another colour in each quarter."""
    image = Image.new("RGB", (24, 16), (250, 10, 10))
    image.paste((10, 250, 10), (12, 0, 24, 8))
    image.paste((10, 10, 250), (0, 8, 12, 16))
    return image


# how a camera's sensor held the scene, for each EXIF orientation: the transposition that makes it, from the standard
HELD = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", HELD)
def test_pictures_are_turned_upright(scene, orientation):
    held = scene if HELD[orientation] is None else scene.transpose(HELD[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = read_photo(stored(held, exif=exif))
    assert photo.orientation == orientation
    assert np.array_equal(np.asarray(photo.image), np.asarray(scene))


def test_a_nonsense_orientation_is_left_alone(scene):
    exif = Image.Exif()
    exif[0x0112] = 77
    assert read_photo(stored(scene, exif=exif)).image.size == scene.size


def test_cmyk_greyscale_and_palette_become_rgb(scene):
    close = np.abs(pixels(stored(scene.convert("CMYK"), "TIFF")).astype(int) - np.asarray(scene)).max()
    assert close <= 2
    grey = pixels(stored(scene.convert("L")))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert np.array_equal(grey[..., 0], np.asarray(scene.convert("L")))
    assert np.array_equal(pixels(stored(scene.quantize(4))), np.asarray(scene))
    assert set(np.unique(pixels(stored(scene.convert("1"))))) <= {0, 255}


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        got = pixels(stored(Image.fromarray(ramp), kind))[..., 0]
        assert np.array_equal(got, np.arange(256, dtype=np.uint8).reshape(16, 16))


def test_transparent_parts_are_white_and_half_transparent_ones_halfway():
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    image.putpixel((2, 0), (5, 6, 7, 255))
    white, half, solid = pixels(stored(image))[0].tolist()
    assert (white, solid) == ([255] * 3, [5, 6, 7])
    assert abs(half[0] - 127) <= 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    assert pixels(stored(palette, transparency=0))[0].tolist() == [[255] * 3, [200, 0, 0]]


def test_the_first_frame_of_an_animation_is_taken(scene):
    data = stored(scene.quantize(4), "GIF", save_all=True, append_images=[Image.new("P", scene.size)])
    assert np.abs(pixels(data).astype(int) - np.asarray(scene)).max() <= 8


def test_what_is_no_picture_is_one_line(tmp_path, scene):
    whole = stored(scene.resize((200, 200)), "JPEG")
    files = {
        "text.jpg": (b"hello", "not an image"),
        "empty.png": (b"", r"empty \(0 bytes\)"),
        "half.jpg": (whole[: len(whole) // 2], "not an image Pillow can read"),
        "half.png": (stored(scene)[:60], "not an image Pillow can read"),
    }
    for name, (data, says) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=says) as error:
            read_photo(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(InputError, match="Cannot read"):
            read_photo(path)


def test_a_picture_that_would_fill_the_memory_is_refused(monkeypatch, scene):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="far more pixels"):
        read_photo(stored(scene))


def test_heic_and_jpeg_xl_name_the_plugin_that_reads_them(monkeypatch):
    monkeypatch.setattr("sam_age.data.images.find_spec", lambda name: None)
    for data, plugin in (
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "pillow-heif"),
        (b"\xff\x0a\xfa\x1f", "pillow-jxl-plugin"),
    ):
        with pytest.raises(InputError, match=rf"photo\.x is .* pip install {plugin}"):
            read_photo(data, name="photo.x")


def test_heic_is_read_where_the_plugin_is_installed(scene):
    plugin = pytest.importorskip("pillow_heif")
    plugin.register_heif_opener()
    large = scene.resize((240, 160), Image.Resampling.NEAREST)
    got = read_photo(stored(large, "HEIF", quality=95)).image
    assert got.size == large.size
    assert np.abs(np.asarray(got, int) - np.asarray(large)).mean() < 4


def test_alpha_greyness_and_profile_are_kept_beside_the_picture(scene):
    clear = scene.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(scene.size))
    photo = read_photo(stored(clear))
    assert np.array_equal(np.asarray(photo.rgba), np.asarray(clear))
    assert read_photo(stored(scene)).rgba is None
    assert [read_photo(stored(scene.convert(mode))).grey for mode in ("L", "1", "RGB", "LA")] == [
        True,
        True,
        False,
        True,
    ]
    assert read_photo(stored(scene, icc_profile=b"some profile")).icc_profile == b"some profile"
    assert read_photo(stored(scene)).icc_profile is None


def test_a_picture_that_is_open_already_is_read_alike(scene):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = stored(scene.convert("CMYK"), "TIFF", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        given = read_photo(image)
    assert given.image.tobytes() == read_photo(data).image.tobytes()
    assert given.orientation == 6


def test_cmyk_goes_to_srgb_by_its_profile_and_a_broken_profile_does_no_harm(scene):
    """There is no CMYK profile to be had offline; one that is none must not stop the picture."""
    photo = read_photo(stored(scene.convert("CMYK"), "TIFF", icc_profile=b"not a profile"))
    assert np.abs(np.asarray(photo.image, int) - np.asarray(scene)).max() <= 2
    assert photo.icc_profile is None
    muted = Image.blend(scene, Image.new("RGB", scene.size, "grey"), 0.6)  # near 0 a step of Lab's 8 bits is 18 levels
    spaces = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    lab = ImageCms.profileToProfile(muted, *spaces, outputMode="LAB")
    profile = ImageCms.ImageCmsProfile(spaces[1]).tobytes()
    back = read_photo(stored(lab, "TIFF", icc_profile=profile)).image
    assert np.abs(np.asarray(back, int) - np.asarray(muted)).max() <= 3


def test_a_plain_png_is_read_by_the_fast_decoder_and_is_the_same(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = stored(Image.fromarray(noise), icc_profile=profile, dpi=(72, 72))
    assert np.array_equal(plain_png(data), noise)
    photo = read_photo(data)
    assert np.array_equal(np.asarray(photo.image), noise)
    assert photo.icc_profile == profile
    monkeypatch.setattr("sam_age.data.images.plain_png", lambda data: None)  # Pillow's
    slow = read_photo(data)
    assert slow[1:] == photo[1:]
    assert np.array_equal(np.asarray(slow.image), noise)


def test_any_other_png_and_a_damaged_one_are_pillows():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6  # turned
    text.add_text("Software", "here")
    others = [stored(image.convert(mode)) for mode in ("RGBA", "L", "P", "1", "I;16")]
    others += [stored(image, exif=exif), stored(image, pnginfo=text), stored(image, transparency=(0, 0, 0))]
    plain = stored(image)
    interlaced = plain[:28] + b"\x01" + plain[29:]
    assert all(plain_png(data) is None for data in (*others, stored(image, "JPEG"), interlaced, b"", plain[:8]))
    cut_header = plain[:-12] + plain[8:20]  # a second one, of which the end is missing
    for damaged in (
        plain[: len(plain) // 2],
        plain[:-12],
        cut_header,
        plain[:60] + bytes([plain[60] ^ 255]) + plain[61:],
    ):
        assert plain_png(damaged) is None
    assert np.array_equal(np.asarray(read_image(cut_header)), np.asarray(image))
    huge = plain[:16] + b"\x7f\xff\xff\xff" + plain[20:]
    assert plain_png(huge) is None
    with pytest.raises(InputError, match="not an image Pillow can read"):
        read_image(plain[: len(plain) // 2])
    assert np.array_equal(np.asarray(read_image(stored(image, exif=exif))), np.rot90(np.asarray(image), -1))


def test_without_the_fast_decoder_pillow_reads(monkeypatch):
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    monkeypatch.setitem(sys.modules, "kornia_rs.io", None)
    assert plain_png(stored(image)) is None
    assert np.array_equal(np.asarray(read_image(stored(image))), np.asarray(image))
