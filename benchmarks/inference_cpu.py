"""Ageing one face on a CPU, and loading the model: seconds and peak memory.

    python -m benchmarks.inference_cpu                    the authors' model, two cores, minutes
    python -m benchmarks.inference_cpu --size tiny --repeats 1      does it run?

Made-up weights: the arithmetic, and so the time, is that of trained ones. Every measurement has a process of
its own. JSON goes to stdout, tables to stderr.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import in_own_process, machine, peak_memory, report, spread, times
from benchmarks.networks import SIZES, random_sam

MODULE = "benchmarks.inference_cpu"
MB, GB = 1e6, 1e9


def main() -> None:
    given = _parser().parse_args()
    if min(given.repeats, given.load_repeats, given.threads, *given.ages) < 1:
        raise SystemExit(f"{MODULE}: ages, repeats and threads are whole numbers from 1 up.")
    if given.part is not None:
        print(json.dumps(PARTS[given.part](given)))
        return
    result = measure(given)
    report(result, *tables(result))


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--size", choices=SIZES, default="1024", help="conf/model/sam_<size>.yaml")
    parser.add_argument("--ages", type=int, nargs="+", default=[1, 11], help="how many ages of the one face")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls after the first")
    parser.add_argument("--load-repeats", type=int, default=3, help="loads of each file, a process each")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use")
    parser.add_argument("--batch-size", type=int, help="of the pipeline: faces times ages in one pass; its default")
    parser.add_argument("--folder", type=Path, help="where the files to load are made; a temporary one")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)  # one measurement, in here
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser


# ---- one process a measurement ------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run every part in a process of its own and put the answers together."""

    def part(name: str, *extra: str) -> Any:
        fixed = ["--part", name, "--size", given.size, "--repeats", str(given.repeats)]
        if given.batch_size is not None:
            fixed += ["--batch-size", str(given.batch_size)]
        return in_own_process(MODULE, [*fixed, *extra], given.threads)

    with tempfile.TemporaryDirectory(prefix="sam-age-", dir=given.folder) as folder:
        files = {
            "authors": Path(folder, "authors.pt"),
            "float32": Path(folder, "float32.safetensors"),
            "float16": Path(folder, "float16.safetensors"),
        }
        written = part("write", "--file", str(files["authors"]))
        idle = part("imports")
        loading = {}
        for kind, path in files.items():
            runs = [part("load", "--file", str(path)) for _ in range(given.load_repeats)]
            loading[kind] = _loads(runs, path, files["authors"])
        plain = [part("load_plainly", "--file", str(files["authors"])) for _ in range(given.load_repeats)]
        loading["authors, torch.load"] = _loads(plain, files["authors"], files["authors"])
        aging = {str(count): part("age", "--ages", str(count), "--file", str(files["float32"])) for count in given.ages}
    return {
        "benchmark": "inference_cpu",
        "size": given.size,
        "machine": machine(given.threads),
        "conversion_seconds": written["conversion_seconds"],
        "parameters": written["parameters"],
        "imports_peak_bytes": idle["peak_bytes"],
        "loading": loading,
        "aging": aging,
    }


def _loads(runs: list[dict[str, Any]], path: Path, original: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {
        "seconds": spread([run["seconds"] for run in runs]),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "file_bytes": size,
        "share_of_original": size / original.stat().st_size,
    }


# ---- the measurements ---------------------------------------------------------------------------------


def write(given: argparse.Namespace) -> dict[str, Any]:
    """A file in the authors' format, and its converted forms beside it."""
    import torch

    from sam_age.weights import load, save

    sam = random_sam(given.size)
    state = {name: value for name, value in sam.state_dict().items() if name != "latent_avg"}
    options = {"output_size": sam.decoder.size, "start_from_encoded_w_plus": True, "device": "cuda"}
    torch.save({"state_dict": state, "latent_avg": sam.latent_avg, "opts": options}, given.file)
    parameters = sum(parameter.numel() for parameter in sam.parameters())
    del sam, state
    gc.collect()
    seconds = {}
    for name, half in (("float32", False), ("float16", True)):
        out = given.file.with_name(f"{name}.safetensors")
        seconds[name] = times(lambda out=out, half=half: save(load(given.file), out, half=half), 1)[0]
    return {"conversion_seconds": seconds, "parameters": parameters}


def imports(given: argparse.Namespace) -> dict[str, Any]:
    """What the interpreter and its libraries take, before any weights."""
    import sam_age.pipeline  # noqa: F401

    return {"peak_bytes": peak_memory()}


def load(given: argparse.Namespace) -> dict[str, Any]:
    """`sam_age.weights.load`."""
    from sam_age.weights import load

    seconds = times(lambda: load(given.file), 1)[0]
    return {"seconds": seconds, "peak_bytes": peak_memory()}


def load_plainly(given: argparse.Namespace) -> dict[str, Any]:
    """The usual way, for comparison: build the model, read the file, copy the weights in."""
    import torch

    def work() -> None:
        sam = random_sam(given.size)
        contents = torch.load(given.file, map_location="cpu", weights_only=True)
        sam.load_state_dict(contents["state_dict"] | {"latent_avg": contents["latent_avg"]})

    seconds = times(work, 1)[0]
    return {"seconds": seconds, "peak_bytes": peak_memory()}


def age(given: argparse.Namespace) -> dict[str, Any]:
    """One aligned face at `ages[0]` ages: `AgingPipeline.age`, and where its time goes."""
    import numpy as np
    import torch
    from PIL import Image

    from sam_age.pipeline import AgingPipeline

    count = given.ages[0]
    ages = [float(year) for year in np.linspace(0, 100, count)] if count > 1 else [40.0]
    face = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    options = {} if given.batch_size is None else {"batch_size": given.batch_size}
    pipeline = AgingPipeline.from_pretrained(given.file, device="cpu", precision="float32", **options)
    before = peak_memory()
    first = times(lambda: pipeline.age([face], ages), 1)[0]
    seconds: list[float] = []
    stages: list[dict[str, float]] = []
    for _ in range(given.repeats):
        with stage_times(pipeline.steps) as collected:
            seconds += times(lambda: pipeline.age([face], ages), 1)
        stages.append({name: sum(values) for name, values in collected.items()})
    peak = peak_memory()
    codes, pictures = pipeline.age([face], ages)
    if len(pictures[0]) != count or not torch.isfinite(codes[0]).all():
        raise RuntimeError("The pipeline gave too few pictures, or codes that are no numbers.")
    return {
        "first_seconds": first,
        "seconds": spread(seconds),
        "peak_bytes": peak,
        "peak_bytes_once_loaded": before,
        "batch_size": pipeline.batch_size,
        "stage_seconds": {name: spread([stage[name] for stage in stages]) for name in stages[0]},
    }


@contextmanager
def stage_times(steps: dict[str, Callable[..., Any]]) -> Iterator[dict[str, list[float]]]:
    """Collect the seconds that each call of each of these takes while the block runs."""
    import time

    plain = dict(steps)
    collected: dict[str, list[float]] = {name: [] for name in steps}

    def timed(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = plain[name](*args, **kwargs)
            collected[name].append(time.perf_counter() - start)
            return result

        return call

    steps.update({name: timed(name) for name in plain})
    try:
        yield collected
    finally:
        steps.update(plain)


PARTS = {"write": write, "imports": imports, "load": load, "load_plainly": load_plainly, "age": age}


# ---- for people ---------------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One of ageing, one of loading."""
    aging = [
        {
            "ages": count,
            "seconds": row["seconds"]["median"],
            "min": row["seconds"]["min"],
            "max": row["seconds"]["max"],
            "first call": row["first_seconds"],
            "pSp encoder": row["stage_seconds"]["encode"]["median"],
            "age encoder": row["stage_seconds"]["edit"]["median"],
            "generator": row["stage_seconds"]["synthesize"]["median"],
            "peak GB": row["peak_bytes"] / GB,
        }
        for count, row in result["aging"].items()
    ]
    loading = [
        {
            "file": kind,
            "MB": row["file_bytes"] / MB,
            "of the original": f"{row['share_of_original']:.1%}",
            "seconds": row["seconds"]["median"],
            "min": row["seconds"]["min"],
            "max": row["seconds"]["max"],
            "peak GB": row["peak_bytes"] / GB,
        }
        for kind, row in result["loading"].items()
    ]
    return aging, loading


if __name__ == "__main__":
    main()
