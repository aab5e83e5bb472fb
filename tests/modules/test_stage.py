"""What stages share: what is logged, weights written and taken."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from sam_age.errors import InputError
from sam_age.models.ops import EqualLinear
from sam_age.modules.stage import Stage, move_average, take_weights, write_weights
from tests.modules.test_aging import loader, tiny_module


def test_weights_that_were_written_are_taken_and_still_learn(tmp_path: Path) -> None:
    module, twin = tiny_module(ema_decay=0.9), tiny_module(ema_decay=0.9)
    for network in module.networks().values():
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
    paths = write_weights(module, tmp_path, half=False)
    assert sorted(path.name for path in paths) == ["ema_encoder.safetensors", "encoder.safetensors"]
    take_weights(twin, tmp_path)
    for name, network in module.networks().items():
        taken = twin.networks()[name].state_dict()
        assert all(torch.equal(tensor, taken[key]) for key, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in twin.sam.encoder.parameters())
    assert not any(parameter.requires_grad for parameter in twin.ema_encoder.parameters())


def test_missing_weights_are_named(tmp_path: Path) -> None:
    write_weights(tiny_module(), tmp_path, half=True)
    with pytest.raises(InputError, match=r"lacks ema_encoder\.safetensors: give the folder weights/"):
        take_weights(tiny_module(ema_decay=0.9), tmp_path)


class Styles(Stage):
    """One float32 layer, whose gradients it takes itself, within Lightning's autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = EqualLinear(64, 64)
        self.cast_as_it_is: torch.Tensor | None = None

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        assert torch.is_autocast_enabled("cpu")
        loss = self.layer(batch[0]).square().sum()
        (self.cast_as_it_is,) = torch.autograd.grad(loss, self.layer.weight, retain_graph=True)
        self.manual_backward(loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_what_ran_in_float32_goes_back_in_float32() -> None:
    torch.manual_seed(0)
    stage, codes = Styles(), torch.randn(8, 64)
    twin = copy.deepcopy(stage.layer).double()
    (want,) = torch.autograd.grad(twin(codes.double()).square().sum(), twin.weight)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, precision="bf16-mixed", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(stage, DataLoader(TensorDataset(codes), batch_size=8))

    def off(gradient: torch.Tensor) -> float:
        return ((gradient.double() - want).norm() / want.norm()).item()

    assert off(stage.cast_as_it_is) > 1e-4  # what it is about: PyTorch casts on the way back too
    assert off(stage.layer.weight.grad) < 1e-6


def test_an_average_moves_by_its_share_and_copies_statistics() -> None:
    average, trained = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(trained.weight, 3.0)
    trained.running_mean += 5
    trained.num_batches_tracked += 7  # a whole number, beside floats
    move_average(average, trained, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [5.0, 5.0]
    assert average.num_batches_tracked.item() == 7
    assert average.num_batches_tracked.dtype == torch.int64


class Losses(pl.Callback):
    """Of every step, and what was handed to the log at it."""

    def __init__(self, module: pl.LightningModule) -> None:
        self.of_steps: list[float] = []
        self.logged: list[int] = []
        log_dict = module.log_dict
        module.log_dict = lambda *args, **kwargs: (self.logged.append(module.global_step), log_dict(*args, **kwargs))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_) -> None:
        self.of_steps.append(pl_module.last_loss.item())


@pytest.mark.parametrize(("every", "lines"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (0, [])])
def test_the_log_holds_its_own_steps_and_the_run_its_last(every: int, lines: list[int], tmp_path: Path) -> None:
    module = tiny_module()
    losses = Losses(module)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=5, log_every_n_steps=every, logger=CSVLogger(tmp_path, name="", version=""),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[losses],
    )  # fmt: skip
    trainer.fit(module, loader(torch.rand(10, 3, 256, 256), batch=2))
    assert losses.logged == sorted({*lines, 5})  # the values of others are not even copied
    assert trainer.callback_metrics["train/total"].item() == losses.of_steps[-1]
    path = tmp_path / "metrics.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    # Lightning numbers a line by the steps before its own
    written = {int(row["step"]) + 1: float(row["train/total"]) for row in rows}
    assert written == {step: pytest.approx(losses.of_steps[step - 1], rel=1e-6) for step in lines}


def test_a_finite_loader_s_last_batch_is_logged() -> None:
    module = tiny_module()
    losses = Losses(module)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[losses],
    )  # fmt: skip
    trainer.fit(module, loader(torch.rand(6, 3, 256, 256), batch=2))
    assert losses.logged == [3]
    assert trainer.callback_metrics["train/total"].item() == losses.of_steps[-1]
