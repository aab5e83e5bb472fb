"""What a run of the judges leaves behind: the best weights of each network, and pictures of what it reads."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from sam_age.callbacks.panels import held_out, log_image
from sam_age.data.dataset import collate, to_unit_range
from sam_age.sheets import sheet, to_images
from sam_age.weights.storing import save

log = logging.getLogger("sam_age")


class BestJudges(Callback):
    """Writes a network to <folder>/best_<task>.safetensors whenever its own validation score is the best so far.

    The averaged weights where there are any: those that were scored. Each network's best comes at a step of its own.

    Args:
        folder: where to.
        half: large tensors as float16, at half the size.
    """

    def __init__(self, folder: str, half: bool = True) -> None:
        self.folder, self.half = Path(folder), half
        self.best: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for name, task in pl_module.tasks.items():
            score = pl_module.latest.get(name, math.nan)
            # a run without anything to validate on keeps its latest
            if math.isnan(score) and name in self.best:
                continue
            if name in self.best and not self._better(score, self.best[name], task.higher_is_better):
                continue
            self.best[name] = score
            if trainer.is_global_zero:
                facts = {"step": str(trainer.global_step), f"val_{task.score}": f"{score:.6g}"}
                save(pl_module.best_network(name), self.folder / f"best_{name}.safetensors", self.half, facts)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.best:
            scores = ", ".join(f"{name} {pl_module.tasks[name].score} {best:.4g}" for name, best in self.best.items())
            log.info("Best networks in %s: %s.", self.folder, scores)

    @staticmethod
    def _better(score: float, best: float, higher: bool) -> bool:
        return math.isnan(best) or (score > best if higher else score < best)

    def state_dict(self) -> dict[str, Any]:
        """So that a resumed run does not take a worse network for the best."""
        return {"best": dict(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = dict(state_dict["best"])


class JudgePanels(Callback):
    """Shows the first validation faces at every validation, each with what the networks say of it.

    Args:
        folder: PNGs go here as step_<step>.png, whatever the logger.
        rows, columns: of the panel; the lifespan set's three portraits of a person fill a row of three.
    """

    def __init__(self, folder: str, rows: int = 6, columns: int = 3) -> None:
        self.folder, self.rows, self.columns = Path(folder), rows, columns

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        dataset = held_out(trainer)
        first = range(min(self.rows * self.columns, len(dataset)))
        rows = []
        for start in range(0, len(first), self.columns):
            samples = [dataset[index] for index in first[start : start + self.columns]]
            row = collate(samples)
            if not len(row["faces"]):
                continue
            row = {key: value.to(pl_module.device) for key, value in row.items() if key != "skipped"}
            faces = to_unit_range(row["faces"])
            said = [task.describe(pl_module.best_network(name), faces, row) for name, task in pl_module.tasks.items()]
            captions = ["\n".join(lines) for lines in zip(*said, strict=True)]
            rows.append(list(zip(to_images(faces), captions, strict=True)))
        if not rows:
            return
        image = sheet(rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        image.save(self.folder / f"step_{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            log_image(logger, "panels/validation", image, trainer.global_step)
