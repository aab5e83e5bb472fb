"""Adaptive augmentation: nothing at probability 0, gradients at 1, and a probability that goes the right way."""

from __future__ import annotations

import pytest
import torch

from sam_age.data.ada import AdaptiveAugment
from sam_age.errors import InputError


def alone(value: torch.Tensor) -> torch.Tensor:
    return value


@pytest.fixture
def faces() -> torch.Tensor:
    return torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_at_probability_0_it_is_the_identity_to_the_bit(faces: torch.Tensor) -> None:
    assert torch.equal(AdaptiveAugment()(faces), faces)


def test_at_probability_1_it_changes_every_face_and_lets_gradients_through(faces: torch.Tensor) -> None:
    torch.manual_seed(0)
    faces = faces.requires_grad_()
    changed = AdaptiveAugment(start=1.0, most=1.0)(faces)
    assert ((changed - faces).abs().amax((1, 2, 3)) > 1e-3).all()
    (gradient,) = torch.autograd.grad(changed.sum(), faces)
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()


def test_each_face_is_hit_as_often_as_the_probability_says(faces: torch.Tensor) -> None:
    torch.manual_seed(0)
    augment = AdaptiveAugment(start=0.3, brightness=0, contrast=0, saturation=1.0, zoom=0, turn=0, shift=0)
    hits = torch.cat([(augment.recoloured(faces) - faces).abs().amax((1, 2, 3)) > 1e-6 for _ in range(20)])
    assert abs(hits.float().mean() - 0.3) < 0.04  # three standard deviations


def test_a_mirrored_face_is_the_flipped_one_and_a_shift_moves_pixels(faces: torch.Tensor) -> None:
    torch.manual_seed(0)
    still = {"zoom": 0.0, "turn": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    out = AdaptiveAugment(start=1.0, most=1.0, shift=0.0, **still)(faces)
    flipped = ((out - faces.flip(3)).abs().amax((1, 2, 3)) < 1e-5).float()
    same = ((out - faces).abs().amax((1, 2, 3)) < 1e-5).float()
    assert (flipped + same == 1).all()
    assert 0.25 < flipped.mean() < 0.75
    # a picture of x: shifting by s of the side adds 2 s to what is read at the middle
    ramp = torch.linspace(-1 + 1 / 64, 1 - 1 / 64, 64).expand(256, 3, 64, 64)
    moved = AdaptiveAugment(start=1.0, most=1.0, shift=0.05, **still)(ramp)[:, 0, 32, 31:33].mean(1)
    assert moved.std() == pytest.approx(2 * 0.05, rel=0.15)


@pytest.mark.parametrize(("sign", "direction"), [(1.0, 1), (0.7, 1), (0.5, -1), (-1.0, -1)])
def test_the_probability_follows_the_signs(sign: float, direction: int) -> None:
    augment = AdaptiveAugment(start=0.4, target=0.6, every=2, images_to_one=1000)
    scores = torch.ones(20, 1)
    scores[: round(20 * (1 - sign) / 2)] = -3.0
    augment.observe(scores, 1, alone)
    assert augment.probability.item() == pytest.approx(0.4)  # not yet
    augment.observe(scores, 2, alone)
    assert augment.probability.item() == pytest.approx(0.4 + direction * 40 / 1000)
    assert augment.signs.tolist() == [0, 0]


def test_the_probability_stays_within_its_bounds() -> None:
    augment = AdaptiveAugment(every=1, images_to_one=10)
    augment.observe(-torch.ones(8, 1), 1, alone)
    assert augment.probability == 0
    for step in range(1, 4):
        augment.observe(torch.ones(8, 1), step, alone)
    assert augment.probability.item() == pytest.approx(0.8)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="start <= most"):
        AdaptiveAugment(start=0.9)
