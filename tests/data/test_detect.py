"""Faces are found where they are, and nowhere else."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sam_age.data.detect import FaceDetector
from sam_age.errors import InputError


@pytest.fixture(scope="module")
def detector():
    return FaceDetector()


@pytest.fixture(scope="module")
def astronaut():
    return Image.fromarray(data.astronaut())


def test_the_astronaut_has_one_face_where_one_sees_it(detector, astronaut):
    (face,) = detector.detect(astronaut)
    assert face.score > 0.99
    seen = np.array([(203, 101), (247, 103), (226, 128), (204, 141), (244, 142)])  # read off the picture by eye
    assert np.abs(face.landmarks - seen).max() < 6
    assert (face.box[:2] < seen.min(0)).all()
    assert (face.box[2:] > seen.max(0)).all()


def test_landmarks_are_in_the_photographs_own_pixels(detector, astronaut):
    """Searched at a third of the size, they are still where they were."""
    large = astronaut.resize((1536, 1536), Image.Resampling.BICUBIC)
    (small,), (face,) = detector.detect(astronaut), FaceDetector(search_side=512).detect(large)
    assert np.abs(face.landmarks / 3 - small.landmarks).max() < 2


def test_the_largest_face_comes_first_and_small_ones_may_be_left_out(detector, astronaut):
    head = astronaut.crop((150, 30, 300, 200))
    photo = Image.new("RGB", (700, 512), (90, 90, 90))
    photo.paste(head, (10, 150))
    photo.paste(head.resize((300, 340)), (300, 100))
    faces = detector.detect(photo)
    assert len(faces) == 2
    assert faces[0].area > 2 * faces[1].area
    assert faces[0].box[0] > 300
    assert len(FaceDetector(min_face=150).detect(photo)) == 1


@pytest.mark.parametrize("size", [(300, 200), (40, 40), (21, 500), (1, 1), (3000, 4)])
def test_a_blank_picture_of_any_shape_has_none(detector, size):
    assert detector.detect(Image.new("RGB", size, (127, 127, 127))) == []


def test_noise_has_none(detector):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    assert detector.detect(Image.fromarray(noise)) == []


def test_a_score_is_a_probability():
    with pytest.raises(InputError, match=r"min_score.*1\.5"):
        FaceDetector(min_score=1.5)
