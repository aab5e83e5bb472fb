"""The finder of batch sizes, on made-up memories."""

from __future__ import annotations

import gc
import weakref

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from sam_age.data.datamodule import FacesDataModule
from sam_age.errors import InputError
from sam_age.modules.batch_size import MOST, STEPS, _trial, find_batch_size, largest, take_turns
from sam_age.modules.graphed import WARM_UP
from tests.cli.test_train import config
from tests.data.faces import Colours
from tests.modules.test_aging import fit, tiny_module
from tests.modules.test_inversion import tiny_inversion


@pytest.mark.parametrize(("base", "each"), [(100, 10), (0, 1), (500, 399), (100, 37)])
@pytest.mark.parametrize("curved", [False, True])
def test_it_finds_what_fits_and_tried_it(base: int, each: int, curved: bool) -> None:
    tried = {}

    def memory(batch: int) -> int | None:
        taken = base + each * batch + (batch // 7 if curved else 0)
        tried[batch] = taken
        return taken if taken <= 1000 else None

    found = largest(memory, 900)
    assert tried[found] <= 900
    best = max(batch for batch in range(1, MOST + 1) if base + each * batch + (batch // 7 if curved else 0) <= 900)
    assert best - found <= max(1, found // 16)
    assert len(tried) <= 10


def test_what_cannot_fit_is_said() -> None:
    with pytest.raises(InputError, match="Not even one face"):
        largest(lambda batch: None, 900)


def test_it_is_for_a_gpu() -> None:
    with pytest.raises(InputError, match=r"data\.batch_size=auto measures a GPU's memory"):
        find_batch_size(OmegaConf.create(config("+experiment=smoke", "trainer.accelerator=cpu")))


def test_both_kinds_of_step_come_often_enough_to_be_recorded() -> None:
    module = tiny_module(seed=1)  # whose own draws keep the age twice in the first 24 steps
    take_turns(module)
    kinds = []
    step = module.step_gradients
    module.gradients = lambda *args, known, aging: (kinds.append(aging), step(*args, known=known, aging=aging))[1]
    fit(module, torch.zeros(STEPS, 3, 256, 256), steps=STEPS, batch=1)
    assert min(kinds.count(True), kinds.count(False)) > WARM_UP + 1


def test_a_trials_networks_are_gone_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they hold on the GPU, recordings and all, would count as memory of the next batch."""
    trainer, built = pl.Trainer, []

    def build(node: None) -> pl.LightningModule:
        module = tiny_module(seed=1)
        built.append(weakref.ref(module))
        return module

    monkeypatch.setattr("sam_age.config.build", build)
    monkeypatch.setattr(pl, "Trainer", lambda **settings: trainer(**settings | {"accelerator": "cpu", "max_steps": 1}))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 1)
    cfg = OmegaConf.create({"trainer": {"precision": "32-true"}, "module": None})
    data = FacesDataModule(Colours(4), num_workers=0)
    assert [_trial(cfg, data, batch) for batch in (1, 2)] == [1, 1]
    gc.collect()
    assert [module() for module in built] == [None, None]


def test_stages_with_one_kind_of_step_are_left_alone() -> None:
    for module in (tiny_inversion(), tiny_module(same_age_probability=0.0)):
        before = dict(vars(module))
        take_turns(module)
        assert vars(module) == before
