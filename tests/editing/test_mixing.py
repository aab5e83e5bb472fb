"""Style mixing: what must change and what must not. The authors' numbers are checked in tests/models/test_sam.py."""

import pytest
import torch

from sam_age.editing import layers_of, mix, random_styles
from sam_age.errors import InputError
from tests.modules.test_aging import tiny_sam


def test_other_layers_stay_and_the_callers_codes_too():
    codes, other = torch.randn(2, 3, 14, 8), torch.randn(14, 8)
    kept = codes.clone()
    mixed = mix(codes, other, "8-9,12", 0.25)
    assert torch.equal(codes, kept)
    others = [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 13]
    assert torch.equal(mixed[..., others, :], codes[..., others, :])
    torch.testing.assert_close(mixed[..., 12, :], 0.25 * other[12] + 0.75 * codes[..., 12, :])
    assert torch.equal(mix(codes, other, "all"), other.expand_as(codes))


def test_layers_are_named_as_the_authors_number_them():
    assert layers_of(None, 18) == list(range(8, 18))  # their default: 8,9,...,17
    assert [layers_of(name, 18) for name in ("coarse", "middle")] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    for n_styles in (4, 8, 10, 14, 18):
        parts = [n for name in ("coarse", "middle", "fine") if (n_styles, name) != (4, "middle")
                 for n in layers_of(name, n_styles)]  # fmt: skip
        assert parts == list(range(n_styles))
    for wrong in ("8-20", "some", [-1], [], "3-2", 50, [None]):
        with pytest.raises(InputError, match="layers"):
            layers_of(wrong, 18)


def test_random_styles_depend_on_the_seed_and_their_number_alone():
    generator = tiny_sam().eval().decoder
    three = random_styles(generator, 3, seed=5)
    assert torch.allclose(random_styles(generator, 1, seed=5), three[:1], atol=1e-6)
    assert not torch.allclose(random_styles(generator, 1, seed=6), three[:1], atol=1e-2)
    assert torch.equal(three[:, 0], three[:, -1])  # one style for all layers, as the authors draw them
    torch.testing.assert_close(
        random_styles(generator, 3, seed=5, truncation=0.0), generator.latent_avg.expand_as(three)
    )


def test_shares_and_codes_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="alpha"):
        mix(torch.zeros(1, 14, 8), torch.zeros(14, 8), alpha=1.2)
    with pytest.raises(InputError, match="different models"):
        mix(torch.zeros(1, 14, 8), torch.zeros(18, 8))
