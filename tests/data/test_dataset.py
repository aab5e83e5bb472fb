"""Samples: what they hold, when they are mirrored, and what happens at a damaged picture."""

import logging
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from sam_age.data.dataset import FacesDataset, collate
from sam_age.data.sources import FolderFaces
from sam_age.errors import InputError
from tests.data.faces import Aged, Colours, colour


def test_a_sample_is_the_picture_its_number_and_its_age():
    sample = FacesDataset(Aged(4), size=16)[3]
    assert sample["faces"].dtype == torch.uint8
    assert sample["faces"].shape == (3, 16, 16)
    assert sample["faces"][:, 0, -1].tolist() == list(colour(3))
    assert (sample["index"], float(sample["age"])) == (3, 30.0)
    assert math.isnan(FacesDataset(Colours(4), size=16)[3]["age"])


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
