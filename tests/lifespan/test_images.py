"""Blurs, against scipy's."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from sam_age.lifespan.dice import uniforms
from sam_age.lifespan.images import blur, gather, scatter


def _picture(size=128):
    return uniforms(torch.tensor(1), torch.arange(size * size), 0).view(1, size, size)


@pytest.mark.parametrize("sigma", [0.5, 1.2, 1.6])
def test_a_narrow_blur_is_scipys(sigma):
    image = _picture()
    expected = gaussian_filter(image[0].double().numpy(), sigma, mode="constant", truncate=2.5)
    assert abs(blur(image, sigma)[0].numpy() - expected).max() < 0.02  # scipy rounds the radius to the nearest


@pytest.mark.parametrize("sigma", [2.2, 3.2, 6.0])
def test_a_wide_blur_is_scipys_away_from_the_border(sigma):
    image = _picture()
    expected = gaussian_filter(image[0].double().numpy(), sigma, mode="constant")
    off = abs(blur(image, sigma)[0].numpy() - expected)[24:-24, 24:-24]
    assert off.mean() < 0.01
    assert off.max() < 0.04


def test_gathering_takes_back_what_was_scattered():
    pixel = torch.tensor([3, 17, 40])
    values = torch.arange(6.0).view(3, 2)
    laid = scatter(values, pixel, 2, 5)
    assert laid.shape == (2, 2, 5, 5)
    assert laid[1, 1, 3, 0] == 5
    assert torch.equal(gather(laid, pixel), values)
