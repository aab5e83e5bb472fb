"""Pictures to tensors and back, against the authors' own numbers."""

import numpy as np
import torch
from PIL import Image

from sam_age.data.dataset import resize, to_pixels, to_unit_range
from sam_age.models.sam import SAM
from sam_age.sheets import to_images
from tests.golden import Golden, assert_matches
from tests.weights import files


def test_a_face_becomes_the_authors_tensor():
    case = Golden()["preprocessing"]
    photo = Image.fromarray(case.inputs()["photo"][0].transpose(1, 2, 0))
    assert_matches(case, {"transformed": to_unit_range(to_pixels(resize(photo, 256)))})


def test_whole_ages_become_the_authors_channel(monkeypatch):
    """Theirs cuts 47.9 years to 47, by int(); ours keeps the fraction, so whole ages are compared."""
    case = Golden()["preprocessing"]
    ages = case.params["ages"]
    whole = [i for i, age in enumerate(ages) if float(age) == int(float(age))]
    sam, seen = files.tiny_sam(), []
    assert isinstance(sam, SAM)
    sam.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    faces = torch.zeros(len(ages), 3, 256, 256)
    with torch.no_grad():
        sam.eval()(faces, torch.tensor([float(age) for age in ages]))
    channel = seen[0][:, 3]
    assert (channel == channel[:, :1, :1]).all()
    np.testing.assert_allclose(channel[whole, 0, 0], case.expected("channel")[whole], rtol=1e-6)
    assert abs(float(channel[4, 0, 0]) - 0.479) < 1e-6


def test_pictures_differ_from_the_authors_by_rounding_alone():
    """Theirs cuts to the level below, ours rounds to the nearest: equal, or one level brighter, half the time."""
    case = Golden()["preprocessing"]
    ours = np.asarray(to_images(case.tensors()["tensor"][None])[0], float)
    more = ours - case.expected("tensor2im")
    assert set(np.unique(more)) == {0.0, 1.0}


def test_every_level_survives_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 4, 256)
    assert (np.asarray(to_images(to_unit_range(levels))[0])[0, :, 0] == np.arange(256)).all()
