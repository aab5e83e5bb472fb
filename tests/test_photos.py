"""Whole photos: what is put back lies where it was cut, and nothing else changes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage import data
from skimage.registration import phase_cross_correlation

from sam_age.data.align import align, corners
from sam_age.data.detect import FaceDetector
from sam_age.data.images import Photo, read_photo
from sam_age.errors import InputError
from sam_age.photos import Paster, number_faces, save_photo
from sam_age.pipeline import AgingPipeline
from sam_age.sheets import sheet
from tests.standin import Mirror


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="module")
def couple(astronaut: Image.Image) -> Image.Image:
    """Two of her, the left one larger; 824 x 512."""
    photo = Image.new("RGB", (824, 512), (90, 120, 60))
    photo.paste(astronaut, (0, 0))
    photo.paste(astronaut.resize((410, 410)), (414, 51))
    return photo


def mirror(shift: float = 0.0, size: int = 256) -> AgingPipeline:
    pipeline = AgingPipeline(Mirror(size, shift))
    pipeline._detector = detector()
    return pipeline


def detector(cache: list = []) -> FaceDetector:  # noqa: B006 one for all tests: it takes a second to build
    if not cache:
        cache.append(FaceDetector())
    return cache[0]


def turned(centre: tuple[float, float], side: float, degrees: float = 0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    x = np.array([np.cos(angle), np.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def smooth(width: int = 600, height: int = 500) -> np.ndarray:
    """Waves, long against a pixel of any crop used here, over (height, width, 3)."""
    y, x = np.mgrid[:height, :width] / 60
    waves = np.stack([np.sin(x) * np.cos(y), np.sin(x + 2 * y), np.cos(2 * x - y)], -1)
    return np.rint(127 + 100 * waves).astype(np.uint8)


# ---- geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [256, 512])
def test_a_face_given_back_leaves_the_photo_as_it_was(astronaut: Image.Image, size: int) -> None:
    aged = mirror(size=size).photo(astronaut, [30, 60])
    before, mask = data.astronaut().astype(int), np.asarray(aged.mask)
    for image in aged.images:
        after = np.asarray(image).astype(int)
        assert image.size == astronaut.size
        assert np.array_equal(after[mask == 0], before[mask == 0])
        assert np.abs(after - before)[mask > 0].mean() < 1.5  # measured 1.3: cutting and putting back resample
        inside = (mask > 0)[..., None]
        moved = phase_cross_correlation((before * inside).mean(-1), (after * inside).mean(-1), upsample_factor=100)[0]
        assert np.abs(moved).max() <= 0.03  # pixels
    assert 0.02 < (mask == 255).mean() < 0.2
    assert mask[113, 224] == 255  # her face


@pytest.mark.parametrize("degrees", [0, 17, -100])
@pytest.mark.parametrize("side", [60, 171.3, 400])
def test_every_size_and_turn_comes_back_in_place(side: float, degrees: float) -> None:
    photo = Image.fromarray(smooth())
    quad = turned((300.2, 250.7), side, degrees)
    paster = Paster(photo, [quad], match_colours=False)
    back = np.asarray(paster.paste([align(photo, quad)]), int)
    mask = np.asarray(paster.mask)
    error = (back - smooth())[mask == 255]
    assert -0.7 < error.mean() < 0  # `align` cuts fractions off, as the authors' crops do: half a level
    assert np.abs(error).mean() < 0.6
    assert np.abs(error).max() <= 3
    # a picture moved by (dy, dx) errs by its slopes times these
    slopes = [np.gradient(smooth().astype(float), axis=axis)[mask == 255].ravel() for axis in (0, 1)]
    moved, *_ = np.linalg.lstsq(np.stack([*slopes, np.ones(error.size)], 1), error.ravel(), rcond=None)
    assert np.abs(moved[:2]).max() < 0.04  # pixels
    assert np.array_equal(back[mask == 0], smooth()[mask == 0])


def test_faces_that_were_shrunk_by_whole_factors_are_not_shifted() -> None:
    """FFHQ divides the quad but not the half pixel; at a factor of 7 that alone is 3 pixels."""
    pixels = smooth(1201, 1103)
    photo, quad = Image.fromarray(pixels), turned((600, 551), 950, 8)
    paster = Paster(photo, [quad], match_colours=False, size=64)
    back = np.asarray(paster.paste([align(photo, quad, 64)]), int)
    mask = np.asarray(paster.mask)
    naive = quad + 0.5
    assert np.abs(corners(photo.size, quad, 64) - naive).max() > 2
    inside = mask == 255
    moved = phase_cross_correlation(
        np.where(inside, pixels.mean(-1) - 127, 0), np.where(inside, back.mean(-1) - 127, 0), upsample_factor=50
    )[0]
    assert np.abs(moved).max() <= 0.3


def test_where_the_crop_was_padded_and_blurred_the_photo_stays() -> None:
    rough = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    photo, quad = Image.fromarray(rough), turned((60, 150), 200)  # a fifth of it lies outside, at the left
    paster = Paster(photo, [quad])
    weight = np.asarray(paster.mask)
    black = np.asarray(paster.paste([Image.new("RGB", (256, 256))]))
    assert weight[:, 0].max() == 0
    assert np.array_equal(black[:, 0], rough[:, 0])
    assert weight[150, 60] == 255
    assert weight[150, 5] < weight[150, 15] < weight[150, 25]


def test_the_background_is_bit_for_bit_whatever_the_face(couple: Image.Image) -> None:
    for shift in (1.0, -2.0):
        aged = mirror(shift).photo(couple, [50], match_colours=False)
        outside = np.asarray(aged.mask) == 0
        before, after = np.asarray(couple), np.asarray(aged.image())
        assert np.array_equal(after[outside], before[outside])
        assert (after[~outside] != before[~outside]).any(-1).mean() > 0.9


# ---- several faces ---------------------------------------------------------------------------------------------------


def test_faces_are_chosen_and_the_others_stay(couple: Image.Image) -> None:
    before = np.asarray(couple, int)
    pipeline = mirror(1.0)
    both = pipeline.photo(couple, [40], match_colours=False)
    assert (both.chosen, len(both.faces)) == ([0, 1], 2)
    left, right = both.found
    assert left.box[0] < right.box[0]  # the larger one is the first
    for which, changed in (("largest", [0]), ([1], [1]), (0, [0])):
        aged = pipeline.photo(couple, [40], faces=which, match_colours=False)
        assert aged.chosen == changed
        difference = np.asarray(aged.image(), int) - before
        for number, face in enumerate(both.found):
            x, y = face.landmarks[2].round().astype(int)
            assert difference[y, x].mean() == pytest.approx(40 if number in changed else 0, abs=6)
    with pytest.raises(InputError, match="no face 2 in the picture, which has faces 0 to 1"):
        pipeline.photo(couple, [40], faces=2)


def test_neighbours_share_what_both_masks_cover() -> None:
    """Two overlapping faces, one painted red, one blue: each keeps its middle, and no seam is darker than both."""
    photo = Image.new("RGB", (400, 300), (128, 128, 128))
    quads = [turned((130, 150), 200), turned((260, 150), 200)]
    red, blue = Image.new("RGB", (64, 64), (228, 128, 128)), Image.new("RGB", (64, 64), (128, 128, 228))
    result = np.asarray(Paster(photo, quads, match_colours=False).paste([red, blue]), int)
    assert result[150, 110].tolist() == [228, 128, 128]
    assert result[150, 280].tolist() == [128, 128, 228]
    row = result[150, 110:280] - 128
    assert np.abs(row.sum(-1) - 100).max() <= 1  # shares add up to one
    assert np.abs(np.diff(row[:, 0])).max() < 10  # and change gradually
    alone = Paster(photo, quads[:1], others=quads[1:], match_colours=False)
    kept = np.asarray(alone.paste([red]), int)
    assert np.abs(kept[150, 240:] - 128).max() <= 2  # who was not chosen is protected
    assert np.array_equal(kept[150, 110], [228, 128, 128])


def test_a_cast_is_taken_out_and_a_change_inside_is_kept(astronaut: Image.Image) -> None:
    quad = detector().detect(astronaut)[0].quad
    crop = np.asarray(align(astronaut, quad), int)
    crop = np.clip(crop, 20, 200)  # so that nothing is cut off at 255
    cast = crop + np.array([12, -9, 6])
    cast[96:160, 96:160] += 40  # what ageing did
    paster = Paster(astronaut, [quad])
    plain = np.asarray(paster.paste([Image.fromarray(crop.astype(np.uint8))]), int)
    shown = np.asarray(paster.paste([Image.fromarray(np.clip(cast, 0, 255).astype(np.uint8))]), int)
    difference = shown - plain
    zone = (np.asarray(paster.mask) > 0) & (np.asarray(paster.mask) < 255)
    assert np.abs(np.median(difference[zone], axis=0)).max() <= 1
    x, y = quad.mean(0).round().astype(int)
    middle = np.median(difference[y - 12 : y + 12, x - 12 : x + 12], axis=(0, 1))
    assert middle == pytest.approx([40] * 3, abs=4)


def test_the_face_region_leaves_hair_and_background(astronaut: Image.Image) -> None:
    head, face = (mirror().photo(astronaut, [30], region=region).mask for region in ("head", "face"))
    assert (np.asarray(face) > 0).sum() < 0.55 * (np.asarray(head) > 0).sum()
    with pytest.raises(InputError, match="region is one of"):
        mirror().photo(astronaut, [30], region="hat")


# ---- formats ---------------------------------------------------------------------------------------------------------


def stored(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_a_turned_photo_is_saved_upright_at_its_size_with_its_profile(astronaut: Image.Image, tmp_path) -> None:
    wide = astronaut.crop((0, 0, 512, 400))
    exif = Image.Exif()
    exif[0x0112] = 6  # held a quarter turn: the file's rows are the scene's columns
    data_ = stored(wide.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif, icc_profile=PROFILE)
    aged = mirror().photo(data_, [30])
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        path = aged.save(tmp_path / f"deep/aged{suffix}")
        with Image.open(path) as saved:
            assert saved.size == (512, 400)
            assert saved.info["icc_profile"] == PROFILE
            assert saved.getexif().get(0x0112, 1) == 1
            if suffix != ".jpg":
                outside = np.asarray(aged.mask) == 0
                assert np.array_equal(np.asarray(saved.convert("RGB"))[outside], np.asarray(wide)[outside])


def test_alpha_is_kept_and_hidden_colours_too(astronaut: Image.Image, tmp_path) -> None:
    alpha = np.full((512, 512), 255, np.uint8)
    alpha[:, 400:] = 0
    alpha[:, 215:230] = 128  # through her face
    pixels = np.dstack([data.astronaut(), alpha])
    aged = mirror().photo(stored(Image.fromarray(pixels), "PNG"), [30])
    after = np.asarray(aged.image())
    mask = np.asarray(aged.mask)
    assert np.array_equal(after[..., 3], alpha)
    assert np.array_equal(after[mask == 0], pixels[mask == 0])
    difference = np.abs(after[..., :3].astype(int) - pixels[..., :3])
    assert difference[(mask > 0) & (alpha == 255)].mean() < 3
    assert difference[(mask > 0) & (alpha == 128)].mean() < 8  # halved on white and doubled again, with its errors
    with Image.open(aged.save(tmp_path / "a.webp")) as saved:
        assert np.array_equal(np.asarray(saved)[mask == 0], pixels[mask == 0])
    with Image.open(aged.save(tmp_path / "a.jpg")) as saved:
        assert saved.mode == "RGB"
        assert np.asarray(saved)[100, 450].min() > 250  # white where nothing was


def test_a_grey_photo_stays_grey(astronaut: Image.Image, tmp_path) -> None:
    grey = astronaut.convert("L")
    aged = mirror().photo(grey, [30])
    assert aged.image().mode == "L"
    outside = np.asarray(aged.mask) == 0
    assert np.array_equal(np.asarray(aged.image())[outside], np.asarray(grey)[outside])
    quad = aged.faces[0].quad
    red = Paster(aged.photo, [quad]).paste([Image.new("RGB", (256, 256), (250, 40, 40))])
    assert red.mode == "L"
    with Image.open(aged.save(tmp_path / "grey.png")) as saved:
        assert saved.mode == "L"


def test_sixteen_bits_and_cmyk_are_aged_too(astronaut: Image.Image) -> None:
    deep = Image.fromarray(np.asarray(astronaut.convert("L")).astype(np.uint16) * 257)
    aged = mirror().photo(stored(deep, "PNG"), [30])
    assert np.array_equal(np.asarray(aged.photo.image)[..., 0], np.asarray(astronaut.convert("L")))
    assert aged.image().mode == "L"
    ink = mirror().photo(stored(astronaut.convert("CMYK"), "JPEG", quality=95), [30])
    assert ink.image().mode == "RGB"
    assert ink.photo.icc_profile is None
    outside = np.asarray(ink.mask) == 0
    assert np.abs(np.asarray(ink.image(), int) - np.asarray(astronaut))[outside].mean() < 4


def test_other_suffixes_and_places_are_refused(astronaut: Image.Image, tmp_path) -> None:
    with pytest.raises(InputError, match=r"written as \.png"):
        save_photo(astronaut, tmp_path / "photo.heic")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="Cannot write"):
        save_photo(astronaut, tmp_path / "file" / "photo.png")
    with pytest.raises(InputError, match=r"No face found in the picture \(300 x 200\)"):
        mirror().photo(Image.new("RGB", (300, 200), "grey"), [30])


# ---- pictures to look at ---------------------------------------------------------------------------------------------


def test_a_sheet_shows_photos_in_their_shape(couple: Image.Image) -> None:
    made = sheet([[(couple, "wide"), (couple.rotate(90, expand=True), "high")]], cell=412)
    assert made.width == 2 * 412 + 3 * 4
    wide = np.asarray(made)[:, 4:416]
    rows = np.flatnonzero((wide != 255).any((1, 2)))
    assert np.ptp(rows[rows < 412]) + 1 == pytest.approx(256, abs=2)  # 512 / 824 of 412, and its caption is below
    aged = mirror().photo(couple, [20, 40])
    assert [caption for _, caption in aged.cells()] == ["input", "age 20", "age 40"]
    assert (np.asarray(aged.cells()[0][0]) == np.asarray(number_faces(couple, aged.found))).all()  # who is which number
    assert aged.sheet(206).width == 3 * 206 + 4 * 4


def test_numbers_stand_on_their_faces_in_a_copy(couple: Image.Image) -> None:
    before = couple.tobytes()
    found = detector().detect(couple)
    marked = np.asarray(number_faces(couple, found))
    assert couple.tobytes() == before
    for face in found:
        left, top = face.box[:2].round().astype(int)
        assert (marked[top : top + 12, left : left + 8] == (255, 255, 0)).all(-1).any()


def test_a_photo_may_be_given_as_it_was_read(astronaut: Image.Image) -> None:
    photo = read_photo(stored(astronaut, "PNG"))
    assert photo == Photo(photo.image)
    quad = detector().detect(astronaut)[0].quad
    face = [align(astronaut, quad)]
    assert Paster(photo, [quad]).paste(face).tobytes() == Paster(astronaut, [quad]).paste(face).tobytes()


def test_a_face_may_show_by_half() -> None:
    paster = Paster(Image.new("RGB", (200, 200), (100, 100, 100)), [turned((100, 100), 150)], match_colours=False)
    red = [Image.new("RGB", (64, 64), (180, 100, 100))]
    middle = [np.asarray(paster.paste(red, strengths))[100, 100, 0] for strengths in (None, [1.0], [0.5], [0.0])]
    assert middle == [180, 180, 140, 100]
