"""The run's networks as safetensors: what other stages start from, and what travels to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from sam_age.errors import InputError
from sam_age.modules.stage import Stage, write_weights


class SaveWeights(Callback):
    """Writes the networks of the stage now and then, each time over the last; `sam-train start=FOLDER` takes them.

    Args:
        folder: one <network>.safetensors each goes here.
        every_n_train_steps: steps between two writings; the run's end writes too.
        half: store the large tensors as float16.
    """

    def __init__(self, folder: str, every_n_train_steps: int, half: bool = True) -> None:
        if every_n_train_steps < 1:
            raise InputError(f"every_n_train_steps of the weights is at least 1, not {every_n_train_steps}.")
        self.folder, self.every_n_train_steps, self.half = Path(folder), every_n_train_steps, half

    def on_train_batch_end(self, trainer: Trainer, pl_module: Stage, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every_n_train_steps == 0:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Stage) -> None:
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: Stage) -> None:
        if trainer.is_global_zero:
            write_weights(pl_module, self.folder, half=self.half)
