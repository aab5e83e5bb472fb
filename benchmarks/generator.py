"""The generator alone: its plain and fused paths, whole and layer by layer, against what the card can do.

    python -m benchmarks.generator > generator.json      all of it, meant for 90 seconds on an H200
    python -m benchmarks.generator --parts equal whole --batch 6
    python -m benchmarks.generator --parts tiles         other shapes of programs, for `models.fused.launch.Tiles`
    python -m benchmarks.generator --parts predict       what is expected, without a GPU

Made-up frozen weights. Layers are timed inside CUDA graphs, where launching costs nothing; small ones find their inputs
in the L2 cache. JSON goes to stdout, tables to stderr: they hold all that a choice needs.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.layers import FORMS, H200, OneLayer, costs, made_up, predicted, recorded
from benchmarks.measure import machine, report, spread
from benchmarks.networks import SIZES
from benchmarks.peaks import measured
from sam_age.models import ops
from sam_age.models.stylegan2 import Generator

MODULE = "benchmarks.generator"
PARTS = ("equal", "whole", "layers", "profile", "tiles", "predict")
MB, GB, GIGA, TERA, MILLI = 1e6, 1e9, 1e9, 1e12, 1e3


def main() -> None:
    given = _parser().parse_args()
    result = measure(given)
    tables = {part: result[part] for part in PARTS if result.get(part)}
    if "tiles" in tables:  # of which the best of each kind are told
        kinds = itertools.groupby(tables["tiles"], key=lambda row: (row["tiles"], row["layer"]))
        tables["tiles"] = [row for _, rows in kinds for row in list(rows)[:3]]
    report(result, *tables.values())
    for note in result["notes"]:
        print(f"\n{note}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(MODULE, description=__doc__, formatter_class=layout)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["equal", "whole", "layers", "profile", "tiles"])
    parser.add_argument("--size", choices=SIZES, default="1024", help="the decoder of conf/model/sam_<size>.yaml")
    parser.add_argument("--batch", type=int, default=16, help="pictures of a training step")
    parser.add_argument("--inference-batch", type=int, default=44, help="pictures without gradients: 4 faces, 11 ages")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the convolutions")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--tuned", action="store_true", help="let cuDNN time its algorithms (minutes)")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls, or fewer where they take long")
    parser.add_argument("--seconds", type=float, default=85, help="no shapes of programs are begun after this long")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every part asked for, in order; one that fails leaves a note, and the rest goes on."""
    start = time.monotonic()
    torch.manual_seed(0)
    if set(given.parts) == {"predict"}:
        rows = [*predicted(made_up(given.size, "meta"), given.batch, 2, H200)]
        return {"benchmark": "generator", "notes": [], "predict": rows}
    device = given.device if given.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(made_up(given.size, device), given, device, start)
    torch.set_float32_matmul_precision("high")  # as sam-train sets it
    torch.backends.cudnn.benchmark = given.tuned
    result = {
        "benchmark": "generator",
        "machine": machine(),
        "device": device,
        "dtype": given.dtype,
        "batch": given.batch,
        "tuned": given.tuned,
        "peaks": bench.peaks,
        "notes": bench.notes,
    }
    for part in given.parts:
        try:
            result[part] = getattr(bench, part)()
        except Exception as error:  # the others are worth having all the same
            bench.notes.append(f"{part} failed: {type(error).__name__}: {str(error)[:500]}")
        bench.clear()
    result["seconds"] = time.monotonic() - start
    return result


class Bench:
    """One generator on one device, and how it is timed."""

    def __init__(self, generator: Generator, given: argparse.Namespace, device: str, start: float) -> None:
        self.generator, self.given, self.device, self.start = generator, given, device, start
        self.cuda = device == "cuda"
        self.dtype = getattr(torch, given.dtype)
        self.fuses = self.cuda or os.environ.get("TRITON_INTERPRET") == "1"
        self.notes: list[str] = []
        self.peaks = measured(device)

    def clear(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    # ---- is it right? --------------------------------------------------------------------------------

    def equal(self) -> list[dict[str, Any]]:
        """Relative distance of pictures and gradients from plain float32 (no TF32), at two pictures."""
        w_plus = self.codes(2)
        rows = []
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        truth = self.picture_and_gradient(w_plus, torch.float32)
        for dtype in (torch.float32, torch.bfloat16):
            for path in self.paths((*FORMS, "paired")):
                if dtype == torch.float32 and path["path"] == "plain":
                    continue
                with self.on(path):
                    got = self.picture_and_gradient(w_plus, dtype)
                distances = [((g - t).norm() / t.norm()).item() for g, t in zip(got, truth, strict=True)]
                rows.append(
                    {
                        "equal to plain float32": str(dtype)[6:],
                        **path,
                        "picture": distances[0],
                        "gradient": distances[1],
                    }
                )
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        return rows

    def picture_and_gradient(self, w_plus: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        w_plus = w_plus.clone().requires_grad_()
        picture = self.call(w_plus, dtype)
        toward = torch.arange(picture.numel(), device=self.device).sin().reshape(picture.shape)
        (gradient,) = torch.autograd.grad(picture, w_plus, toward)
        return picture.detach(), gradient

    # ---- whole ---------------------------------------------------------------------------------------

    def whole(self) -> list[dict[str, Any]]:
        """Every path, forward and with gradients to w+, called and as a CUDA graph."""
        rows = []
        flops = sum(cost.flops for cost in costs(self.generator, 1, self.dtype.itemsize, "transposed"))
        peak = self.peaks[f"{self.given.dtype}_flops"]
        for path in self.paths(("auto", *FORMS, "paired")):
            for batch, backward in ((self.given.inference_batch, False), (self.given.batch, True)):
                for graph in (False, True) if self.cuda and path["path"] == "fused" else (False,):
                    if graph and path["form"] != "auto":
                        continue
                    row = {"whole": "both ways" if backward else "forward", "batch": batch, **path, "graph": graph}
                    try:
                        with self.on(path):
                            seconds, memory = self.time_whole(batch, backward, graph)
                    except torch.OutOfMemoryError:
                        self.notes.append(f"out of memory: {row}")
                        continue
                    finally:
                        self.clear()
                    rate = flops * batch * (2 if backward else 1) / seconds["median"]
                    rows.append(
                        row
                        | {name: seconds[name] * MILLI for name in ("median", "min", "max")}
                        | {"pictures/s": batch / seconds["median"], "TFLOP/s": rate / TERA, "of peak": rate / peak}
                        | {"GiB": memory / 2**30}
                    )
        return rows

    def time_whole(self, batch: int, backward: bool, graph: bool) -> tuple[dict[str, float], int]:
        """Seconds of a call, and the most memory that it held besides the weights."""
        w_plus = self.codes(batch).requires_grad_(backward)
        toward = torch.randn(batch, 3, self.generator.size, self.generator.size, device=self.device)

        def work() -> Any:
            if not backward:
                with torch.no_grad():
                    return self.call(w_plus, self.dtype)
            return torch.autograd.grad(self.call(w_plus, self.dtype).float(), w_plus, toward)

        before = torch.cuda.memory_allocated() if self.cuda else 0
        work()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        work()
        memory = torch.cuda.max_memory_allocated() - before if self.cuda else 0
        return spread(self.seconds(recorded(work, 1) if graph else work)), memory

    def codes(self, batch: int) -> Tensor:
        return torch.randn(batch, self.generator.n_latent, self.generator.style_dim, device=self.device)

    def call(self, w_plus: Tensor, dtype: torch.dtype) -> Tensor:
        half = dtype != torch.float32
        with torch.autocast(self.device, dtype if half else None, enabled=half, cache_enabled=False):
            return self.generator.synthesize(w_plus).float()

    def paths(self, forms: tuple[str, ...]) -> list[dict[str, Any]]:
        """Plain with filters apart, plain with filters folded into weights (as it was on GPUs), fused."""
        plain = [{"path": "plain", "form": "-"}]
        if self.cuda:
            plain += [{"path": "folded", "form": "-"}, {"path": "folded, channels-last", "form": "-"}]
        return plain + [{"path": "fused", "form": form} for form in forms if self.fuses]

    @contextmanager
    def on(self, path: dict[str, Any]) -> Iterator[None]:
        """The generator set to one of `paths`."""
        generator = self.generator
        generator.fused, generator.form = path["path"] == "fused", path["form"]
        layout = torch.channels_last if "last" in path["path"] else torch.contiguous_format
        generator.input.to(memory_format=layout)
        folds = mock.patch.object(ops, "folds_filters", return_value="folded" in path["path"])
        try:
            with folds:
                yield
        finally:
            generator.fused, generator.form = False, "auto"
            generator.input.to(memory_format=torch.contiguous_format)

    # ---- layer by layer ------------------------------------------------------------------------------

    def layers(self) -> list[dict[str, Any]]:
        """Every layer of the fused path, in every form, each way: its convolution, and all of it."""
        if not self.fuses:
            return []
        rows = []
        for index, back in itertools.product(range(len(self.prepared().convolutions)), (False, True)):
            layer = OneLayer(self.prepared(), index, self.given.batch, self.device)
            for form in layer.forms:
                cost = layer.cost(form, back)
                whole = spread(self.graphed(lambda layer=layer, form=form, back=back: layer.whole(form, back)))[
                    "median"
                ]
                part = spread(self.graphed(layer.convolution(form, back)))["median"]
                rest = max(whole - part, 1e-9)
                floor = cost.floor(self.peaks, self.given.dtype)
                rows.append(
                    {
                        "layer": layer.name,
                        "way": "back" if back else "forward",
                        "form": form,
                        "GFLOP": cost.flops / GIGA,
                        "MB": (cost.convolution_bytes + cost.rest_bytes) / MB,
                        "ms": whole * MILLI,
                        "convolution": part * MILLI,
                        "rest": rest * MILLI,
                        "TFLOP/s": cost.flops / part / TERA,
                        "GB/s of the rest": cost.rest_bytes / rest / GB,
                        "floor": floor * MILLI,
                        "of floor": floor / whole,
                    }
                )
            del layer
            self.clear()
        self.summarise(rows)
        return rows

    def summarise(self, rows: list[dict[str, Any]]) -> None:
        """The fastest form of each layer, and what they come to together."""
        best: dict[tuple[str, bool], dict[str, Any]] = {}
        for row in rows:
            key = (row["layer"], row["way"] == "back")
            if key not in best or row["ms"] < best[key]["ms"]:
                best[key] = row
        for back in (False, True):
            chosen = [row for (_, way), row in best.items() if way == back]
            total, floor = sum(row["ms"] for row in chosen), sum(row["floor"] for row in chosen)
            convolutions = sum(row["convolution"] for row in chosen)
            forms = ", ".join(f"{row['layer']}: {row['form']}" for row in chosen if row["form"] != "cudnn")
            self.notes.append(
                f"{'Back' if back else 'Forward'}, batch {self.given.batch}, the fastest form of each layer: "
                f"{total:.2f} ms, of which {convolutions:.2f} are convolutions; floor {floor:.2f}. {forms}."
            )

    def prepared(self) -> Any:
        from sam_age.models.fused.synthesis import Prepared

        if not hasattr(self, "_prepared"):
            with torch.no_grad():
                self._prepared = Prepared(self.generator, self.dtype)
        return self._prepared

    # ---- what takes the time -------------------------------------------------------------------------

    def profile(self) -> list[dict[str, Any]]:
        """The kernels of one fused call, both ways: how many, and which take longest."""
        if not self.cuda:
            return []
        w_plus = self.codes(self.given.batch).requires_grad_()
        with self.on({"path": "fused", "form": "auto"}):
            for _ in range(3):
                torch.autograd.grad(self.call(w_plus, self.dtype).sum(), w_plus)
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded_by:
                torch.autograd.grad(self.call(w_plus, self.dtype).sum(), w_plus)
                torch.cuda.synchronize()
        events = [event for event in recorded_by.key_averages() if event.self_device_time_total > 0]
        total = sum(event.self_device_time_total for event in events)
        self.notes.append(f"Both ways: {sum(event.count for event in events)} kernels, {total / MILLI:.2f} ms.")
        longest = sorted(events, key=lambda event: -event.self_device_time_total)[:20]
        return [
            {
                "kernel": event.key[:90],
                "calls": event.count,
                "ms": event.self_device_time_total / MILLI,
                "share": event.self_device_time_total / total,
            }
            for event in longest
        ]

    # ---- shapes of programs --------------------------------------------------------------------------

    def tiles(self) -> list[dict[str, Any]]:
        """Other shapes of programs, at a wide and a narrow layer: those that beat the ones in use, or come near."""
        rows = self.tried() if self.fuses else []
        return sorted(rows, key=lambda row: (row["tiles"], row["layer"], row["rest"]))

    def tried(self) -> Iterator[dict[str, Any]]:
        from sam_age.models.fused import launch

        last = len(self.prepared().convolutions) - 1
        narrow = (last, last - 1)  # of the last resolution: 3 x 3, doubling
        wide = (max(last - 6, 2), max(last - 7, 1))
        sweeps = {
            "back": (0, True, {"stages": (1, 3, 4), "back_elements": (1024, 2048), "back_warps": (4, 8)}),
            "filter, back": (
                1,
                True,
                {"back_filtered": (512, 1024, 2048), "rows": (8, 16, 32), "back_filter_warps": (4, 8)},
            ),
            "filter": (1, False, {"filtered": (512, 1024, 2048), "rows": (8, 16, 32), "filter_warps": (4, 8)}),
            "forward": (0, False, {"elements": (1024, 2048, 4096), "warps": (4, 8)}),
        }
        for indices, (name, (which, back, options)) in itertools.product((narrow, wide), sweeps.items()):
            layer = OneLayer(self.prepared(), indices[which], self.given.batch, self.device)
            form = layer.forms[0]
            convolution = spread(self.graphed(layer.convolution(form, back)))["median"]
            for values in itertools.product(*options.values()):
                if time.monotonic() - self.start > self.given.seconds:
                    self.notes.append("tiles: the time was up; --parts tiles --seconds 600 tries all.")
                    return
                chosen = dict(zip(options, values, strict=True))
                with mock.patch.object(launch, "tiles", replace(launch.tiles, **chosen)):
                    seconds = spread(self.graphed(lambda layer=layer, form=form, back=back: layer.whole(form, back)))
                rest = max(seconds["median"] - convolution, 1e-9)
                rate = layer.cost(form, back).rest_bytes / rest / GB
                told = " ".join(f"{key}={value}" for key, value in chosen.items())
                yield {"tiles": name, "layer": layer.name, "tried": told, "rest": rest * MILLI, "GB/s": rate}
            del layer
            self.clear()

    # ---- clocks --------------------------------------------------------------------------------------

    def graphed(self, work: Callable[[], Any], calls: int = 4) -> list[float]:
        """Seconds a call, of some in one CUDA graph; on a CPU of one call."""
        if not self.cuda:
            return self.seconds(work)
        return [seconds / calls for seconds in self.seconds(recorded(work, calls))]

    def seconds(self, work: Callable[[], Any]) -> list[float]:
        """Of repeated calls; of as many as fit in two seconds, where they are slow."""
        work()
        start = time.perf_counter()
        work()
        if not self.cuda:
            once = time.perf_counter() - start
            taken = [once]
            for _ in range(min(self.given.repeats, int(2 / once)) - 1):
                start = time.perf_counter()
                work()
                taken.append(time.perf_counter() - start)
            return taken
        torch.cuda.synchronize()
        once = time.perf_counter() - start
        marks = []
        for _ in range(max(3, min(self.given.repeats, int(2 / once)))):
            marks.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
            marks[-1][0].record()
            work()
            marks[-1][1].record()
        torch.cuda.synchronize()
        return [first.elapsed_time(second) / MILLI for first, second in marks]


if __name__ == "__main__":
    main()
