"""sam-infer on several devices: Lightning starts the ranks, each makes and writes its own share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader

from sam_age.cli.app import quieten_lightning
from sam_age.inference.inputs import Loaded
from sam_age.inference.running import Result, Runner

if TYPE_CHECKING:
    from sam_age.cli.infer import Job


class Predicting(pl.LightningModule):
    """A rank's pipeline, which is built where the rank's device is known."""

    runner: Runner

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def setup(self, stage: str) -> None:
        self.runner = self.job.runner(str(self.trainer.strategy.root_device), self.trainer.global_rank)

    def predict_dataloader(self) -> DataLoader:
        return self.job.loader(self.trainer.global_rank)

    def transfer_batch_to_device(self, batch: list[Loaded], *_: Any) -> list[Loaded]:
        return batch  # pictures: the pipeline makes tensors of them

    def predict_step(self, batch: list[Loaded]) -> list[Result]:
        return self.runner.make(batch)


class Writer(BasePredictionWriter):
    """Results to their places as soon as they are there."""

    def __init__(self) -> None:
        super().__init__("batch")

    def write_on_batch_end(
        self, trainer: pl.Trainer, pl_module: Predicting, prediction: list[Result],
        batch_indices: Sequence[int] | None, batch: Any, batch_idx: int, dataloader_idx: int,
    ) -> None:  # fmt: skip
        pl_module.runner.write(prediction)


def predict(job: Job, cfg: DictConfig) -> bool:
    """Run all ranks of a job; true in the first of them, once all have ended."""
    quieten_lightning()
    devices = OmegaConf.to_container(cfg.devices) if OmegaConf.is_list(cfg.devices) else cfg.devices
    trainer = pl.Trainer(
        accelerator=job.device.split(":")[0], devices=devices, num_nodes=cfg.num_nodes,
        strategy="ddp" if cfg.strategy == "auto" else cfg.strategy, callbacks=[Writer()], logger=False,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False, inference_mode=False,
    )  # fmt: skip
    trainer.predict(Predicting(job), return_predictions=False)
    trainer.strategy.barrier()
    return trainer.is_global_zero
