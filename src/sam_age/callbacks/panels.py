"""Pictures of a run's progress: held-out faces beside what the networks make of them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from sam_age.callbacks.closing import partial
from sam_age.data.dataset import to_unit_range
from sam_age.models.sam import face_pool
from sam_age.sheets import sheet, to_images


def held_out(trainer: Trainer) -> Dataset:
    """The validation faces as samples, whatever their loader makes its batches of: keys of kept ones, for instance."""
    loaders = trainer.val_dataloaders
    dataset = (loaders[0] if isinstance(loaders, list) else loaders).dataset
    return getattr(dataset, "dataset", dataset)


class FacePanels(Callback):
    """Shows what the module makes of the same few validation faces, at every validation, to all loggers.

    Args:
        folder: PNGs go here as step_<step>.png, whatever the logger.
        faces: how many.
    """

    def __init__(self, folder: str, faces: int = 4) -> None:
        self.folder, self.faces = Path(folder), faces

    def draw(self, module: LightningModule, faces: Tensor) -> Image.Image:
        """The sheet. faces: (N, 3, 256, 256) in [-1, 1], on the module's device."""
        raise NotImplementedError

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if partial(trainer) or not trainer.is_global_zero:
            return
        dataset = held_out(trainer)
        readable = (sample["faces"] for sample in map(dataset.__getitem__, range(len(dataset))) if "faces" in sample)
        pixels = list(islice(readable, self.faces))
        if not pixels:
            return
        image = self.draw(pl_module, to_unit_range(torch.stack(pixels).to(pl_module.device)))
        self.folder.mkdir(parents=True, exist_ok=True)
        image.save(self.folder / f"step_{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            log_image(logger, "panels/validation", image, trainer.global_step)


class AgingPanels(FacePanels):
    """One row a face: input, aged, recovered, for an `AgingModule`.

    Args:
        folder, faces: see `FacePanels`.
        target_ages: years; row i is asked for the i-th, going round.
    """

    def __init__(self, folder: str, faces: int = 4, target_ages: tuple[float, ...] = (10, 30, 60, 85)) -> None:
        super().__init__(folder, faces)
        self.target_ages = tuple(target_ages)

    def draw(self, module: LightningModule, faces: Tensor) -> Image.Image:
        return draw_panel(module, faces, self.target_ages)


class InversionPanels(FacePanels):
    """Pairs of input and reconstruction, for an `InversionModule`, a `TuningModule` or a `FinishingModule`.

    Args:
        folder, faces: see `FacePanels`.
        pairs: in a row.
    """

    def __init__(self, folder: str, faces: int = 12, pairs: int = 3) -> None:
        super().__init__(folder, faces)
        self.pairs = pairs

    def draw(self, module: LightningModule, faces: Tensor) -> Image.Image:
        faces = face_pool(faces)
        images, _ = module.reconstruct(faces)
        error = (images - faces).square().mean((1, 2, 3)).tolist()
        cells = []
        for face, image, value in zip(to_images(faces), to_images(images), error, strict=True):
            cells += [(face, "input"), (image, f"l2 {value:.4f}")]
        row = 2 * self.pairs
        return sheet([cells[start : start + row] for start in range(0, len(cells), row)])


def draw_panel(module: LightningModule, faces: Tensor, target_ages: tuple[float, ...]) -> Image.Image:
    """One row a face: input, aged, recovered. faces: (N, 3, 256, 256) in [-1, 1]."""
    losses = module.losses
    targets = torch.tensor([target_ages[i % len(target_ages)] for i in range(len(faces))], device=faces.device)
    targets = targets.float()
    source = losses.describe(faces)
    with module.best_weights() as sam:
        aged = sam(faces, targets)
        back = sam(aged, source.age)
    columns = []
    for name, images, asked in (("aged", aged, targets), ("recovered", back, source.age)):
        found = losses.describe(images)
        captions = [
            f"{name}: asked {want:.0f}, read {got:.0f}"
            for want, got in zip(asked.tolist(), found.age.tolist(), strict=True)
        ]
        if source.identity is not None:
            similarity = (found.identity * source.identity).sum(1).tolist()
            captions = [f"{c}\nsimilarity {s:.2f}" for c, s in zip(captions, similarity, strict=True)]
        columns.append(list(zip(to_images(images), captions, strict=True)))
    inputs = [f"input: read {age:.0f}" for age in source.age.tolist()]
    columns.insert(0, list(zip(to_images(faces), inputs, strict=True)))
    return sheet(list(zip(*columns, strict=True)))


def log_image(logger: Logger, key: str, image: Image.Image, step: int) -> None:
    """Show a picture in a logger that shows pictures; the CSV logger does not."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(key, pil_to_tensor(image), step)
    elif hasattr(logger, "log_image"):  # WandbLogger, without importing wandb for the others
        logger.log_image(key, [image], step=step)
