"""A job of ddp_run.py: a tiny GAN for a few steps on two CPU processes, each of which leaves FOLDER/gan_rank<n>.pt."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from sam_age.data.ada import AdaptiveAugment
from sam_age.modules import gan
from tests.modules.ddp_run import Rows
from tests.modules.test_gan import Means, tiny_gan

STEPS = 3


def main(folder: Path) -> None:
    faces = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    rows = [{"faces": face, "index": torch.tensor(i)} for i, face in enumerate(faces)]
    module = tiny_gan(augment=AdaptiveAugment(start=0.3, every=1), features=Means(), r1_every=2, path_every=2)
    exchanged = []
    average = gan.average_over_ranks

    def watched(gradients: list[torch.Tensor]) -> None:
        before = torch.cat([gradient.flatten().clone() for gradient in gradients])
        average(gradients)
        exchanged.append((before, torch.cat([gradient.flatten() for gradient in gradients])))

    gan.average_over_ranks = watched
    strategy = DDPStrategy(process_group_backend="gloo", broadcast_buffers=False, gradient_as_bucket_view=True)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_steps=STEPS, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    loader = DataLoader(rows, batch_size=2, sampler=Rows())
    trainer.fit(module, loader, loader)
    kid = trainer.callback_metrics["val/kid"]
    state = {"state": module.state_dict(), "exchanged": exchanged, "kid": kid, "steps": trainer.global_step}
    torch.save(state, folder / f"gan_rank{trainer.global_rank}.pt")
