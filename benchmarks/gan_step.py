"""A GAN's training step, part by part: what the lifespan set's generator learns from.

    python -m benchmarks.gan_step --pixels 32 64 128 256 --batch 16     on a GPU, each part as a CUDA graph
    python -m benchmarks.gan_step --profile 20                          and the kernels that take longest
    python -m benchmarks.gan_step --channels-first                      the plain path: no kernels of ours
    python -m benchmarks.gan_step --pixels 32 --batch 2 --device cpu --repeats 1

The parts are `GANModule`'s own, of conf/model/stylegan2_256_small.yaml with made-up weights and faces, in bfloat16 but
for the regularisations; a step has R1 in every 16th and path lengths in every 8th, as lifespan_gan does. Optimizers are
not counted. Arithmetic is what the parts ask for, gradients of gradients included, held against what matrix products in
bfloat16 reach in the same run. JSON goes to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.flops import counted
from benchmarks.measure import machine, report, spread, times
from benchmarks.networks import arguments, config
from benchmarks.peaks import measured
from benchmarks.training_step import pick_device
from sam_age.models.stylegan2 import Discriminator, Generator
from sam_age.modules.gan import GANModule

MODULE = "benchmarks.gan_step"
PARTS = {"tell_apart": 1, "deceive": 1, "regularise_scores": 16, "regularise_paths": 8}
"""One in so many steps has it: conf/experiment/lifespan_gan.yaml."""

WARMUP = 3
"""Calls before a part is recorded and timed: libraries choose their kernels, Triton compiles."""


def main() -> None:
    given = _parser().parse_args()
    result = measure(given)
    report(result, [row(found, result) for found in result["sizes"]])


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(MODULE, description=__doc__, formatter_class=layout)
    parser.add_argument("--pixels", type=int, nargs="+", default=[256], help="sides of the pictures, powers of two")
    parser.add_argument("--batch", type=int, default=16, help="faces a step")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each part")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--channels-first", action="store_true", help="maps as PyTorch lays them out by itself")
    parser.add_argument("--tuned", action="store_true", help="let cuDNN time its algorithms")
    parser.add_argument("--profile", type=int, metavar="ROWS", help="list the kernels of each part")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    device = pick_device(given.device)
    torch.set_float32_matmul_precision("high")  # as sam-train sets it
    torch.backends.cudnn.benchmark = given.tuned
    return {
        "benchmark": "gan_step",
        "machine": machine(),
        "device": device,
        "batch": given.batch,
        "channels_last": not given.channels_first,
        "tuned": given.tuned,
        "recorded": device == "cuda",
        "precision": "bfloat16, regularisations float32",
        "sizes": [of_size(pixels, given, device) for pixels in given.pixels],
        "peaks": measured(device),
    }


def of_size(pixels: int, given: argparse.Namespace, device: str) -> dict[str, Any]:
    """Seconds of each part, and of a step made of them."""
    module = made_up(pixels).to(device)
    faces = torch.rand(given.batch, 3, pixels, pixels, device=device) * 2 - 1
    if not given.channels_first:
        faces = faces.contiguous(memory_format=torch.channels_last)
        module.generator.input.to(memory_format=torch.channels_last)
    parts = {}
    for name in PARTS:
        work = part(module, faces, name)
        parts[name] = spread(seconds(work, given.repeats, device))
        if given.profile is not None:
            profile(work, name, given.profile, device)
    step = sum(found["median"] / PARTS[name] for name, found in parts.items())
    flops = sum(found / PARTS[name] for name, found in flops_of(pixels, given.batch).items())
    memory = torch.cuda.max_memory_reserved() if device == "cuda" else None
    return {
        "pixels": pixels,
        "parts_seconds": parts,
        "step_seconds": step,
        "faces_per_second": given.batch / step,
        "flops_a_step": flops,
        "flops_per_second": flops / step,
        "memory_reserved_bytes": memory,
    }


def made_up(pixels: int) -> GANModule:
    model = config("model", "stylegan2_256_small")["generator"]
    generator = Generator(**(arguments(model) | {"size": pixels}))
    widths = {name: model[name] for name in ("channel_multiplier", "channel_max")}
    return GANModule(
        generator, Discriminator(pixels, **widths), torch.optim.Adam, r1_gamma=0.5, path_every=8, path_share=4
    )


def flops_of(pixels: int, batch: int) -> dict[str, float]:
    """Operations of each part, products and sums."""
    with FakeTensorMode(), warnings.catch_warnings():  # shapes alone
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # copying a module asks for it
        module, faces = made_up(pixels), torch.empty(batch, 3, pixels, pixels)
        return {name: counted(part(module, faces, name)) for name in PARTS}


def part(module: GANModule, faces: Tensor, name: str) -> Callable[[], Any]:
    def work() -> Any:
        # casts are not kept, as a recording must not read copies that are gone by its replay
        with torch.autocast(faces.device.type, torch.bfloat16, cache_enabled=False):
            return module.take_part(faces, name=name)

    return work


def seconds(work: Callable[[], Any], repeats: int, device: str) -> list[float]:
    """Of so many calls: on a GPU of a recording of the work, replayed."""
    if device != "cuda":
        work()
        return times(work, repeats)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    graph.replay()
    torch.cuda.synchronize()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return times(replay, repeats)


def profile(work: Callable[[], Any], name: str, rows: int, device: str) -> None:
    """The kernels of one call that is not recorded, on stderr."""
    import sys

    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device == "cuda" else []
    with torch.profiler.profile(activities=kinds) as found:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    order = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    print(f"{name}:\n{found.key_averages().table(sort_by=order, row_limit=rows)}", file=sys.stderr)


def row(found: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    cells = {"pixels": found["pixels"], "batch": result["batch"]}
    cells |= {f"{name} ms": 1000 * part["median"] for name, part in found["parts_seconds"].items()}
    reserved = found["memory_reserved_bytes"]
    return cells | {
        "step ms": 1000 * found["step_seconds"],
        "faces/s": found["faces_per_second"],
        "TFLOP/s": found["flops_per_second"] / 1e12,
        "of peak": f"{found['flops_per_second'] / result['peaks']['bfloat16_flops']:.0%}",
        "reserved GB": "" if reserved is None else reserved / 1e9,
    }


if __name__ == "__main__":
    main()
