"""The latent baselines: exact where codes are linear in age, and the same as others' arithmetic."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam_age.errors import InputError
from sam_age.evaluation.baselines import APART, LatentBaselines, fit, local_means, some, years_along
from sam_age.weights import load, save


def linear_codes(count: int = 60, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (count, 3, 5) that move by `step` (3, 5) a year, their ages, and the step."""
    rng = torch.Generator().manual_seed(0)
    ages = 100 * torch.rand(count, generator=rng, dtype=torch.float64)
    step = torch.randn(3, 5, generator=rng, dtype=torch.float64)
    codes = 0.3 + ages[:, None, None] * step + noise * torch.randn(count, 3, 5, generator=rng, dtype=torch.float64)
    return codes, ages, step


def test_both_move_codes_by_the_law_that_they_follow():
    codes, ages, step = linear_codes()
    fitted = fit(codes, ages)
    start, end = torch.tensor([10.0, 80.0, 33.0]), torch.tensor([70.0, 0.0, 34.5])
    face = torch.zeros(3, 3, 5)
    wanted = ((end - start)[:, None, None] * step).float()
    torch.testing.assert_close(fitted.mean_shift(face, start, end), wanted, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(fitted.linear(face, start, end), wanted, rtol=1e-2, atol=1e-2)
    assert torch.linalg.vector_norm(fitted.normal).item() == pytest.approx(1, abs=1e-5)
    assert fitted.years_per_unit.item() == pytest.approx(1 / step.norm().item(), rel=1e-2)


def test_nobody_is_moved_to_the_age_that_they_are():
    codes, ages, _ = linear_codes(noise=3.0)
    fitted = fit(codes, ages)
    face, age = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([7.3, 61.0])
    for move in (fitted.linear, fitted.mean_shift):
        assert torch.equal(move(face, age, age), face)


def test_mean_codes_are_numpys_weighted_lines():
    codes, ages, _ = linear_codes(40, noise=5.0)
    codes = (codes + (ages[:, None, None] / 30) ** 2).flatten(1)
    at = torch.tensor([0.0, 50.0, 95.0], dtype=torch.float64)
    got = local_means(codes, ages, at, 8.0).numpy()
    for row, age in zip(got, at.tolist(), strict=True):
        offset = ages.numpy() - age
        for column in range(3):
            weight = np.exp(-((offset / 8.0) ** 2) / 4)  # polyfit squares it
            wanted = np.polyfit(offset, codes[:, column].numpy(), 1, w=weight)[1]
            assert row[column] == pytest.approx(wanted, rel=1e-6)


def test_faces_of_unknown_age_are_left_out_and_too_few_are_refused():
    codes, ages, _ = linear_codes()
    unknown = torch.cat([codes, torch.full((3, 3, 5), 1e6)]), torch.cat([ages, torch.full((3,), float("nan"))])
    assert torch.equal(fit(*unknown).means, fit(codes, ages).means)
    with pytest.raises(InputError, match="ten at least"):
        fit(codes[:5], ages[:5])
    with pytest.raises(InputError, match="different ages"):
        fit(codes, torch.full_like(ages, 30.0))


@pytest.mark.parametrize("half", [False, True])
def test_they_are_stored_and_rebuilt_as_any_network(tmp_path, half):
    codes, ages, _ = linear_codes(noise=1.0)
    fitted = fit(codes / 100, ages, nodes=11)
    found = load(save(fitted, tmp_path / "baselines.safetensors", half))
    assert isinstance(found, LatentBaselines)
    assert found.config == {"n_styles": 3, "style_dim": 5, "nodes": 11}
    face, start, end = torch.zeros(1, 3, 5), torch.tensor([20.0]), torch.tensor([60.0])
    for name in ("linear", "mean_shift"):
        want, got = (getattr(each, name)(face, start, end) for each in (fitted, found))
        torch.testing.assert_close(got, want, rtol=0, atol=3e-3 if half else 0)


def test_a_sample_meets_everything_that_goes_round():
    """18,000 portraits of which every third is of a child: every sixth of them would all be."""
    thirds = [index % 3 for index in some(range(18_000), 3000)]
    counts = [thirds.count(third) for third in range(3)]
    assert min(counts) > 900
    assert some([3, 1, 2], 5) == some([3, 1, 2], None) == [3, 1, 2]


def drawn_as_codes() -> SimpleNamespace:
    """A generator whose pictures are the codes themselves, as brightness of three channels."""

    def synthesize(codes: torch.Tensor, noise: str) -> torch.Tensor:
        return codes.mean(2)[:, :, None, None].expand(-1, -1, 256, 256)

    return SimpleNamespace(decoder=SimpleNamespace(synthesize=synthesize))


def test_a_year_along_the_direction_is_what_shows_in_the_pictures():
    codes, _, _ = linear_codes(20)
    codes, normal = codes.float(), torch.zeros(3, 5)
    normal[1] = 5**-0.5

    def reads(faces: torch.Tensor) -> torch.Tensor:  # 40 years per unit of the second channel: 40 / sqrt 5 along it
        return 50 + 40 * faces[:, 1].mean((1, 2))

    assert years_along(normal, codes, drawn_as_codes(), reads) == pytest.approx(40 / 5**0.5, rel=1e-3)
    assert years_along(-normal, codes, drawn_as_codes(), reads) is None
    farthest = (codes - codes.mean(0)).flatten(1).norm(dim=1).mean().item()
    slow = 0.9 * APART / (2 * farthest)  # what shows at the very end is too little
    assert years_along(normal, codes, drawn_as_codes(), lambda faces: slow * 5**0.5 * faces[:, 1].mean((1, 2))) is None
