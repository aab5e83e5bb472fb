"""Pictures of a GAN's progress: the same codes at every validation."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from sam_age.callbacks.panels import log_image
from sam_age.sheets import sheet, to_images

COLUMNS = 8


class Samples(Callback):
    """Shows faces made of fixed z, for a `GANModule`, after every validation.

    Args:
        folder: PNGs go here as step_<step>.png, whatever the logger.
        faces: how many, at each truncation.
        truncations: 1 shows what the generator has learnt, less the more common of it.
        cell: side of each face on the sheet, pixels.
    """

    def __init__(
        self, folder: str, faces: int = 16, truncations: tuple[float, ...] = (1.0, 0.7), cell: int = 192
    ) -> None:
        self.folder, self.faces, self.truncations, self.cell = Path(folder), faces, tuple(truncations), cell

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        image = self.draw(pl_module)
        self.folder.mkdir(parents=True, exist_ok=True)
        image.save(self.folder / f"step_{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            log_image(logger, "samples/validation", image, trainer.global_step)

    def draw(self, module: LightningModule) -> Image.Image:
        """Rows of faces, by truncation."""
        z = torch.randn(self.faces, module.generator.style_dim, generator=torch.Generator().manual_seed(0))
        rows = []
        for truncation in self.truncations:
            for some in z.to(module.device).split(COLUMNS):
                pictures = to_images(module.sample(some, truncation))
                rows.append([(picture, f"truncation {truncation:g}") for picture in pictures])
        return sheet(rows, self.cell)
