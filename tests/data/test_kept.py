"""Faces that are kept make the same batches as faces that are decoded as they come."""

import numpy as np
import pytest
import torch

from sam_age.data.dataset import FacesDataset
from sam_age.data.draws import chances
from sam_age.data.kept import KeptFaces
from sam_age.errors import InputError
from tests.data.faces import Aged
from tests.data.test_datamodule import batches, module, train


def arrived(data, count):
    """Training batches as a step sees them."""
    return [data.on_after_batch_transfer(data.on_before_batch_transfer(b, 0), 0) for b in batches(data, count)]


def test_kept_faces_make_the_batches_of_decoded_ones() -> None:
    broken = Aged(7, broken=(2,))
    plain, kept = module(broken), module(broken, keep="memory")
    for one, other in zip(arrived(plain, 6), arrived(kept, 6), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert plain.skipped == kept.skipped > 0


def test_mirroring_is_the_same_when_kept() -> None:
    seen = {}
    for keep in (None, "memory"):
        seen[keep] = torch.cat([batch["faces"] for batch in arrived(module(Aged(5), keep=keep, flip=0.5), 8)])
    assert torch.equal(seen[None], seen["memory"])
    dark_on_the_left = (seen["memory"][..., 0] < seen["memory"][..., -1]).all(-1).any(-1)
    assert dark_on_the_left.any()
    assert not dark_on_the_left.all()


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1, 2**32, 2**63 - 1, 2**100 + 3])
def test_draws_all_at_once_are_numpys_own(seed: int) -> None:
    numbers = np.array([0, 1, 17, 69_999, 2**31, 2**32 - 1] * 20)
    epochs = [place // 6 * 37 for place in range(len(numbers))]
    want = [np.random.default_rng([seed, epoch, n]).random() for epoch, n in zip(epochs, numbers.tolist(), strict=True)]
    assert chances(seed, epochs, numbers).tolist() == want


def test_validation_leaves_out_what_cannot_be_read() -> None:
    data = module(val=Aged(5, broken=(1, 3)), val_batch_size=2, keep="memory")
    got = [data.on_after_batch_transfer(data.on_before_batch_transfer(b, 0), 0) for b in data.val_dataloader()]
    assert torch.cat([batch["index"] for batch in got]).tolist() == [0, 2, 4]
    assert torch.cat([batch["age"] for batch in got]).tolist() == [0.0, 20.0, 40.0]
    assert data.skipped == 2


def test_a_resumed_run_with_kept_faces_sees_what_an_uninterrupted_one_sees(tmp_path) -> None:
    whole = train(tmp_path / "whole", 5)
    until = train(tmp_path / "stopped", 2, keep="memory")
    assert until + train(tmp_path / "stopped", 5, resume=2, keep="memory") == whole


def test_every_face_is_decoded_once() -> None:
    source = Aged(4)
    reads, read = [], source.read
    source.read = lambda index: (reads.append(index), read(index))[1]
    arrived(module(source, keep="memory"), 9)
    assert sorted(reads) == [0, 1, 2, 3]


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam_age.data.kept.PROCESSES_FROM", 1)
    monkeypatch.setattr("sam_age.data.kept.WORKERS", 2)
    monkeypatch.setattr("sam_age.data.kept.TOGETHER", 3)


@pytest.mark.parametrize("replace", [True, False])
def test_processes_keep_what_the_data_set_gives_face_by_face(replace: bool, in_processes: None) -> None:
    dataset = FacesDataset(Aged(8, broken=(1, 6, 7)), replace=replace)
    kept = KeptFaces(dataset)
    for index in range(8):
        want = dataset[index]
        assert kept.skipped[index] == want["skipped"]
        assert kept.there[index] == ("faces" in want)
        if "faces" in want:
            assert torch.equal(kept.pixels[index], want["faces"])
            assert kept.known["index"][index] == want["index"]
            assert torch.equal(kept.known["age"][index], want["age"])


def test_an_error_in_a_process_is_the_error_itself(in_processes: None) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*data\.on_error=skip goes on without it\)$"):
        KeptFaces(FacesDataset(Aged(5, broken=(4,)), on_error="stop"))


def test_what_does_not_fit_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(InputError, match=r"data\.keep=memory"):
        KeptFaces(module(Aged(4)).train_set)
    with pytest.raises(InputError, match=r"data\.keep is memory, device or null"):
        module(Aged(4), keep="disk")
