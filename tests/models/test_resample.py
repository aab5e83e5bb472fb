"""Crops and resizes by matrix products equal the library's."""

import pytest
import torch
import torch.nn.functional as F

from sam_age.models.resample import crop_and_pool, crop_and_resize

IMAGES = torch.rand(2, 3, 256, 240, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 7, 112, 188, 224])
def test_crop_and_pool_is_adaptive_average_pooling(size):
    expected = F.adaptive_avg_pool2d(IMAGES[..., 35:223, 32:220], size)
    pooled = crop_and_pool(IMAGES, (35, 223), (32, 220), size)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [32, 64, 160, 300])
def test_crop_and_resize_of_the_whole_is_the_antialiased_bilinear_resize(size):
    expected = F.interpolate(IMAGES, (size, size), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(crop_and_resize(IMAGES, (0, 1), (0, 1), size), expected, rtol=0, atol=1e-12)


def test_crop_and_resize_looks_at_the_box_alone_up_to_the_filters_width():
    marked = IMAGES.clone()
    marked[..., :60, :] = marked[..., 200:, :] = 9
    rows, columns = (64 / 256, 192 / 256), (60 / 240, 180 / 240)
    assert torch.equal(crop_and_resize(marked, rows, columns, 64), crop_and_resize(IMAGES, rows, columns, 64))


def test_autocast_does_not_coarsen_the_pixels():
    images = IMAGES.float()
    with torch.autocast("cpu", torch.bfloat16):
        pooled = crop_and_pool(images, (35, 223), (32, 220), 112)
    expected = F.adaptive_avg_pool2d(images[..., 35:223, 32:220], 112)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-6)
