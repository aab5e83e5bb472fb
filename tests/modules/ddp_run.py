"""Run by test_ddp.py as a program of its own: trains small things for a few steps on `devices` processes, one after
the other, since it is the start of the processes that takes long.

python -m tests.modules.ddp_run ACCELERATOR DEVICES FOLDER JOB...

A job is gan (see gan_ddp_run.py), judges (see judges_ddp_run.py), or aging or inversion, which are tiny SAM and tiny
pSp, and a kind: dynamic, static, recorded or statistics, as aging.static; it leaves FOLDER/JOB.pt

recorded is `RecordedDDP`; and statistics is that with batch norms that learn theirs, each process its own
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from sam_age.modules.inversion import InversionModule
from sam_age.modules.ranks import RecordedDDP
from sam_age.modules.stage import Stage
from tests.modules.test_aging import tiny_module
from tests.modules.test_inversion import tiny_inversion, tiny_psp

BATCH, STEPS = 4, 3


class Recorder(pl.Callback):
    """Keeps each step's loss, averaged over the ranks."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Stage, *args) -> None:
        loss = pl_module.last_loss.clone()
        self.losses.append(trainer.strategy.reduce(loss, reduce_op="mean").item())


class Rows(torch.utils.data.Sampler):
    """Rank r of n takes samples r, r + n, ...: together the ranks see the joined batch."""

    def __iter__(self):
        rank, world = 0, 1
        if torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return iter(range(rank, BATCH * STEPS, world))

    def __len__(self) -> int:
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        return BATCH * STEPS // world


class RunningStatistics(InversionModule):
    """On CPUs, where processes cannot share the statistics of a batch."""

    def train(self, mode: bool = True) -> InversionModule:
        super().train(mode)
        for layer in self.psp.encoder.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()
        return self


class Same(pl.Callback):
    """Sees that what learns, and its average, is the same on all ranks."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Stage, *args) -> None:
        for network in pl_module.networks().values():
            for name, tensor in network.state_dict().items():
                first = tensor.clone()
                torch.distributed.broadcast(first, 0)
                assert torch.equal(first, tensor), name


def tiny_stage(stage: str, learns_statistics: bool, **also) -> tuple[Stage, torch.nn.Module]:
    """The stage, and its encoder."""
    settings = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05), "seed": 4, "ema_decay": 0.5, **also}
    if stage == "aging":
        aging = tiny_module(frozen_batch_norm=not learns_statistics, **settings)
        return aging, aging.sam.encoder
    psp = tiny_psp()
    for layer in (psp.decoder.conv1, *psp.decoder.convs):
        torch.nn.init.zeros_(layer.noise.weight)  # each rank draws noise of its own
    inversion = tiny_inversion(psp=psp, kind=InversionModule if learns_statistics else RunningStatistics, **settings)
    return inversion, inversion.psp.encoder


def strategy_of(kind: str, on_gpu: bool) -> DDPStrategy:
    backend = "nccl" if on_gpu else "gloo"
    if kind in ("recorded", "statistics"):
        return RecordedDDP(process_group_backend=backend)
    return DDPStrategy(
        process_group_backend=backend,
        broadcast_buffers=False,
        static_graph=kind == "static",
        gradient_as_bucket_view=True,
    )


def train(accelerator: str, devices: int, kind: str, output: Path, stage: str) -> None:
    on_gpu = accelerator == "gpu"
    if on_gpu:
        torch.backends.cudnn.allow_tf32 = False  # three digits would hide what is compared here
        torch.backends.cudnn.deterministic = True
    faces = torch.rand(BATCH * STEPS, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    rows = [{"faces": face, "index": torch.tensor(i)} for i, face in enumerate(faces)]
    # statistics of a batch can be synchronised on GPUs only; on CPUs the running ones are used
    recorded = devices > 1 and kind in ("recorded", "statistics")
    learns_statistics = kind == "statistics" or (on_gpu and kind != "recorded")
    module, encoder = tiny_stage(stage, learns_statistics, graphed=recorded)
    if recorded and int(os.environ.get("LOCAL_RANK", "0")) > 0:
        torch.nn.init.ones_(encoder.input_layer[0].weight)  # what the first process has is to take its place
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator=accelerator, devices=devices, strategy=strategy_of(kind, on_gpu) if devices > 1 else "auto",
        sync_batchnorm=learns_statistics and not recorded,
        max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[recorder, Same()] if recorded else [recorder],
    )  # fmt: skip
    trainer.fit(module, DataLoader(rows, batch_size=BATCH // devices, sampler=Rows()))
    if trainer.is_global_zero:
        weights = {name: weight.cpu() for name, weight in encoder.state_dict().items()}
        torch.save({"losses": recorder.losses, "weights": weights}, output)


def main(accelerator: str, devices: int, folder: Path, jobs: list[str]) -> None:
    from tests.modules import gan_ddp_run, judges_ddp_run  # which take Rows from here

    for job in jobs:
        if job == "gan":
            gan_ddp_run.main(folder)
        elif job == "judges":
            judges_ddp_run.main(devices, folder / "judges.pt")
        else:
            stage, kind = job.split(".")
            train(accelerator, devices, kind, folder / f"{job}.pt", stage)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
