"""One training step of SAM: seconds, memory, images a second, and whether the host ever waits for the device.

    python -m benchmarks.training_step --batch 6 --precision bf16-mixed     the paper's batch on a GPU
    python -m benchmarks.training_step --size tiny --device cpu --steps 3   does it run?

Made-up weights and faces, one batch kept on the device: the loader is not measured. The step is
`AgingModule.training_step` under Lightning's own loop. Needs torch, pytorch-lightning, safetensors and PyYAML
alone (PYTHONPATH=src where sam-age is not installed). JSON goes to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import machine, peak_memory, report, spread
from benchmarks.networks import SIZES, arguments, config, random_losses, random_sam
from sam_age.modules.aging import AgingModule

MODULE = "benchmarks.training_step"
GB = 1e9
OPTIMIZERS = ("ranger", "adam", "adamw", "schedule_free")


def main() -> None:
    given = _parser().parse_args()
    result = measure(given)
    report(result, [row(result)])


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(MODULE, description=__doc__, formatter_class=layout)
    parser.add_argument("--batch", type=int, default=6, help="faces a step; the paper's 6")
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed, ... as Lightning names them")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them")
    parser.add_argument("--size", choices=SIZES, default="1024", help="conf/model/sam_<size>.yaml")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="ranger", help="conf/optimizer/<name>.yaml")
    parser.add_argument(
        "--compile", default="no", metavar="MODE", help="no, or a mode of torch.compile: default, max-autotune, ..."
    )
    parser.add_argument("--channels-last", action="store_true", help="lay images out as NHWC")
    parser.add_argument("--no-tf32", action="store_true", help="full float32 matrix products and convolutions")
    parser.add_argument(
        "--no-sync-check", action="store_true", help="do not look for places where the host waits for the device"
    )
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Train for warmup + steps batches under Lightning, and read the clocks."""
    device = pick_device(given.device)
    cuda = device == "cuda"
    torch.manual_seed(0)
    if cuda:
        torch.set_float32_matmul_precision("highest" if given.no_tf32 else "high")  # as sam-train sets it
        torch.backends.cudnn.allow_tf32 = not given.no_tf32
    optimizer, optimizer_name = optimizer_factory(given.optimizer)
    check = not given.no_sync_check
    module = TimedStep(
        random_sam(given.size),
        random_losses(given.size),
        optimizer,
        clock=Clock(cuda),
        warmup=given.warmup,
        check=check,
    )
    if given.channels_last:
        module.to(memory_format=torch.channels_last)
    if given.compile != "no":
        compile_networks(module, given.compile)
    module.train()
    faces = torch.rand(given.batch, 3, 256, 256) * 2 - 1
    batch = {"faces": faces.to(device), "index": torch.arange(given.batch, device=device)}
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=1,
        precision=given.precision,
        max_steps=given.warmup + given.steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        benchmark=True,
    )
    trainer.fit(module, train_dataloaders=Repeat(batch, given.warmup + given.steps))
    losses = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
    if not math.isfinite(losses["train/total"]):
        raise RuntimeError(f"The loss is {losses['train/total']}: what was timed is not training.")
    seconds = module.clock.seconds()
    return {
        "benchmark": "training_step",
        "machine": machine(),
        "size": given.size,
        "device": device,
        "batch": given.batch,
        "precision": given.precision,
        "optimizer": optimizer_name,
        "compile": given.compile,
        "channels_last": given.channels_last,
        "tf32": cuda and not given.no_tf32,
        "step_seconds": spread(seconds),
        "images_per_second": given.batch / module.clock.whole_seconds() * len(seconds),
        "memory_bytes": torch.cuda.max_memory_allocated() if cuda else peak_memory(),
        "memory_reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
        "host_waits_in_step": 0 if check and cuda else "not checked",  # one would have raised
        "host_reads": None if module.host_reads is None else sorted(module.host_reads),
        "losses": losses,
    }


def row(result: dict[str, Any]) -> dict[str, Any]:
    step = result["step_seconds"]
    return {
        "device": result["machine"].get("gpu", "CPU") if result["device"] == "cuda" else result["device"],
        "precision": result["precision"],
        "batch": result["batch"],
        "optimizer": result["optimizer"],
        "ms a step": 1000 * step["median"],
        "min": 1000 * step["min"],
        "max": 1000 * step["max"],
        "images/s": result["images_per_second"],
        "peak GB": result["memory_bytes"] / GB,
        "host waits": result["host_waits_in_step"],
    }


class Clock:
    """Times between marks, without making the host wait: CUDA events where there is CUDA."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self.steps: list[tuple[Any, Any]] = []

    def now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        if not self.cuda:
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1000

    def seconds(self) -> list[float]:
        """Of each step."""
        return [self.between(start, end) for start, end in self.steps]

    def whole_seconds(self) -> float:
        """From the start of the first step to the end of the last: the loop around them counts too."""
        return self.between(self.steps[0][0], self.steps[-1][1])


class TimedStep(AgingModule):
    """The training stage itself, its step between two marks of a clock."""

    def __init__(self, *args: Any, clock: Clock, warmup: int, check: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock, self.warmup, self.check = clock, warmup, check
        self.host_reads: set[str] | None = None  # None: not looked for

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # The first steps may wait: optimizer states, cuDNN's choice of algorithms and compilation happen there.
        timed = batch_idx >= self.warmup
        check = nullcontext()
        if self.check and self.clock.cuda:
            check = no_host_waits() if timed else check
        elif self.check:
            check = HostReads() if batch_idx == self.warmup - 1 else check  # it is slow: not in a timed step
        start = self.clock.now()
        with check as reads:
            super().training_step(batch, batch_idx)
        if timed:
            self.clock.steps.append((start, self.clock.now()))
        if isinstance(reads, HostReads):
            self.host_reads = reads.places


@contextmanager
def no_host_waits() -> Iterator[None]:
    """Make every operation that has the host wait for the GPU raise."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class HostReads(TorchDispatchMode):
    """Count operations whose result the host must see before it can go on: each would wait for a GPU.

    For machines without one, where it cannot be told which tensors would be on the GPU: so it keeps the places.
    Adam's step counters and our draws of ages stay on the host, are found too, and cost nothing.
    """

    READS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave"})

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.READS:
            self.places.add(_caller())
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """The function above this that is neither torch's nor this benchmark's: "aging.py: draw"."""
    own = (str(Path(torch.__file__).parent), __file__)
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(own) and not frame.filename.startswith("<"):
            return f"{Path(frame.filename).name}: {frame.name}"
    return "unknown"


class Repeat:
    """The same batch, `count` times."""

    def __init__(self, batch: dict[str, Tensor], count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self.batch for _ in range(self.count))


def optimizer_factory(name: str) -> tuple[Callable[[Iterable[Tensor]], torch.optim.Optimizer], str]:
    """The optimizer of conf/optimizer/<name>.yaml; Adam, with a note, where its library is not installed."""
    settings = config("optimizer", name)
    library, _, kind = settings["_target_"].rpartition(".")
    try:
        build = getattr(importlib.import_module(library), kind)
    except ModuleNotFoundError:
        print(f"{library} is not installed: Adam instead of {name}.", file=sys.stderr)
        return optimizer_factory("adam")
    return (lambda parameters: build(parameters, **arguments(settings))), name


def compile_networks(module: AgingModule, mode: str) -> None:
    """torch.compile for each network of the step, in place."""
    sam, losses = module.sam, module.losses
    for network in (sam.encoder, sam.pretrained_encoder, losses.age_net, losses.identity_net):
        network.compile(mode=mode)
    sam.decoder.synthesize = torch.compile(sam.decoder.synthesize, mode=mode)
    losses.perceptual_net.features = torch.compile(losses.perceptual_net.features, mode=mode)


def pick_device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


if __name__ == "__main__":
    main()
