"""Training faces come with the same person at another age, wherever they are read."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sam_age.data.dataset import FacesDataset, to_pixels
from sam_age.data.truths import Truths
from sam_age.errors import InputError
from tests.data.faces import Aged, Lives
from tests.data.test_datamodule import module
from tests.data.test_kept import arrived


def test_a_truth_is_another_portrait_of_the_same_person_and_all_of_them_come() -> None:
    truths = Truths(Lives(7))
    chosen = [truths.choose(5, [epoch] * 7, range(7)) for epoch in range(40)]
    for index in range(6):
        want = {other for other in range(6) if other // 3 == index // 3 and other != index}
        assert {row[index] for row in chosen} == want
    assert {row[6] for row in chosen} == {6}  # who is alone is compared with themselves
    first = np.mean([truths.choose(5, [epoch], [0])[0] == 1 for epoch in range(2000)])
    assert first == pytest.approx(0.5, abs=0.05)


def test_a_sample_holds_the_truths_own_pixels_and_age_mirrored_together() -> None:
    source = Lives(6)
    dataset = FacesDataset(source, size=16, flip=0.5, truths=True)
    mirrored = set()
    for key in [(epoch, index) for epoch in range(6) for index in range(6)]:
        sample = dataset[key]
        other = round(sample["truth_age"].item() / 10)
        assert other in source.others(key[1])
        truth = to_pixels(Image.open(io.BytesIO(source.read(other))))
        flipped = dataset.mirrored(*key)
        mirrored.add(flipped)
        assert torch.equal(sample["truth"], truth.flip(2) if flipped else truth)
    assert mirrored == {True, False}


def test_kept_faces_have_the_truths_of_decoded_ones() -> None:
    broken = Lives(8, broken=(1, 5))
    plain = module(broken, flip=0.5, truths=True)
    kept = module(broken, flip=0.5, truths=True, keep="memory")
    for one, other in zip(arrived(plain, 9), arrived(kept, 9), strict=True):
        assert one.keys() == other.keys() >= {"truth", "truth_age"}
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert one["truth"].min() >= -1
        assert not {10.0, 50.0} & set(one["truth_age"].tolist())  # those that cannot be read


def test_validation_faces_come_without() -> None:
    data = module(val=Lives(5), truths=True, train=Lives(6))
    (batch, *_) = data.val_dataloader()
    assert "truth" not in batch


def test_what_is_of_unknown_age_is_nobodys_truth() -> None:
    class Unsure(Lives):
        def age(self, index: int) -> float:
            return float("nan") if index == 1 else super().age(index)

    assert Truths(Unsure(6)).others == [[2], [0, 2], [0], [4, 5], [3, 5], [3, 4]]
    with pytest.raises(InputError, match="1 training faces of unknown age"):
        Truths(type("Alone", (Unsure,), {"others": lambda self, index: [] if index == 1 else [3]})(6))


def test_two_spawned_workers_give_the_truths_of_none() -> None:
    alone, helped = (arrived(module(Lives(6), truths=True, num_workers=n), 3) for n in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("faces", "truth", "truth_age"))


@pytest.mark.parametrize("source", [Aged(4), Lives(1)])
def test_a_set_that_shows_nobody_twice_is_refused_with_the_command_that_makes_one(source: Aged) -> None:
    with pytest.raises(InputError, match="ages=6 scenes=1"):
        FacesDataset(source, truths=True)
