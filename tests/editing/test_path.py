"""A life as a curve in w+, and its file."""

import numpy as np
import pytest
import torch

from sam_age.editing import LifespanPath
from sam_age.errors import InputError


def a_path() -> LifespanPath:
    ages = torch.tensor([0.0, 10.0, 40.0, 100.0])
    return LifespanPath(ages, torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3, 5))


def test_between_its_ages_a_path_is_numpys_interpolation():
    path, ages = a_path(), [0, 3.5, 10, 25, 99.9, 100]
    found = path.at(ages)
    for style in range(3):
        for number in range(5):
            wanted = np.interp(ages, path.ages.numpy(), path.codes[:, style, number].numpy())
            np.testing.assert_allclose(found[:, style, number], wanted, atol=1e-6)
    assert torch.equal(path.at(path.ages), path.codes)


def test_before_the_first_age_and_after_the_last_it_stands_still():
    path = LifespanPath(torch.tensor([20.0, 60.0]), torch.randn(2, 3, 5), torch.zeros(3, 5))
    assert torch.equal(path.at([0, 100]), path.codes)
    one = LifespanPath(torch.tensor([30.0]), torch.randn(1, 3, 5), torch.zeros(3, 5))
    assert torch.equal(one.at([5, 80]), one.codes.expand(2, -1, -1))


def test_speed_is_the_distance_in_a_year():
    step = torch.randn(3, 5)
    path = LifespanPath(torch.tensor([0.0, 1.0, 50.0]), torch.tensor([0.0, 1.0, 50.0])[:, None, None] * step, step)
    torch.testing.assert_close(path.speed(), step.norm().expand(2))


def test_numpy_reads_the_file_and_so_do_we(tmp_path):
    path = a_path()
    file = path.save(tmp_path / "lives" / "one.npz")
    with np.load(file, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["ages", "codes", "latent_avg"]
        np.testing.assert_array_equal(arrays["codes"], path.codes.numpy())
    found = LifespanPath.load(file)
    for name in ("ages", "codes", "latent_avg"):
        assert torch.equal(getattr(found, name), getattr(path, name))
    assert [each.name for each in file.parent.iterdir()] == ["one.npz"]


def test_other_files_and_shapes_are_refused(tmp_path):
    with pytest.raises(InputError, match="There is no path"):
        LifespanPath.load(tmp_path / "none.npz")
    for number, content in enumerate((b"", b"PK\x03\x04 torn", b"plain text")):
        (tmp_path / f"{number}.npz").write_bytes(content)
        with pytest.raises(InputError, match="is no path of a life"):
            LifespanPath.load(tmp_path / f"{number}.npz")
    np.savez(tmp_path / "other.npz", ages=np.zeros(2))
    with pytest.raises(InputError, match="is no path of a life"):
        LifespanPath.load(tmp_path / "other.npz")
    np.savez(tmp_path / "pickle.npz", ages=np.array([object()]), codes=np.zeros(1), latent_avg=np.zeros(1))
    with pytest.raises(InputError, match="is no path of a life"):
        LifespanPath.load(tmp_path / "pickle.npz")
    with pytest.raises(InputError, match="have to rise"):
        LifespanPath(torch.tensor([5.0, 5.0]), torch.zeros(2, 3, 5), torch.zeros(3, 5))
    with pytest.raises(InputError, match="codes"):
        LifespanPath(torch.tensor([5.0]), torch.zeros(2, 3, 5), torch.zeros(3, 5))
    with pytest.raises(InputError, match="finite"):
        LifespanPath(torch.tensor([5.0]), torch.full((1, 3, 5), float("nan")), torch.zeros(3, 5))
    with pytest.raises(InputError, match=r"call the file life\.npz"):
        a_path().save(tmp_path / "life.pt")
