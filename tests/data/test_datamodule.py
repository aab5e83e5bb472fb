"""Batches do not depend on who loads them, and training goes on where it stopped."""

import logging
from itertools import islice
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from sam_age.data.datamodule import FacesDataModule
from sam_age.errors import InputError
from tests.data.faces import Aged, Colours, colour, png
from tests.data.test_sources import write_tar


def module(train=None, *, rank=0, world=1, **settings):
    """The data module as a trainer of these ranks would see it before its first batch."""
    settings = {"batch_size": 3, "num_workers": 0, "image_size": 16, **settings}
    data = FacesDataModule(train or Colours(7, broken=(2,)), **settings)
    data.trainer = a_trainer(rank, world)
    return data


def a_trainer(rank=0, world=1):
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(global_rank=rank, world_size=world, fit_loop=loop)


def batches(data, count):
    return list(islice(iter(data.train_dataloader()), count))


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in ("faces", "index"))


def test_two_spawned_workers_give_the_batches_of_none():
    alone, helped = batches(module(), 4), batches(module(num_workers=2), 4)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert len({tuple(batch["index"].tolist()) for batch in alone}) > 1


def test_a_worker_that_is_to_stop_at_a_damaged_picture_says_so_in_a_line():
    with pytest.raises(InputError, match=r"^[^\n]*colour 2 is not an image[^\n]*data\.on_error=skip[^\n]*$"):
        batches(module(num_workers=1, on_error="stop"), 3)


def test_two_ranks_see_the_joined_batch():
    joined = batches(module(batch_size=6), 3)
    first, second = (batches(module(rank=rank, world=2), 3) for rank in (0, 1))
    for whole, a, b in zip(joined, first, second, strict=True):
        assert torch.equal(whole["faces"][0::2], a["faces"])
        assert torch.equal(whole["faces"][1::2], b["faces"])


class Watcher(pl.LightningModule):
    """Writes down the faces that it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        self.seen += [(int(i), float(face.mean())) for i, face in zip(batch["index"], batch["faces"], strict=True)]
        return self.weight * batch["faces"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def train(folder, steps, resume=None, batch_size=3, num_workers=0, keep=None, **settings):
    """What a run of so many optimizer steps saw; resume: the step whose checkpoint it goes on from."""
    watcher = Watcher()
    save = ModelCheckpoint(folder, "{step}", auto_insert_metric_name=False, every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[save],
        **settings,
    )
    data = FacesDataModule(
        Colours(7, broken=(2,)), batch_size=batch_size, num_workers=num_workers, keep=keep, image_size=16
    )
    trainer.fit(watcher, datamodule=data, ckpt_path=resume and folder / f"{resume}.ckpt")
    return watcher.seen


@pytest.mark.parametrize(
    "settings", [{}, {"num_workers": 2}, {"accumulate_grad_batches": 2}, {"limit_train_batches": 2, "max_epochs": -1}]
)
def test_a_resumed_run_sees_what_the_uninterrupted_one_would(tmp_path, settings):
    whole = train(tmp_path / "whole", 5, **(settings | {"num_workers": 0}))  # whoever loads them
    until = train(tmp_path / "stopped", 2, **settings)
    after = train(tmp_path / "stopped", 5, resume=2, **settings)
    assert until + after == whole
    assert len(set(whole[:6])) > 1


def test_a_run_resumed_with_another_batch_size_goes_on_at_the_same_face(tmp_path):
    whole = train(tmp_path / "whole", 6)
    until = train(tmp_path / "stopped", 2)
    after = train(tmp_path / "stopped", 8, resume=2, batch_size=2)
    assert until + after == whole


def test_other_data_after_a_resume_is_said(caplog):
    data = module(Colours(9))
    with caplog.at_level(logging.WARNING, "sam_age"):
        data.load_state_dict(module().state_dict())
    assert "length was 7, is 9" in caplog.text


def test_faces_travel_as_bytes_and_arrive_in_the_unit_range():
    data = module(Aged(3), flip=0.0)
    (batch,) = batches(data, 1)
    assert batch["faces"].dtype == torch.uint8
    arrived = data.on_after_batch_transfer(batch, 0)
    expected = torch.tensor([[value / 255 * 2 - 1 for value in colour(int(i))] for i in batch["index"]])
    torch.testing.assert_close(arrived["faces"][:, :, 0, -1], expected)
    assert torch.equal(arrived["age"], batch["index"] * 10.0)


def test_validation_is_every_face_once_in_order_up_to_the_limit():
    data = module(val=Colours(8), max_val_images=5, val_batch_size=2)
    assert torch.cat([batch["index"] for batch in data.val_dataloader()]).tolist() == [0, 1, 2, 3, 4]
    assert data.test_dataloader() == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_scores_no_face_twice_and_tells_how_many_were_left_out(caplog, num_workers):
    """The same faces as training has, where a damaged one does give way."""
    faces = Colours(7, broken=(0, 1, 4))
    data = FacesDataModule(faces, faces, val_batch_size=2, num_workers=num_workers, image_size=16)
    seen = Scorer()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with caplog.at_level(logging.WARNING, "sam_age"):
        trainer.validate(seen, datamodule=data, verbose=False)
    assert seen.batches == [[], [2, 3], [5], [6]]
    assert data.skipped == 3
    assert [r.getMessage() for r in caplog.records if "3 times" in r.getMessage()]
    assert data.train_set[0]["index"] == 2


class Scorer(pl.LightningModule):
    """Writes down the numbers of the faces in every batch."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def validation_step(self, batch, _):
        assert set(batch) == {"faces", "index", "age"}
        assert len(batch["faces"]) == len(batch["index"]) == len(batch["age"])
        self.batches.append(batch["index"].tolist())


def test_shards_come_in_windows_and_hold_every_face(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [2 * number, 2 * number + 1])
    data = module(str(tmp_path), shard_window=1, batch_size=2)
    seen = [sorted(batch["index"].tolist()) for batch in batches(data, 3)]
    assert sorted(seen) == [[0, 1], [2, 3], [4, 5]]


def test_labels_are_the_ages_of_training_faces(tmp_path):
    (tmp_path / "faces").mkdir()
    for number in (0, 3, 12):
        (tmp_path / "faces" / f"{number:05d}.png").write_bytes(png(number))
    (tmp_path / "labels.csv").write_text("image_number,age_group,age_group_confidence\n0,0-2,1\n12,30-39,0.9\n")
    where = tmp_path / "faces"
    data = module(where, val=where, labels=tmp_path / "labels.csv", flip=0.0)
    (batch,) = batches(data, 1)
    ages = dict(zip(batch["index"].tolist(), batch["age"].tolist(), strict=True))
    assert (ages[0], ages[2]) == (1.0, 34.5)
    assert ages[1] != ages[1]  # NaN: the CSV does not know it
    assert next(iter(data.val_dataloader()))["age"].isnan().all()


@pytest.mark.parametrize(
    ("bad", "says"),
    [({"batch_size": 0}, "batch_size"), ({"num_workers": -1}, "num_workers"), ({"shard_window": 0}, "shard_window")],
)
def test_settings_out_of_range_are_refused(bad, says):
    with pytest.raises(InputError, match=says):
        module(**bad)


def test_training_without_data_is_one_line():
    data = FacesDataModule(val=Colours(2))
    data.trainer = a_trainer()
    with pytest.raises(InputError, match=r"data\.train="):
        data.train_dataloader()


def test_fewer_faces_to_score_than_processes_is_refused():
    data = module(val=Colours(2), world=3)
    with pytest.raises(InputError, match="2 faces to score cannot be shared out to 3 processes"):
        data.val_dataloader()
