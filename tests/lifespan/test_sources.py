"""Portraits as training reads them: from a folder, from shards, and rendered on the way."""

import io
import itertools
import logging

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from sam_age.config import CONF_DIR, build
from sam_age.data.datamodule import FacesDataModule
from sam_age.errors import InputError
from sam_age.lifespan.folder import Settings
from sam_age.lifespan.live import LifespanLiveModule
from sam_age.lifespan.making import render_split
from sam_age.lifespan.sources import LifespanFaces, LifespanLive
from tests.data.test_datamodule import Watcher, a_trainer, batches, same

FAKE = "tests.lifespan.fake"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp("lifespan")
    for name, settings in {"files": {"format": "png"}, "shards": {"format": "shards", "shard_images": "png"}}.items():
        for split in ("train", "val"):
            settings = Settings(split=split, people=4, size=32, shard_size=5, **settings)
            render_split(root / name, settings, workers=1, renderer=FAKE)
            settings = {key: getattr(settings, key) for key in ("format", "shard_images")}
    return root


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


# ---- what sam-render wrote -------------------------------------------------------------------------------------------


def test_a_folder_knows_the_age_person_and_sex_of_every_portrait(rendered):
    faces = LifespanFaces(rendered / "files", "train")
    assert len(faces) == 12
    assert [faces.row(i)["person"] for i in range(4)] == ["train-0-00000"] * 3 + ["train-0-00001"]
    assert faces.row(3)["sex"] == "male"
    assert faces.age(4) == faces.row(4)["age"]
    assert faces.name(4).endswith(faces.row(4)["file"])
    assert pixels(faces.read(4)).shape == (32, 32, 3)


def test_shards_hold_the_portraits_of_the_folder_in_the_same_order(rendered):
    folder, shards = (LifespanFaces(rendered / kind, "train") for kind in ("files", "shards"))
    assert (folder.blocks, shards.blocks) == (None, [5, 5, 2])
    for index in range(12):
        assert shards.read(index) == folder.read(index)
        assert shards.age(index) == folder.age(index)
        assert shards.row(index)["person"] == folder.row(index)["person"]


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_people_are_numbered_and_kin_shares_sex_and_ancestry(rendered, kind):
    faces = LifespanFaces(rendered / kind, "train")
    labels = [faces.labels(i) for i in range(12)]
    assert faces.people == 4
    assert [label["person"] for label in labels] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    looks = [(faces.row(i)["sex"], faces.row(i)["ancestry"]) for i in range(12)]
    assert len({label["kin"] for label in labels}) == len(set(looks)) == 4
    assert len({(label["kin"], *look) for label, look in zip(labels, looks, strict=True)}) == 4


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_others_are_the_same_person_in_the_same_scene_at_other_ages(tmp_path, kind):
    made = {"files": {"format": "png"}, "shards": {"format": "shards", "shard_images": "png"}}[kind]
    settings = Settings(split="train", people=3, ages=(5.0, 50.0, 95.0), scenes=2, size=32, shard_size=5, **made)
    render_split(tmp_path, settings, workers=1, renderer=FAKE)
    faces = LifespanFaces(tmp_path, "train")
    for index in range(len(faces)):
        row, others = faces.row(index), [faces.row(other) for other in faces.others(index)]
        assert {(r["person"], r["scene"]) for r in others} == {(row["person"], row["scene"])}
        assert {r["age"] for r in others} == {5.0, 50.0, 95.0} - {row["age"]}


def test_a_live_split_names_the_people_of_the_folder(rendered):
    faces, rendering = LifespanFaces(rendered / "files", "val"), live("val", people=4)
    assert rendering.people == faces.people == 4
    assert [rendering.labels(i) for i in range(12)] == [faces.labels(i) for i in range(12)]
    assert live().labels(7)["person"] == 7


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_batches_carry_the_ages(rendered, kind):
    faces = LifespanFaces(rendered / kind, "train")
    data = FacesDataModule(faces, batch_size=4, num_workers=0, image_size=32, shard_window=1)
    data.trainer = a_trainer()
    for batch in batches(data, 3):
        assert batch["age"].tolist() == pytest.approx([faces.age(i) for i in batch["index"].tolist()])


def test_the_config_finds_the_splits(rendered, monkeypatch):
    from omegaconf import OmegaConf

    monkeypatch.setenv("SAM_AGE_DATA", str(rendered))
    (rendered / "lifespan").symlink_to(rendered / "files")
    whole = OmegaConf.create({"data": OmegaConf.load(CONF_DIR / "data/lifespan.yaml"), "seed": 3})
    whole.data.test = None
    data = build(whole.data)
    assert (len(data.train_set), len(data.val_set), data.test_set, data.seed) == (12, 12, None, 3)


def test_what_is_not_there_is_told_with_the_command_that_makes_it(rendered, tmp_path):
    with pytest.raises(InputError, match=r"sam-render output=.*files split=judges renders them") as error:
        LifespanFaces(rendered / "files", "judges")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"no split 'Train'; known: train, judges, val, test, test_scenes"):
        LifespanFaces(rendered / "files", "Train")
    (tmp_path / "train").mkdir()
    for name in ("portraits.jsonl", "portraits-000000.tar"):
        (tmp_path / "train" / name).write_bytes((rendered / "shards/train" / name).read_bytes())
    with pytest.raises(InputError, match=r"not those of portraits\.jsonl"):
        LifespanFaces(tmp_path)


def test_a_folder_that_is_not_finished_is_used_and_told(rendered, tmp_path, caplog):
    (tmp_path / "train").mkdir()
    for name in ("portraits.jsonl", "render.json"):
        text = (rendered / "files/train" / name).read_text()
        kept = text if name == "render.json" else "".join(text.splitlines(keepends=True)[:10])
        (tmp_path / "train" / name).write_text(kept)
    with caplog.at_level(logging.WARNING, "sam_age"):
        assert len(LifespanFaces(tmp_path)) == 10
    assert "lacks 2 of its portraits" in caplog.text
    caplog.clear()
    LifespanFaces(rendered / "files")
    assert not caplog.text


# ---- rendered when they are read -------------------------------------------------------------------------------------


def live(split="live", **settings):
    return LifespanLive(split, size=32, renderer=FAKE, **settings)


def test_a_live_portrait_is_a_function_of_seed_and_number_alone():
    one, same_one, other = live(seed=1), live(seed=1), live(seed=2)
    far = 10**11
    assert one.read(far) == same_one.read(far)
    assert one.read(5) != one.read(6)
    assert one.read(5) != other.read(5)
    assert (one.age(5), one.row(5)["person"]) == (one.row(5)["age"], "live-1-00005")


def test_live_people_are_in_no_split_on_disk_and_never_come_twice():
    people = [live().portraits[i].person_key for i in range(1000)]
    assert len(set(people)) == 1000
    assert {key[1] for key in people} == {"live"}


def test_live_ages_and_sexes_are_spread_evenly():
    portraits = [live().portraits[i] for i in range(3000)]
    decades = np.histogram([p.age for p in portraits], bins=10, range=(0, 100))[0]
    assert all(abs(count - 300) < 4 * 300**0.5 for count in decades)
    assert sum(p.sex == "male" for p in portraits) == 1500


def test_a_live_split_holds_the_portraits_that_sam_render_writes(rendered):
    faces, rendering = LifespanFaces(rendered / "files", "val"), live("val", people=4)
    assert len(rendering) == len(faces)
    for index in range(len(faces)):
        assert np.array_equal(pixels(rendering.read(index)), pixels(faces.read(index)))
        assert rendering.age(index) == faces.age(index)


def test_many_at_once_are_the_portraits_read_one_by_one():
    source = live()
    together = source.render([3, 1, 4])
    assert together.dtype == torch.uint8
    for number, image in zip([3, 1, 4], together, strict=True):
        assert np.array_equal(pixels(source.read(number)), image.permute(1, 2, 0).numpy())


def test_the_endless_split_has_no_number_of_people():
    with pytest.raises(InputError, match="has no end"):
        live(people=3)
    with pytest.raises(InputError, match="no split 'lives'"):
        live("lives")


def module(*, rank=0, world=1, **settings):
    settings = {"batch_size": 3, "num_workers": 0, "image_size": 32, "render_on": "loader", **settings}
    data = LifespanLiveModule(live(), live("val", people=2), **settings)
    data.trainer = a_trainer(rank, world)
    return data


def arrived(data, batch):
    return data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_the_device_renders_what_the_loader_would_have(flip):
    for loader in ("train_dataloader", "val_dataloader"):
        by_loader, by_device = (module(render_on=where, flip=flip) for where in ("loader", "device"))
        for one, other in itertools.islice(
            zip(getattr(by_loader, loader)(), getattr(by_device, loader)(), strict=True), 2
        ):
            assert "faces" not in other
            one, other = arrived(by_loader, one), arrived(by_device, other)
            assert set(one) == set(other) == {"faces", "index", "age", "person", "kin"}
            assert all(torch.equal(one[key], other[key]) for key in one)
            assert one["faces"].min() >= -1
            assert one["faces"].dtype == torch.float32


def test_two_spawned_workers_give_the_live_batches_of_none():
    assert all(same(a, b) for a, b in zip(batches(module(), 3), batches(module(num_workers=2), 3), strict=True))


def test_two_ranks_see_the_joined_live_batch():
    joined = batches(module(batch_size=6), 2)
    first, second = (batches(module(rank=rank, world=2), 2) for rank in (0, 1))
    for whole, a, b in zip(joined, first, second, strict=True):
        assert torch.equal(whole["faces"][0::2], a["faces"])
        assert torch.equal(whole["faces"][1::2], b["faces"])


def train(folder, steps, resume=None, **settings):
    """What a run of so many optimizer steps saw; resume: the step whose checkpoint it goes on from."""
    watcher = Watcher()
    save = pl.callbacks.ModelCheckpoint(
        folder, "{step}", auto_insert_metric_name=False, every_n_train_steps=1, save_top_k=-1
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[save],
    )
    data = LifespanLiveModule(live(), batch_size=3, num_workers=0, image_size=32, **settings)
    trainer.fit(watcher, datamodule=data, ckpt_path=resume and folder / f"{resume}.ckpt")
    return watcher.seen


@pytest.mark.parametrize("where", ["loader", "device"])
def test_a_resumed_live_run_sees_what_the_uninterrupted_one_would(tmp_path, where):
    whole = train(tmp_path / "whole", 5, render_on=where)
    assert [index for index, _ in whole] == list(range(15))
    until = train(tmp_path / "stopped", 2, render_on=where)
    after = train(tmp_path / "stopped", 5, resume=2, render_on=where)
    assert until + after == whole


def test_live_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"render_on is one of auto, loader, device, not 'gpu'"):
        module(render_on="gpu")


def test_the_live_config_is_one_of_numbers_only():
    from omegaconf import OmegaConf

    whole = OmegaConf.create({"data": OmegaConf.load(CONF_DIR / "data/lifespan_live.yaml"), "seed": 7})
    data = build(whole.data)
    assert data.train_set.source.portraits.seed == data.seed == 7
    assert (len(data.val_set), len(data.test_set)) == (48, 176)
    assert data.train_set.source.studio.size == data.train_set.size == 256
