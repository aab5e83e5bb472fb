"""What a run has gained, in a line: each score as it was at the first validation and at the last."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

log = logging.getLogger("sam_age")


def partial(trainer: Trainer) -> bool:
    """Whether this is a sanity check of some faces. One of all (num_sanity_val_steps=-1) is a validation at step 0."""
    return trainer.sanity_checking and math.isfinite(trainer.num_sanity_val_steps)


class FirstAndLast(Callback):
    """Says at a run's end, for example: val/age_mae 24.1 years at step 0, 9.8 years at step 60.

    Args:
        metrics: names in the log, and their units; those that a stage does not log are passed over.

    The first validation comes before the first step with `trainer.num_sanity_val_steps=-1`; with a smaller number
    that one sees a part of the faces and does not count. A resumed run goes back to the very first.
    """

    def __init__(self, metrics: Mapping[str, str | None]) -> None:
        self.metrics = dict(metrics)
        self.first: dict[str, tuple[int, float]] = {}  # name: (step, value)
        self.last: dict[str, tuple[int, float]] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if partial(trainer):
            return
        seen = {name: trainer.callback_metrics[name] for name in self.metrics if name in trainer.callback_metrics}
        for name, value in seen.items():
            self.last[name] = trainer.global_step, float(value)
            if name not in self.first:
                self.first[name] = self.last[name]
                if trainer.is_global_zero:
                    log.info("%s %s", name, self._said(name, self.last[name]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            for name, last in self.last.items():
                if last[0] > self.first[name][0]:
                    log.info("%s %s, %s", name, self._said(name, self.first[name]), self._said(name, last))

    def _said(self, name: str, value: tuple[int, float]) -> str:
        unit = self.metrics[name]
        return f"{value[1]:.3g}{f' {unit}' if unit else ''} at step {value[0]}"

    def state_dict(self) -> dict[str, Any]:
        return {"first": {name: list(value) for name, value in self.first.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first = {name: tuple(value) for name, value in state_dict["first"].items()}
