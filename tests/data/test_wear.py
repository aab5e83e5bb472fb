"""Augmentation of the judges' faces: repeatable, within range, and doing what it says."""

import pytest
import torch

from sam_age.data.wear import Wear

NOTHING = {"shift": 0.0, "turn": 0.0, "zoom": 0.0, "colour": 0.0, "hue": 0.0, "grey": 0.0, "blur": 0.0, "coarse": 0.0,
           "noise": 0.0, "jpeg": 0.0, "hide": 0.0}  # fmt: skip


@pytest.fixture(scope="module")
def faces():
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 8, 8, generator=rng) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(-1, 1)


def worn(wear, faces, seed=0):
    torch.manual_seed(seed)
    return wear(faces)


def roughness(images):
    return (images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()).item()


def test_the_same_seed_wears_faces_alike_whatever_was_drawn_before(faces):
    wear = Wear()
    first = worn(wear, faces, 5)
    worn(wear, faces[:3], 6)
    assert torch.equal(worn(wear, faces, 5), first)
    assert torch.equal(worn(Wear(), faces, 5), first)
    assert not torch.equal(worn(wear, faces, 7), first)


def test_faces_keep_shape_and_range_and_are_not_touched_themselves(faces):
    before = faces.clone()
    for seed in range(5):
        result = worn(Wear(), faces, seed)
        assert (result.shape, result.dtype) == (faces.shape, torch.float32)
        assert result.min() >= -1
        assert result.max() <= 1
    assert torch.equal(faces, before)
    assert worn(Wear(), faces.to(torch.bfloat16)).dtype == torch.float32


def test_without_anything_to_do_faces_stay_as_they_are(faces):
    torch.testing.assert_close(worn(Wear(**NOTHING), faces), faces, atol=1e-5, rtol=0)


@pytest.mark.parametrize("what", ["blur", "coarse"])
def test_softening_softens_and_noise_roughens(faces, what):
    assert roughness(worn(Wear(**NOTHING | {what: 1.0}), faces)) < 0.98 * roughness(faces)
    assert roughness(worn(Wear(**NOTHING | {"noise": 1.0}), faces)) > roughness(faces)


def test_noise_has_the_deviation_that_is_asked_for():
    flat = torch.zeros(4, 3, 64, 64)
    assert worn(Wear(**NOTHING | {"noise": 1.0, "noise_sigma": 0.1}), flat).std().item() == pytest.approx(0.1, rel=0.03)


def test_faces_are_hidden_turned_and_recoloured_each_by_its_own_draw(faces):
    for what in ({"hide": 1.0}, {"turn": 10.0}, {"colour": 0.3}, {"hue": 0.05}, {"jpeg": 1.0}):
        same = faces[:1].expand(6, -1, -1, -1)
        result = worn(Wear(**NOTHING | what), same)
        if what != {"jpeg": 1.0}:  # whose quality alone is drawn, and rounds alike
            assert len({tuple(image.flatten().tolist()) for image in result}) > 3, what
        assert not torch.equal(result, same), what
