"""Latent directions: exact where codes are linear in the label, and the same as others' arithmetic."""

import numpy as np
import pytest
import torch

from sam_age.editing import LatentDirection, fit_direction
from sam_age.editing.directions import ridge_direction
from sam_age.errors import InputError
from sam_age.weights import load, save
from tests.evaluation.test_baselines import linear_codes


def test_the_penalty_is_chosen_by_faces_left_out():
    """More numbers in a code than faces: without a penalty every age would be explained, and none predicted."""
    rng = torch.Generator().manual_seed(2)
    ages = 100 * torch.rand(50, generator=rng, dtype=torch.float64)
    codes = torch.randn(50, 300, generator=rng, dtype=torch.float64)
    assert ridge_direction(codes, ages).explained < 0.2
    codes[:, 7] += 0.2 * (ages - 50)
    found = ridge_direction(codes, ages)
    assert found.explained > 0.5
    assert found.normal.abs().argmax() == 7


def test_the_left_out_error_is_that_of_fitting_anew_without_each_face():
    codes, ages, _ = linear_codes(25, noise=40.0)
    x, y = codes.flatten(1).numpy(), ages.numpy()
    centred = x - x.mean(0)
    scale = (centred**2).sum(1).mean()
    errors = []
    for penalty in np.logspace(-4, 4, 33):
        hat = centred @ np.linalg.solve(centred.T @ centred + penalty * scale * np.eye(15), centred.T) + 1 / 25
        residual = (y - hat @ y) / (1 - np.diag(hat))
        errors.append((residual**2).mean())
    wanted = 1 - min(errors) / y.var()
    assert ridge_direction(codes.flatten(1), ages).explained == pytest.approx(wanted, rel=1e-6)


def two_folders(count: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (count, 3, 5) of faces without and with something, their labels, and what it adds."""
    rng = torch.Generator().manual_seed(3)
    labels = torch.tensor([0.0, 1.0]).repeat(count // 2)
    added = torch.randn(3, 5, generator=rng)
    codes = 0.05 * torch.randn(count, 3, 5, generator=rng) + labels[:, None, None] * added
    return codes, labels, added


def test_one_step_leads_from_faces_without_to_faces_with():
    codes, labels, added = two_folders(2000)
    direction = fit_direction(codes, labels, "glasses")
    torch.testing.assert_close(direction(torch.zeros(1, 3, 5))[0], added, rtol=0, atol=0.1)
    means = [direction.read(codes[labels == label]).mean() for label in (0, 1)]
    assert (means[1] - means[0]).item() == pytest.approx(1, rel=1e-3)
    assert direction.explained > 0.9


def test_faces_are_moved_by_their_own_amounts_and_in_the_layers_named_alone():
    codes, labels, _ = two_folders()
    direction = fit_direction(codes, labels)
    moved = direction(codes[:2], torch.tensor([0.0, -2.0]), layers="1-2")
    assert torch.equal(moved[0], codes[0])
    assert torch.equal(moved[1, 0], codes[1, 0])
    torch.testing.assert_close(moved[1, 1:], direction(codes[1], -2.0)[1:])
    assert direction(codes[:4].view(2, 2, 3, 5), torch.ones(2, 2)).shape == (2, 2, 3, 5)


def test_a_direction_of_years_is_the_linear_baselines():
    from sam_age.evaluation.baselines import fit

    codes, ages, _ = linear_codes(noise=3.0)
    face = torch.zeros(1, 3, 5)
    want = fit(codes, ages).linear(face, torch.tensor([20.0]), torch.tensor([50.0]))
    torch.testing.assert_close(fit_direction(codes, ages, "age")(face, 30.0), want)


def test_a_direction_is_stored_and_rebuilt_as_any_network(tmp_path):
    codes, labels, _ = two_folders()
    direction = fit_direction(codes, labels, "glasses")
    found = load(save(direction, tmp_path / "glasses.safetensors"))
    assert isinstance(found, LatentDirection)
    assert (found.name, found.explained) == ("glasses", direction.explained)
    assert torch.equal(found(codes, 0.7), direction(codes, 0.7))


def test_too_few_labels_and_codes_of_another_model_are_refused():
    codes, labels, _ = two_folders()
    with pytest.raises(InputError, match="10 labelled faces"):
        fit_direction(codes[:4], labels[:4])
    with pytest.raises(InputError, match="two labels"):
        fit_direction(codes, torch.zeros(40))
    with pytest.raises(InputError, match=r"codes of \[3, 5\]"):
        fit_direction(codes, labels)(torch.zeros(1, 8, 5))
