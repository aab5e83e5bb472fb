"""Is the run alive: images per second, memory, and a stop when the loss is no longer a number."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs `speed/images_per_second` over all ranks and, on CUDA, `speed/peak_memory_gib` of this rank.

    Measured between two lines of the log, which is where the host waits for the device anyway.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since, self._step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = trainer.global_step - self._step
        if steps < trainer.log_every_n_steps:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        images = steps * len(batch["faces"]) * trainer.world_size
        pl_module.log("speed/images_per_second", images / (now - self._since), on_epoch=False)
        if pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            pl_module.log("speed/peak_memory_gib", peak, on_epoch=False)
        self._since, self._step = now, trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since, self._step = time.perf_counter(), trainer.global_step  # validation is not training time


class StopOnNaN(Callback):
    """Ends the run when the loss is NaN or infinite, before a checkpoint of it replaces a good one.

    Looked at once every `log_every_n_steps` and before every checkpoint, so that other steps do not wait for
    the host. (Lightning calls its checkpoint callbacks after all others.)
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        intervals = [getattr(callback, "_every_n_train_steps", 0) for callback in trainer.checkpoint_callbacks]
        intervals.append(trainer.log_every_n_steps)
        if all(not interval or trainer.global_step % interval for interval in intervals):
            return
        loss = pl_module.last_loss
        if loss is not None and not torch.isfinite(loss):
            raise RuntimeError(
                f"The loss is {loss.item()} at step {trainer.global_step}. The last good weights are in "
                "checkpoints/last.ckpt; try trainer.precision=32-true or a lower optimizer.lr."
            )
