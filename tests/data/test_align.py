"""The crop against the authors' own numbers, and its geometry."""

import numpy as np
import pytest
from PIL import Image

from sam_age.data.align import align, frame, is_aligned, quad_from_5, quad_from_68, quad_from_points
from sam_age.errors import InputError
from tests.golden import Golden, assert_matches


@pytest.mark.parametrize("kind", ["plain", "pad", "shrink", "shrink_pad"])
def test_the_crop_is_the_authors(kind):
    case = Golden()["align"]
    inputs = case.inputs()
    photo = Image.fromarray(inputs[f"photo_{kind}"][0].transpose(1, 2, 0))
    quad = quad_from_68(inputs[f"landmarks_{kind}"])
    framed, framed_quad = frame(photo, quad)
    crop = align(photo, quad, 256, supersample=1)
    got = {"image": np.asarray(crop), "quad": framed_quad.ravel() + 0.5, "pre_size": np.array(framed.size)}
    assert_matches(case, {f"{kind}_{name}": value for name, value in got.items()})


def a_face(centre=(200.0, 180.0), eyes=60.0, angle=0.0):
    """Five points of an upright face, turned by angle degrees about its centre."""
    points = np.array([[-eyes / 2, -20], [eyes / 2, -20], [0, 10], [-20, 45], [20, 45]])
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return points @ rotation + centre


def test_a_quad_turns_moves_and_grows_with_the_face():
    upright = quad_from_5(a_face((0, 0)))
    turn = np.radians(30)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    np.testing.assert_allclose(quad_from_5(a_face((0, 0), angle=30)), upright @ rotation, atol=1e-9)
    np.testing.assert_allclose(quad_from_5(a_face((0, 0)) * 3 + 7), upright * 3 + 7, atol=1e-9)


def test_the_eyes_come_out_level_wherever_they_were():
    """A dot on each eye of a turned face: the crop has both at the same height, mirrored about the middle."""
    points = a_face(angle=25)
    photo = Image.new("RGB", (400, 400))
    for x, y in points[:2]:
        photo.paste((255, 255, 255), (round(x) - 3, round(y) - 3, round(x) + 4, round(y) + 4))
    crop = np.asarray(align(photo, quad_from_5(points), 128).convert("L"), float)
    rows, columns = np.mgrid[:128, :128]
    dots = [
        [(crop * where * axis).sum() / (crop * where).sum() for axis in (rows, columns)]
        for where in (columns < 64, columns >= 64)
    ]
    assert abs(dots[0][0] - dots[1][0]) < 1
    assert abs(dots[0][1] + dots[1][1] - 127) < 1.5


def test_borders_are_continued_not_black():
    photo = Image.new("RGB", (200, 200), (180, 120, 90))
    crop = np.asarray(align(photo, quad_from_5(a_face((60, 60))), 64))
    assert np.abs(crop.astype(int) - (180, 120, 90)).max() <= 1


def test_supersampling_is_an_area_average():
    """A fine chequerboard has no mean but grey; bilinear sampling alone leaves stripes."""
    board = np.indices((1000, 1000)).sum(0) % 2 * 255
    photo = Image.fromarray(board.astype(np.uint8)).convert("RGB")
    quad = np.array([[100, 100], [100, 850], [850, 850], [850, 100]], float)
    fine, coarse = (np.asarray(align(photo, quad, 256, supersample=s), float) for s in (4, 1))
    assert np.abs(fine - 127.5).max() < 20 < np.abs(coarse - 127.5).max()


def test_an_aligned_face_is_known_by_its_quad():
    corners = np.array([[0, 0], [0, 256], [256, 256], [256, 0]], float)
    assert is_aligned((256, 256), corners + 10)
    assert not is_aligned((256, 256), corners + 40)
    assert not is_aligned((256, 300), corners)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: quad_from_5(np.zeros((5, 2))), "coincide"),
        (lambda: quad_from_5(np.full((5, 2), np.nan)), "coincide"),
        (lambda: quad_from_68(np.zeros((5, 2))), r"Expected 68 landmarks.*\(5, 2\)"),
        (lambda: align(Image.new("RGB", (9, 9)), np.zeros((4, 2))), "0.00 pixels wide"),
        (lambda: align(Image.new("RGB", (9, 9)), np.zeros((3, 2))), r"shape \(3, 2\)"),
        (lambda: align(Image.new("RGB", (9, 9)), quad_from_points(*a_face()[[0, 1, 3]])), "outside the picture"),
    ],
)
def test_points_that_are_no_face_are_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
