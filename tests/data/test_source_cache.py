"""The cache of what frozen networks say: equal to asking them, and refused when it is not of these pictures or those
networks."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from sam_age.cli.prepare import prepare
from sam_age.cli.train import train
from sam_age.config import CONF_DIR
from sam_age.data.datamodule import FacesDataModule
from sam_age.data.dataset import FacesDataset, to_unit_range
from sam_age.data.drawn import DrawnFaces
from sam_age.data.source_cache import KNOWN, SourceCache, make_cache
from sam_age.errors import InputError
from tests.modules.test_aging import tiny_module

FACES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tiny_module()
    where = tmp_path_factory.mktemp("cache")
    make_cache(where, FacesDataset(DrawnFaces(FACES)), module.sam, module.losses, batch_size=2)
    return where


def test_it_says_what_the_networks_say_both_ways_round(folder: Path) -> None:
    module, cache = tiny_module(), pickle.loads(pickle.dumps(SourceCache(folder)))
    dataset = FacesDataset(DrawnFaces(FACES), flip=0.5, seed=3, cache=cache)
    samples = [dataset[epoch, index] for epoch in range(3) for index in range(FACES)]
    assert {dataset.mirrored(epoch, index) for epoch in range(3) for index in range(FACES)} == {True, False}
    for sample in samples:
        face = to_unit_range(sample["faces"])[None]
        with torch.no_grad():
            want = module.sam.encode(face)[0], module.losses.age_net(face)[0], module.losses.identity_net(face)[0]
        for name, value in zip(KNOWN, want, strict=True):
            torch.testing.assert_close(sample[name], value, rtol=1e-3, atol=1e-3)


def test_a_run_with_it_is_the_run_without(folder: Path) -> None:
    totals = []
    for cache in (None, folder):
        module = tiny_module()
        asked = []
        module.sam.pretrained_encoder.register_forward_hook(lambda *_, asked=asked: asked.append(1))
        data = FacesDataModule(DrawnFaces(FACES), batch_size=2, num_workers=0, cache=cache)
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        totals.append(trainer.callback_metrics["train/total"])
        assert len(asked) == (4 if cache is None else 2)  # of the aged face it is still asked
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-3, atol=1e-3)


def test_other_networks_are_refused(folder: Path) -> None:
    module, cache = tiny_module(), SourceCache(folder)
    cache.check(module.sam, module.losses)
    with torch.no_grad():
        module.losses.age_net.gain += 1
    with pytest.raises(InputError, match="was made with another age network: make it anew"):
        cache.check(module.sam, module.losses)


def test_other_pictures_are_refused(folder: Path) -> None:
    dataset = FacesDataset(DrawnFaces(FACES, seed=1), cache=SourceCache(folder))
    with pytest.raises(InputError, match=r"is not the picture that .* was made of"):
        dataset[0]
    with pytest.raises(InputError, match=r"is of 5 faces of 256 pixels, data\.train holds 6"):
        FacesDataModule(DrawnFaces(6), cache=folder)
    with pytest.raises(InputError, match=r"set data\.keep=null"):
        FacesDataModule(DrawnFaces(FACES), cache=folder, keep="memory")


def test_what_was_not_finished_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no finished cache"):
        SourceCache(tmp_path)


def test_sam_prepare_makes_what_sam_train_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["+experiment=smoke", "data.train.count=4", "callbacks=none", "logger=none", "trainer.accelerator=cpu"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        quoted = ",".join(f'"{override}"' for override in small)
        made = compose("prepare", overrides=["cache=kept", f"train=[{quoted}]"])
        prepare(made)
        with pytest.raises(InputError, match="holds a cache: overwrite=true"):
            prepare(made)
        train(compose("train", overrides=[*small, "data.cache=kept", "trainer.max_steps=1", "data.val=null"]))
        other = [*small, "data.cache=kept", "trainer.max_steps=1", "data.val=null", "seed=1", "output=other"]
        with pytest.raises(InputError, match="was made with another psp"):
            train(compose("train", overrides=other))
