"""Ageing faces with a loaded model: latency of one face at all ages, outputs a second of many.

    python -m benchmarks.inference                               the authors' model, one face and four, eleven ages
    python -m benchmarks.inference --faces 1 2 4 8 --ages 1 11   how cost grows
    python -m benchmarks.inference --size tiny --device cpu --repeats 2       does it run?
    python -m benchmarks.inference --reference SAM               a checkout of the authors' code beside it

Made-up weights and faces. "on the device" is what the networks take, results staying there, as the reference is timed;
"as pictures" is `AgingPipeline.age`, which hands over Pillow images. JSON goes to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.flops import counted
from benchmarks.measure import machine, peak_memory, report, spread
from benchmarks.networks import SIZES, random_sam
from benchmarks.peaks import measured
from sam_age.device import keep_freed_memory, pick_device
from sam_age.models.sam import FACE_SIZE, SAM

TERA, GB = 1e12, 1e9


def main() -> None:
    given = _parser().parse_args()
    if min(given.repeats, *given.ages, *given.faces) < 1:
        raise SystemExit("inference: faces, ages and repeats are whole numbers from 1 up.")
    result = measure(given)
    report(result, [row(case, result) for case in result["cases"]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1024", help="conf/model/sam_<size>.yaml")
    parser.add_argument("--pixels", type=int, choices=(256, 512, 1024), help="side of the pictures; the size's own")
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 4], help="how many at once")
    parser.add_argument("--ages", type=int, nargs="+", default=[11], help="ages of each face")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--batch-size", type=int, help="of the pipeline: faces times ages in one pass; its default")
    parser.add_argument("--graphed", action="store_true", help="GPUs: recorded as CUDA graphs")
    parser.add_argument("--compiled", action="store_true", help="GPUs: the encoders by torch.compile")
    parser.add_argument("--keep-memory", action="store_true", help="CPUs: as sam-infer does, `keep_freed_memory`")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls")
    parser.add_argument("--warmup", type=int, default=5, help="calls before them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--reference", type=Path, help="a checkout of the authors' repository; needs a GPU")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    from sam_age.pipeline import AgingPipeline

    torch.manual_seed(0)
    if given.keep_memory and not keep_freed_memory():
        raise SystemExit("inference: --keep-memory is for Linux with glibc.")
    device = torch.device(pick_device(given.device))
    sam = random_sam(given.size, given.pixels).to(device)
    options = {} if given.batch_size is None else {"batch_size": given.batch_size}
    pipeline = AgingPipeline(sam, precision=given.precision, graphed=given.graphed, compiled=given.compiled, **options)
    cases = []
    for faces in given.faces:
        for ages in given.ages:
            case = measure_case(pipeline, faces, ages, given)
            if given.reference is not None:
                case["reference"] = reference(faces, ages, given)
            cases.append(case)
    return {
        "benchmark": "inference",
        "machine": machine(),
        "size": given.size,
        "pixels": sam.decoder.size,
        "device": device.type,
        "precision": "bfloat16" if pipeline.bfloat16 else "float32",
        "batch_size": pipeline.batch_size,
        "graphed": given.graphed,
        "compiled": given.compiled,
        "keep_memory": given.keep_memory,
        "peaks": measured(device.type) if device.type in ("cpu", "cuda") else None,
        "flop_per_face": flop(sam, lambda model: model.encode(_empty_faces(1))),
        "flop_per_output": flop(sam, _one_output),
        "cases": cases,
    }


def measure_case(pipeline: Any, faces: int, ages: int, given: argparse.Namespace) -> dict[str, Any]:
    pictures = [_face(number) for number in range(faces)]
    years = np.linspace(0, 100, ages).tolist() if ages > 1 else [40.0]
    if pipeline.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    whole = seconds(lambda: pipeline.age(pictures, years), pipeline.device, given)

    def on_the_device() -> None:
        codes = pipeline.edit(pictures, years)
        pipeline._batched(lambda rows: pipeline.steps["synthesize"](rows)[:, 0, 0, 0], codes.flatten(0, 1))

    inner = seconds(on_the_device, pipeline.device, given)
    outputs = faces * ages
    return {
        "faces": faces,
        "ages": ages,
        "seconds": spread(whole),
        "seconds_on_device": spread(inner),
        "outputs_per_second": outputs * len(whole) / sum(whole),
        "outputs_per_second_on_device": outputs * len(inner) / sum(inner),
        "memory_bytes": torch.cuda.max_memory_allocated() if pipeline.device.type == "cuda" else peak_memory(),
    }


def seconds(work: Callable[[], Any], device: torch.device, given: argparse.Namespace) -> list[float]:
    """Of each timed call, the device's work done when the clock stops."""
    taken = []
    for _ in range(given.warmup + given.repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return taken[given.warmup :]


def reference(faces: int, ages: int, given: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import reference

    options = {"batch": faces, "ages": ages, "repeats": given.repeats, "warmup": given.warmup, "size": given.size}
    flat = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return reference.timed(given.reference, "inference", *flat, threads=os.cpu_count() or 1)


def flop(sam: SAM, work: Callable[[SAM], Any]) -> float:
    """Floating-point operations of convolutions and matrix products; a multiplication and an addition are two."""
    with FakeTensorMode(), torch.no_grad():  # shapes alone
        shapes = SAM.from_config(sam.config).eval()
        return counted(lambda: work(shapes))


def _one_output(sam: SAM) -> None:
    faces = _empty_faces(1)
    inversion = torch.empty(1, *sam.latent_avg.shape)
    sam.synthesize(sam.edit(faces, torch.empty(1), inversion), resize=False)


def _empty_faces(count: int) -> torch.Tensor:
    return torch.empty(count, 3, FACE_SIZE, FACE_SIZE)


def _face(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (FACE_SIZE, FACE_SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def row(case: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """A line of the table: ours, and beside it theirs where it was measured."""
    work = case["faces"] * (result["flop_per_face"] + case["ages"] * result["flop_per_output"])
    speed = work / case["seconds_on_device"]["median"]
    peaks = result["peaks"]
    cells = {
        "faces": case["faces"],
        "ages": case["ages"],
        "ms": 1000 * case["seconds_on_device"]["median"],
        "min": 1000 * case["seconds_on_device"]["min"],
        "max": 1000 * case["seconds_on_device"]["max"],
        "outputs/s": case["outputs_per_second_on_device"],
        "ms as pictures": 1000 * case["seconds"]["median"],
        "TFLOP/s": speed / TERA,
        "of the peak": "" if peaks is None else f"{speed / peaks[result['precision'] + '_flops']:.0%}",
        "peak GB": case["memory_bytes"] / GB,
    }
    if "reference" in case:
        theirs = case["reference"]
        cells["reference ms"] = 1000 * theirs["seconds"]["median"]
        cells["outputs/s there"] = theirs["outputs_per_second"]
        cells["times as fast"] = case["outputs_per_second_on_device"] / theirs["outputs_per_second"]
    return cells


if __name__ == "__main__":
    main()
