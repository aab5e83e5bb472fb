"""Samples: what they hold, when they are mirrored, and what happens at a damaged picture."""

import logging
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from sam_age.data.dataset import FacesDataset, collate
from sam_age.data.sources import FolderFaces, Subset
from sam_age.errors import InputError
from tests.data.faces import Aged, Colours, colour


def test_a_sample_is_the_picture_its_number_and_its_age():
    sample = FacesDataset(Aged(4), size=16)[3]
    assert sample["faces"].dtype == torch.uint8
    assert sample["faces"].shape == (3, 16, 16)
    assert sample["faces"][:, 0, -1].tolist() == list(colour(3))
    assert (sample["index"], float(sample["age"])) == (3, 30.0)
    assert math.isnan(FacesDataset(Colours(4), size=16)[3]["age"])


class Named(Aged):
    """The same, two pictures of each person."""

    def labels(self, index):
        return {"person": index // 2, "kin": 1}


def test_a_sample_carries_what_its_source_says_in_whole_numbers():
    samples = [FacesDataset(source, size=16)[index] for source, index in ((Named(4), 3), (Subset(Named(4), [2, 0]), 0))]
    assert [(sample["person"], sample["kin"]) for sample in samples] == [(1, 1), (1, 1)]
    assert collate(samples)["person"].tolist() == [1, 1]
    assert collate(samples)["person"].dtype == torch.int64
    plain = FacesDataset(Subset(Colours(4), [2, 0]), size=16)[0]
    assert set(plain) == {"faces", "index", "age", "skipped"}


def test_a_picture_in_the_place_of_a_damaged_one_has_labels_of_its_own():
    class Damaged(Named):
        def __init__(self):
            Colours.__init__(self, 4, broken=(1,))

    assert FacesDataset(Damaged(), size=16)[1]["person"] == 1


def test_a_choice_of_pictures_that_are_not_there_is_refused():
    with pytest.raises(InputError, match=r"Picture 4 is wanted of 4, the first colour 0"):
        Subset(Colours(4), range(2, 6))


def mirrored(dataset, epoch, index) -> bool:
    return bool(dataset[epoch, index]["faces"][2, 0, 0] == 200)  # the colour has come to the left


def test_mirroring_depends_on_seed_epoch_and_number_alone():
    def pattern(seed, epoch, order):
        dataset = FacesDataset(Colours(40), size=16, flip=0.5, seed=seed)
        return {index: mirrored(dataset, epoch, index) for index in order}

    forwards = pattern(0, 0, range(40))
    assert pattern(0, 0, reversed(range(40))) == forwards
    assert pattern(1, 0, range(40)) != forwards
    assert pattern(0, 1, range(40)) != forwards


def test_half_of_the_faces_are_mirrored():
    dataset = FacesDataset(Colours(1), size=16, flip=0.5)
    share = sum(mirrored(dataset, epoch, 0) for epoch in range(600)) / 600
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(600)
    never = FacesDataset(Colours(1), size=16)
    assert not any(mirrored(never, epoch, 0) for epoch in range(20))


def test_a_damaged_picture_gives_way_to_the_next_and_is_counted_once(caplog):
    dataset = FacesDataset(Colours(5, broken=(1, 4)), size=16)
    with caplog.at_level(logging.WARNING, "sam_age"):
        taken = [dataset[0, index]["index"] for index in (1, 1, 4, 2)]
    assert taken == [2, 2, 0, 2]
    assert list(dataset.skipped) == ["colour 1", "colour 4"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "2 so far" in said[1]
    assert "colour 4 is not an image" in said[1]


def test_a_damaged_picture_stops_the_run_when_asked():
    with pytest.raises(InputError, match=r"colour 1 is not an image.*on_error=skip"):
        FacesDataset(Colours(5, broken=(1,)), size=16, on_error="stop")[1]


def test_nothing_but_damaged_pictures_ends_in_one_line():
    with pytest.raises(InputError, match="None of the 2 pictures"):
        FacesDataset(Colours(2, broken=(0, 1)), size=16)[0]


@pytest.mark.parametrize("bad", [{"on_error": "ignore"}, {"flip": 1.5}, {"flip": math.nan}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        FacesDataset(Colours(1), **bad)


def test_evaluation_leaves_a_corrupt_picture_out_instead_of_counting_another_twice(tmp_path: Path) -> None:
    for name in ("a", "c"):
        Image.new("RGB", (256, 256), "grey").save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    dataset = FacesDataset(FolderFaces(tmp_path), replace=False)
    batch = collate([dataset[i] for i in range(3)])
    assert batch["index"].tolist() == [0, 2]
    assert len(batch["faces"]) == 2
    assert batch["skipped"] == 1
    nothing = collate([dataset[1]])
    assert len(nothing["faces"]) == 0
    assert nothing["skipped"] == 1
    replaced = FacesDataset(FolderFaces(tmp_path))[1]
    assert (replaced["index"], replaced["skipped"]) == (2, 1)
