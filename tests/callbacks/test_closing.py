"""The line that says what a run has gained."""

from __future__ import annotations

import logging

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from sam_age.callbacks.closing import FirstAndLast


class Falling(pl.LightningModule):
    """Its score is 30 at the start and falls by 10 a step, whatever it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.weight * batch.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        self.log("val/age_mae", 30.0 - 10 * self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def run(tmp_path, steps: int, checkpoint: str | None = None, **settings) -> list[str]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("sam_age")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    trainer = pl.Trainer(
        max_steps=steps, val_check_interval=1, check_val_every_n_epoch=None, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=tmp_path, callbacks=[FirstAndLast({"val/age_mae": "years", "val/absent": None})], **settings,
    )  # fmt: skip
    data = DataLoader(torch.ones(8, 1))
    try:
        trainer.fit(Falling(), data, data, ckpt_path=checkpoint, weights_only=True)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return [line for line in lines if line.startswith("val/")]


def test_the_first_score_is_from_before_the_first_step_where_that_is_asked_for(tmp_path) -> None:
    first, closing = run(tmp_path, 2, num_sanity_val_steps=-1)
    assert first == "val/age_mae 30 years at step 0"
    assert closing == "val/age_mae 30 years at step 0, 10 years at step 2"


@pytest.mark.parametrize("partial", [0, 1])
def test_else_it_is_from_the_first_whole_validation(tmp_path, partial: int) -> None:
    assert run(tmp_path, 2, num_sanity_val_steps=partial)[-1] == "val/age_mae 20 years at step 1, 10 years at step 2"


def test_a_resumed_run_goes_back_to_the_very_first(tmp_path) -> None:
    run(tmp_path, 1, num_sanity_val_steps=-1)
    closing = run(tmp_path, 3, checkpoint=str(tmp_path / "last.ckpt"), num_sanity_val_steps=0)
    assert closing == ["val/age_mae 30 years at step 0, 0 years at step 3"]
