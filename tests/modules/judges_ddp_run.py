"""A job of ddp_run.py: trains tiny judges for a few steps on `devices` CPU processes."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from sam_age.data.datamodule import FacesDataModule
from tests.modules.judges_set import Patterns, tiny_judges

BATCH, STEPS = 4, 3


def main(devices: int, output: Path) -> None:
    module = tiny_judges(optimizer=lambda p: torch.optim.SGD(p, lr=0.05))
    data = FacesDataModule(
        Patterns(), Patterns(5, first=10), batch_size=BATCH // devices, val_batch_size=2, num_workers=0, image_size=32
    )
    strategy = DDPStrategy(process_group_backend="gloo", gradient_as_bucket_view=True) if devices > 1 else "auto"
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=STEPS, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False, val_check_interval=STEPS, check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    if trainer.is_global_zero:
        scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        torch.save({"weights": module.state_dict(), "scores": scores}, output)
