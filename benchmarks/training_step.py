"""One training step of SAM: seconds, memory, images a second, and whether the host ever waits for the device.

    python -m benchmarks.training_step --batch 16 --fast                    conf/experiment/fast.yaml, on a GPU
    python -m benchmarks.training_step --batch 6 --precision bf16-mixed     the paper's batch, nothing recorded
    python -m benchmarks.training_step --batch 16 --fast --profile 30       and the kernels that take longest
    python -m benchmarks.training_step --batch 16 --fast --reference SAM    a checkout of the authors' code beside it
    python -m benchmarks.training_step --size tiny --device cpu --steps 3   does it run?

Made-up weights and faces, one batch kept on the device: the loader is not measured. The step is
`AgingModule.training_step` under Lightning's own loop. Needs torch, pytorch-lightning, safetensors and PyYAML
alone (PYTHONPATH=src where sam-age is not installed). JSON goes to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.flops import counted
from benchmarks.host_waits import HostReads, no_host_waits
from benchmarks.measure import machine, peak_memory, report, spread
from benchmarks.networks import SIZES, arguments, config, fast_step, random_losses, random_sam
from benchmarks.peaks import measured
from sam_age.device import let_segments_grow
from sam_age.losses import AgingLosses
from sam_age.models.fused import reason_against
from sam_age.models.identity import face_crop
from sam_age.models.sam import SAM, with_age
from sam_age.modules.aging import AgingModule
from sam_age.modules.compiling import COMPILED
from sam_age.modules.frozen import CastForAStep
from sam_age.modules.ranks import RecordedDDP

MODULE = "benchmarks.training_step"
GB = 1e9
PROFILED = 3  # steps
OPTIMIZERS = ("ranger", "adam", "adamw", "schedule_free")


def main() -> None:
    given = _parser().parse_args()
    result = measure(given)
    if int(os.environ.get("LOCAL_RANK", "0")):
        return  # the first process speaks for all
    report(result, *filter(None, ([row(result)], goals(result))))


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(MODULE, description=__doc__, formatter_class=layout)
    parser.add_argument("--batch", type=int, default=6, help="faces a step; the paper's 6")
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed, ... as Lightning names them")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, help="steps before them; 5, or 12 where they are recorded")
    parser.add_argument("--size", choices=SIZES, default="1024", help="conf/model/sam_<size>.yaml")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--devices", type=int, default=1, help="so many of them, a process and a batch each")
    parser.add_argument(
        "--alone", action="store_true", help="of several devices: then as many steps of the first one by itself"
    )
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="ranger", help="conf/optimizer/<name>.yaml")
    parser.add_argument(
        "--compile", default="no", metavar="MODE", help="no, or a mode of torch.compile: default, max-autotune, ..."
    )
    parser.add_argument(
        "--fast", action="store_true", help="what conf/experiment/fast.yaml sets, whatever else is asked"
    )
    parser.add_argument(
        "--uncompiled", action="store_true", help="without module.compiled, which --fast sets: it begins minutes sooner"
    )
    parser.add_argument("--channels-last", action="store_true", help="module.channels_last")
    parser.add_argument("--graphed", action="store_true", help="module.graphed: the step as a CUDA graph")
    parser.add_argument("--cast-once", action="store_true", help="module.cast_once: weights cast once a step")
    parser.add_argument("--side-by-side", type=int, default=1, metavar="STREAMS", help="module.side_by_side")
    parser.add_argument("--recomputed", action="store_true", help="module.recomputed: memory for time")
    parser.add_argument(
        "--cached", action="store_true", help="codes, ages and embeddings of the faces are known, as by data.cache"
    )
    parser.add_argument("--compiled", nargs="+", default=[], choices=COMPILED, help="module.compiled")
    parser.add_argument("--ema-decay", type=float, help="module.ema_decay")
    parser.add_argument("--generator", choices=("auto", "true", "false"), default="auto", help="model.decoder.fused")
    parser.add_argument("--no-peaks", action="store_true", help="do not measure what the device can do at most")
    parser.add_argument("--profile", type=int, metavar="ROWS", help="three more steps, profiled; no sync check")
    parser.add_argument("--tuned", action="store_true", help="let cuDNN time its algorithms")
    parser.add_argument("--no-tf32", action="store_true", help="full float32 matrix products and convolutions")
    parser.add_argument(
        "--no-sync-check", action="store_true", help="do not look for places where the host waits for the device"
    )
    parser.add_argument("--reference", type=Path, help="a checkout of the authors' repository; needs a GPU")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Train for warmup + steps batches under Lightning, and read the clocks.

    Of several processes the first has the results, and the others nothing.
    """
    begun = time.monotonic()
    let_segments_grow()  # as sam-train does
    device = pick_device(given.device)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    theirs = None if given.reference is None else reference(given, device)  # first, while all memory is free
    cuda = device == "cuda"
    options = step_options(given)
    warmup = given.warmup if given.warmup is not None else (12 if options["graphed"] else 5)
    torch.manual_seed(0)
    if cuda:
        torch.cuda.set_device(rank)
        torch.set_float32_matmul_precision("highest" if given.no_tf32 else "high")  # as sam-train sets it
        torch.backends.cudnn.allow_tf32 = not given.no_tf32
    optimizer, optimizer_name = optimizer_factory(given.optimizer)
    check = not given.no_sync_check and given.profile is None and given.devices == 1
    with torch.device(device):  # 800 M numbers are drawn on a GPU at once, on a CPU in seconds
        sam, losses = random_sam(given.size), random_losses(given.size)
    sam.decoder.fused = {"auto": "auto", "true": True, "false": False}[given.generator]
    module = TimedStep(sam, losses, optimizer, clock=Clock(cuda), warmup=warmup, check=check, **options)
    module.begun = begun
    module.tell(f"networks made, {given.devices} of {device} to train on")
    if given.compile != "no":
        compile_networks(module, given.compile)
    module.train()
    faces = torch.rand(given.batch, 3, 256, 256) * 2 - 1
    batch = {"faces": faces.to(device), "index": torch.arange(given.batch, device=device)}
    if given.cached:
        with torch.no_grad():
            batch |= known(sam, losses, batch["faces"])
    extra = 0 if given.profile is None else PROFILED
    if given.devices > 1 and given.alone:
        extra, module.together = given.steps, warmup + given.steps
    else:
        module.profiled = None if given.profile is None else warmup + given.steps
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=given.devices,
        strategy=RecordedDDP() if given.devices > 1 else "auto",
        use_distributed_sampler=False,  # every process has its batch
        precision="bf16-mixed" if given.fast else given.precision,
        max_steps=warmup + given.steps + extra,
        max_epochs=1,  # what steps the first process takes alone, the others do not count
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        benchmark=given.tuned,
    )
    trainer.fit(module, train_dataloaders=Repeat(batch, warmup + given.steps + extra))
    if rank:
        return {}
    ends = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
    if not math.isfinite(ends["train/total"]):
        raise RuntimeError(f"The loss is {ends['train/total']}: what was timed is not training.")
    flops = flops_a_face(given.size, given.cached)
    peaks = None if given.no_peaks else measured(device)
    unit = "bfloat16" if "bf16" in str(trainer.precision) else "float32"

    def timed(seconds: list[float], rate: float, devices: int) -> dict[str, Any]:
        return {
            "step_seconds": spread(seconds),
            "images_per_second": rate,
            "flops_per_second": rate * flops,
            "share_of_peak": None if peaks is None else rate * flops / devices / peaks[f"{unit}_flops"],
        }

    if module.profile is not None:
        order = "self_device_time_total" if cuda else "self_cpu_time_total"
        print(module.profile.key_averages().table(sort_by=order, row_limit=given.profile), file=sys.stderr)
    return {
        "benchmark": "training_step",
        "machine": machine(),
        "size": given.size,
        "device": device,
        "batch": given.batch,
        "devices": given.devices,
        "precision": trainer.precision,
        "optimizer": optimizer_name,
        "compile": given.compile,
        **options,
        "cached": given.cached,
        "generator": given.generator,
        "generator_path": module.generator_path,
        "tuned": given.tuned,
        "tf32": cuda and not given.no_tf32,
        **timed(module.clock.seconds(), given.devices * module.clock.rate(given.batch), given.devices),
        "flops_an_image": flops,
        "peaks": peaks,
        "memory_bytes": torch.cuda.max_memory_allocated() if cuda else peak_memory(),
        "memory_reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
        "memory_bytes_before": module.memory_before,
        "host_waits_in_step": 0 if check and cuda else "not checked",  # one would have raised
        "host_reads": None if module.host_reads is None else sorted(module.host_reads),
        "losses": ends,
        "alone": timed(module.alone.seconds(), module.alone.rate(given.batch), 1) if module.alone.steps else None,
        "reference": theirs,
    }


def known(sam: SAM, losses: AgingLosses, faces: Tensor) -> dict[str, Tensor]:
    """What a cache knows of faces, see `sam_age.data.source_cache.KNOWN`."""
    source = losses.describe(faces)
    return {"source_code": sam.encode(faces), "source_age": source.age, "source_identity": source.identity}


def reference(given: argparse.Namespace, device: str) -> dict[str, Any]:
    """The authors' own step on this machine, at the same batch: float32, as their code is."""
    from benchmarks import reference

    options = [f"--batch={given.batch}", f"--repeats={given.steps}", f"--size={given.size}", f"--device={device}"]
    return reference.timed(given.reference, "step", *options, threads=os.cpu_count() or 1)


def row(result: dict[str, Any]) -> dict[str, Any]:
    """The line of the table: ours, and beside it theirs where it was measured."""
    step, theirs = result["step_seconds"], result["reference"]
    cells = {
        "device": result["machine"].get("gpu", "CPU") if result["device"] == "cuda" else result["device"],
        "precision": result["precision"],
        "batch": result["batch"],
        "optimizer": result["optimizer"],
        "ms a step": 1000 * step["median"],
        "min": 1000 * step["min"],
        "max": 1000 * step["max"],
        "images/s": result["images_per_second"],
        "TFLOP/s": result["flops_per_second"] / 1e12,
        "of peak": "" if result["share_of_peak"] is None else f"{result['share_of_peak']:.0%}",
        "peak GB": result["memory_bytes"] / GB,
        "reserved GB": "" if result["memory_reserved_bytes"] is None else result["memory_reserved_bytes"] / GB,
        "host waits": result["host_waits_in_step"],
    }
    if theirs is not None:
        cells["reference ms"] = 1000 * theirs["step_seconds"]["median"]
        cells["reference images/s"] = theirs["images_per_second"]
        cells["times as fast"] = result["images_per_second"] / theirs["images_per_second"]
    return cells


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of what must be seen on one H100 or H200 that this run speaks of; none for other sizes and devices.

    Memory is told twice. What a recording works in is no more counted as allocated once it is recorded, and is part of
    what is reserved; of that some is the allocator's own store.
    """
    if result["size"] != "1024" or result["device"] != "cuda":
        return []
    gib = {name: result[name] / 2**30 for name in ("memory_bytes", "memory_reserved_bytes")}
    rows = {
        16: [
            ("images/s at batch 16", "8.1", "80", "160", result["images_per_second"]),
            ("peak GiB at batch 16, allocated in a step", "33", "20", "14", gib["memory_bytes"]),
            ("peak GiB at batch 16, reserved", "33", "20", "14", gib["memory_reserved_bytes"]),
        ],
        6: [("images/s at batch 6", "6-8", "50", "110", result["images_per_second"])],
    }
    heads = ("training step", "reference", "at least", "aim", "measured")
    return [dict(zip(heads, found, strict=True)) for found in rows.get(result["batch"], [])]


def step_options(given: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `AgingModule`, with what conf/experiment/fast.yaml sets where that is asked for."""
    options = {name: getattr(given, name) for name in ("channels_last", "graphed", "cast_once", "recomputed")}
    options |= {"compiled": given.compiled, "side_by_side": given.side_by_side, "ema_decay": given.ema_decay}
    options |= fast_step() if given.fast else {}
    return options | ({"compiled": []} if given.uncompiled else {})


def flops_a_face(size: str, cached: bool = False) -> float:
    """Operations of one step for one face, products and sums: what the method asks for, nothing recomputed; where
    `cached` without what is `known`.

    Forward passes are counted; the way back to the activations takes as much again, and to weights too.
    """
    with FakeTensorMode(), torch.no_grad():  # shapes alone
        sam, losses = random_sam(size), random_losses(size)
        sam.decoder.fused = False
        face, net = torch.empty(1, 3, 256, 256), losses.perceptual_net
        codes = torch.empty(1, sam.decoder.n_latent, sam.decoder.style_dim)
        learns = 3 * counted(lambda: sam.encoder(with_age(face, torch.empty(1))))
        inverted = counted(lambda: sam.encode(face))
        named = counted(lambda: (losses.age_net(face), losses.identity_net(face)))
        one_way = learns + inverted + 2 * counted(lambda: sam.decoder.synthesize(codes))
        judged = named + counted(lambda: (net.features(face), net.features(face_crop(face))))
    spared = inverted + named if cached else 0
    return 2 * one_way + 5 * judged - spared  # both ways; the judges see the source once, each result forward and back


def generator_path(module: AgingModule) -> str:
    """Whether synthesis goes the fused way, and if not, why: to be asked within a step, where autocast is as there."""
    decoder = module.sam.decoder
    if decoder.fused is False:
        return "plain: asked for"
    if hasattr(module.make, "_torchdynamo_orig_callable"):
        return "plain: compiled"
    codes = torch.zeros(1, decoder.n_latent, decoder.style_dim, device=module.device)
    reason = reason_against(decoder, codes, decoder.noise_maps("stored", 1))
    return "fused" if reason is None else f"plain: {reason}"


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

    def rate(self, batch: int) -> float:
        """Images a second."""
        return batch * len(self.steps) / self.whole_seconds()


class TimedStep(AgingModule):
    """The training stage itself, its step between two marks of a clock."""

    def __init__(self, *args: Any, clock: Clock, warmup: int, check: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock, self.warmup, self.check = clock, warmup, check
        self.host_reads: set[str] | None = None  # None: not looked for
        self.profiled: int | None = None  # from this step on
        self.profile: Any = None
        self.steps_begun = 0
        self.generator_path = "not asked"
        self.memory_before: int | None = None  # most that was allocated before the timed steps, bytes
        self.alone = Clock(self.clock.cuda)
        self.together: int | None = None  # from this step on the first process is alone
        self.begun = time.monotonic()
        self.is_alone = False

    def tell(self, what: str) -> None:
        """A line of how far it is, from the first process: a run that is cut off has said what it knew."""
        if not int(os.environ.get("LOCAL_RANK", "0")):
            print(f"[{time.monotonic() - self.begun:.0f} s] {what}", file=sys.stderr, flush=True)

    def draw(self, batch: int) -> tuple[bool, Tensor]:
        """While it warms up both kinds of step take turns, so that both are recorded by then; afterwards they come as
        often as the paper has them, two that age and one that does not, in the same order whatever is measured."""
        _, ages = super().draw(batch)
        return self.is_aging(), ages

    def is_aging(self) -> bool:
        self.steps_begun += 1
        return self.steps_begun % (2 if self.steps_begun <= self.warmup else 3) != 0

    def exchange(self, network: torch.nn.Module, cast: CastForAStep | None = None) -> None:
        if not self.is_alone:
            super().exchange(network, cast)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.is_alone = self.together is not None and batch_idx >= self.together
        if batch_idx == 0:
            self.tell("takes its first steps")
        elif batch_idx == self.warmup:
            self.tell(f"{self.warmup} steps taken, which leaves what is timed")
        if not self.is_alone:
            return self.take_step(batch, batch_idx)
        if batch_idx == self.together:
            self.tell_of(self.clock, len(batch["faces"]), f"{self.trainer.world_size} devices")
        if self.global_rank == 0:
            start = self.alone.now()
            super().training_step(batch, batch_idx)
            self.alone.steps.append((start, self.alone.now()))
            if batch_idx == self.together + len(self.clock.steps) - 1:
                self.tell_of(self.alone, len(batch["faces"]), "the first device alone")

    def tell_of(self, clock: Clock, batch: int, who: str) -> None:
        rate = clock.rate(batch) * (self.trainer.world_size if clock is self.clock else 1)
        self.tell(f"{who}: {1000 * spread(clock.seconds())['median']:.1f} ms a step, {rate:.1f} images/s")

    def take_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # The first steps may wait: optimizer states, cuDNN's choice of algorithms and compilation happen there.
        if self.profiled is not None and batch_idx >= self.profiled:
            return self.under_profiler(batch, batch_idx)
        timed = batch_idx >= self.warmup
        if batch_idx == 0:
            self.generator_path = generator_path(self)
        if self.clock.cuda:
            self.set_memory_apart(batch_idx)
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
        return None

    def set_memory_apart(self, batch_idx: int) -> None:
        """What timing forms and recording took once is no part of the steps' peak."""
        if batch_idx == max(0, self.warmup - 2):  # two kinds of steps are left that fill it up again
            torch.cuda.empty_cache()
        if batch_idx == self.warmup:
            self.memory_before = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()

    def under_profiler(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.profile is None:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if self.clock.cuda else []
            self.profile = torch.profiler.profile(activities=kinds)
            self.profile.start()
        super().training_step(batch, batch_idx)
        if batch_idx == self.profiled + PROFILED - 1:
            if self.clock.cuda:
                torch.cuda.synchronize()
            self.profile.stop()


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
        network.compile(mode=mode, dynamic=False)
    module.make = torch.compile(module.make, mode=mode, dynamic=False)
    losses.perceptual_net.features = torch.compile(losses.perceptual_net.features, mode=mode, dynamic=False)


def pick_device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


if __name__ == "__main__":
    main()
