"""Patch edits: nothing changes outside of the region, everything deep inside."""

import numpy as np
import pytest
import torch
from PIL import Image

from sam_age.data.align import quad_from_points
from sam_age.editing import REGIONS, Box, Ellipse, Region, mask_of, patch, patch_images, synthesize_patch
from sam_age.errors import InputError
from tests.modules.test_aging import tiny_sam

EDGE = Box(0.25, 0, 1, 1)


def test_a_mask_fades_inwards_over_the_feather_and_is_exactly_zero_outside():
    row = mask_of(EDGE, 100, feather=0.1)[0, 0, 50].double()
    assert not row[:25].any()
    assert (row[35:] == 1).all()  # the picture's own edge is none
    assert (row[25:35].diff() > 0).all()
    # two boxes of 11 pixels in a row: a tent, its integral a parabola, 0 where it is a half
    tent = np.convolve(np.full(11, 1 / 11), np.full(11, 1 / 11))
    step = np.convolve(np.arange(-60, 60) >= 0, tent, "same")[60:70]
    np.testing.assert_allclose(row[25:35], np.clip(2 * step - 1, 0, 1), atol=1e-5)


def test_without_feather_a_mask_is_its_shape():
    mask = mask_of(Ellipse(0.5, 0.5, 0.25, 0.4), 200, feather=0)
    assert mask.shape == (1, 1, 200, 200)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(np.pi * 0.25 * 0.4, rel=5e-3)


@pytest.mark.parametrize("name", list(REGIONS))
def test_a_patch_changes_nothing_outside_of_its_region(name):
    rng = np.random.default_rng(0)
    before, after = (Image.fromarray(rng.integers(0, 256, (128, 128, 3), np.uint8)) for _ in range(2))
    inside = mask_of(name, 128, feather=0)[0, 0].bool().numpy()
    made = np.asarray(patch_images(before, after, name))
    assert (made == np.asarray(before))[~inside].all()
    deep = (mask_of(name, 128)[0, 0] == 1).numpy()
    assert deep.any()
    assert (made == np.asarray(after))[deep].all()
    assert (made != np.asarray(before))[deep].mean() > 0.9


def test_eyes_and_mouth_are_where_the_alignment_puts_them():
    left, right, mouth = np.array([430.0, 300.0]), np.array([520.0, 300.0]), np.array([475.0, 396.0])
    quad = quad_from_points(left, right, mouth)
    side = quad[3][0] - quad[0][0]
    for point, name in ((left, "eyes"), (right, "eyes"), (mouth, "mouth")):
        x, y = torch.tensor((point - quad[0]) / side)
        assert [each for each in ("eyes", "mouth") if REGIONS[each].covers(x, y)] == [name]
        assert not REGIONS["hair"].covers(x, y)
        assert not REGIONS["skin"].covers(x, y)


def test_regions_join_and_masks_may_be_pictures():
    both = mask_of("hair + eyes", 64, 0)
    assert torch.equal(both, torch.maximum(mask_of("hair", 64, 0), mask_of("eyes", 64, 0)))
    assert torch.equal(both, mask_of([REGIONS["hair"], "eyes"], 64, 0))
    ring = Region((Ellipse(0.5, 0.5, 0.4, 0.4),), (Ellipse(0.5, 0.5, 0.2, 0.2),))
    mask = mask_of(ring, 64, 0)
    picture = Image.fromarray((mask[0, 0].numpy() * 255).astype(np.uint8))
    assert torch.equal(mask_of(picture, 64, 0), mask)
    assert torch.equal(mask_of(picture, 64), mask_of(ring, 64))
    assert torch.equal(mask_of(mask[0, 0] * 0.5, 64, 0), mask * 0.5)


def test_blending_is_exact_at_both_ends():
    before, after = torch.randn(2, 3, 8, 8), 1e3 * torch.randn(2, 3, 8, 8)
    assert torch.equal(patch(before, after, torch.zeros(1, 1, 8, 8)), before)
    assert torch.equal(patch(before, after, torch.ones(1, 1, 8, 8)), after)


def test_in_feature_maps_the_outside_is_the_first_picture_and_a_whole_mask_the_second():
    generator = tiny_sam().eval().decoder
    before, after = (torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(i)) for i in range(2))
    with torch.no_grad():
        first, second = generator.synthesize(before), generator.synthesize(after)
    made = synthesize_patch(generator, before, after, Box(0, 0, 0.5, 0.5), 0.1)
    torch.testing.assert_close(made[..., 16:, :], first[..., 16:, :])
    torch.testing.assert_close(made[..., 16:], first[..., 16:])
    assert (made - first)[..., :12, :12].abs().mean() > 0.1
    torch.testing.assert_close(synthesize_patch(generator, before, after, Box(0, 0, 1, 1)), second)
    with torch.no_grad():
        assert torch.equal(generator.synthesize(before), first)  # no hook is left


def test_what_cannot_be_a_mask_is_refused():
    face = Image.new("RGB", (64, 64))
    with pytest.raises(InputError, match="no region 'ears'"):
        mask_of("hair+ears", 64)
    with pytest.raises(InputError, match="shows nothing"):
        patch_images(face, face, Image.new("L", (32, 32)))
    with pytest.raises(InputError, match="shows nothing"):
        mask_of("brows", 64, feather=0.4)
    with pytest.raises(InputError, match="feather"):
        mask_of("hair", 64, feather=2)
    with pytest.raises(InputError, match="values from 0 to 1"):
        mask_of(torch.full((8, 8), 2.0), 64)
    with pytest.raises(InputError, match="No region"):
        mask_of([], 64)
    with pytest.raises(InputError, match="one size"):
        patch_images(face, Image.new("RGB", (32, 32)), "hair")
