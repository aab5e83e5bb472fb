"""When pictures of a run's progress are drawn."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from sam_age.callbacks.panels import FacePanels
from tests.callbacks.test_closing import Falling


class Grey(FacePanels):
    def draw(self, module: Falling, faces: Tensor) -> Image.Image:
        return Image.new("RGB", (4, 4))


class Faces(Falling):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.weight * batch["faces"].sum()


@pytest.mark.parametrize(("sanity", "steps"), [(-1, [0, 1, 2]), (1, [1, 2]), (0, [1, 2])])
def test_there_is_one_of_before_training_where_all_is_validated_then(tmp_path, sanity: int, steps: list[int]) -> None:
    data = DataLoader([{"faces": torch.zeros(3, 8, 8, dtype=torch.uint8)}] * 4)
    trainer = pl.Trainer(
        max_steps=2, val_check_interval=1, check_val_every_n_epoch=None, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
        callbacks=[Grey(tmp_path / "panels")], num_sanity_val_steps=sanity,
    )  # fmt: skip
    trainer.fit(Faces(), data, data)
    assert sorted(path.name for path in (tmp_path / "panels").iterdir()) == [f"step_{n:07d}.png" for n in steps]
