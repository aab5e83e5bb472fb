"""Layers of the generator for `benchmarks.generator`: made-up inputs, recordings, operations and bytes, predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import arguments, config
from sam_age.models.stylegan2 import Generator

MILLI = 1e3
H200 = {"bfloat16_flops": 790e12, "float32_flops": 400e12, "memory_bytes": 4.3e12}  # measured there, 2026-11
FORMS = ("transposed", "subpixel", "folded")


def made_up(size: str, device: str) -> Generator:
    """A frozen generator in which noise and biases count."""
    with torch.device(device):
        generator = Generator(**arguments(config("model", f"sam_{size}")["decoder"]))
    for layer in (generator.conv1, *generator.convs):
        torch.nn.init.constant_(layer.noise.weight, 0.1)
        torch.nn.init.normal_(layer.activate.bias, std=0.1)
    generator.fused = False
    return generator.requires_grad_(False).eval()


def recorded(work: Callable[[], Any], calls: int) -> Callable[[], None]:
    """Some calls as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            work()
    return graph.replay


class OneLayer:
    """A layer of the fused path, with made-up inputs and gradients."""

    def __init__(self, prepared: Any, index: int, count: int, device: str) -> None:
        self.layer = prepared.convolutions[index]
        self.doubles = hasattr(self.layer, "kernel")
        self.side = 2 ** ((index + 5) // 2)
        self.forms = self.layer.forms()
        self.count, self.item = count, prepared.dtype.itemsize
        given = {"device": device, "dtype": prepared.dtype}
        below = self.side // 2 if self.doubles else self.side
        outputs = self.layer.layer.channels
        self.x = _innermost(torch.randn(count, self.layer.inputs, below, below, **given))
        self.z = _innermost(torch.randn(count, outputs, self.side, self.side, **given))
        self.of_z = _innermost(torch.randn(count, outputs, self.side, self.side, **given))
        self.gain = torch.rand(count, outputs, device=device) + 0.5
        self.style = torch.rand(count, outputs, device=device) + 0.5
        self.noise = torch.randn(1, 1, self.side, self.side, device=device)
        self.colours = {} if self.doubles else {"colours": prepared.colours[index // 2], "rgb_style": self.style}
        half = self.side // 2
        self.below = torch.randn(count, 3, half, half, device=device) if index else None
        self.of_rgb = torch.randn(count, 3, self.side, self.side, device=device)
        self.sums = (torch.empty_like(self.gain), torch.empty_like(self.gain), None)
        if not self.doubles:
            self.sums = (*self.sums[:2], torch.empty_like(self.gain))
        self.name = f"{index}: {self.layer.inputs}->{outputs} {below}->{self.side}"

    def whole(self, form: str, back: bool) -> Any:
        given = (self.gain, self.noise, self.style)
        with torch.no_grad():
            if not self.doubles and back:
                of_rgb = {"of_rgb": self.of_rgb}
                of_convolved = self.layer.of_convolved(self.of_z, self.z, *given, self.sums, **self.colours, **of_rgb)
                return self.layer.backward(form, of_convolved)
            if not self.doubles:
                return self.layer.forward(form, self.x, *given, **self.colours, below=self.below)
            if back:
                return self.layer.backward(form, self.of_z, self.z, *given, self.sums)
            return self.layer.forward(form, self.x, *given)

    def convolution(self, form: str, back: bool) -> Callable[[], Tensor]:
        """The convolution alone, of a map of the right shape."""
        functional = torch.nn.functional
        weight = self.layer.weight(form, back=back)
        if not self.doubles:
            x = self.of_z if back else self.x
            return lambda: self.layer.convolved(form, x, weight)
        if not back:
            if form == "transposed":
                return lambda: functional.conv_transpose2d(self.x, weight, stride=2)
            return lambda: functional.conv2d(self.x, weight, padding=1)
        side, outputs = self.side // 2, self.layer.layer.channels
        size = {"transposed": self.side + 1, "subpixel": side + 1, "folded": side}[form]
        channels = outputs if form == "transposed" else 4 * outputs
        gradient = torch.randn(self.count, channels, size, size, device=self.x.device, dtype=self.x.dtype)
        gradient = _innermost(gradient)
        stride, padding = (2 if form == "transposed" else 1), int(form == "folded")
        return lambda: functional.conv2d(gradient, weight, stride=stride, padding=padding)

    def cost(self, form: str, back: bool) -> Cost:
        return Cost(self.layer.inputs, self.layer.layer.channels, self.side, self.count, self.item, form, back)


def _innermost(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


# ---- what it costs at least ---------------------------------------------------------------------------


class Cost:
    """Operations and bytes of a layer: each map read once and written once by whatever passes over it.

    Args:
        inputs, outputs: channels.
        side: of what is made, pixels.
        count: pictures.
        item: bytes of a number.
        form: of `models.fused.convolutions`.
        back: the way back to the layer's input.
    """

    def __init__(self, inputs: int, outputs: int, side: int, count: int, item: int, form: str, back: bool) -> None:
        pixels = count * side**2
        read, made = inputs * pixels * item, outputs * pixels * item
        # for each output, of each input
        taps = {"cudnn": 9, "paired": 18, "transposed": 9 / 4, "subpixel": 4, "folded": 9}
        if form in FORMS:
            read /= 4
        self.flops = 2 * taps[form] * inputs * outputs * pixels
        self.convolution_bytes = read + made
        noise = side**2 * 4
        colours = 0 if form in FORMS else pixels * 12
        # forward: convolved in, z out, the picture below and this one; back: z and two gradients, and the picture's
        passes = 3 if back else 2
        self.rest_bytes = passes * made + noise + (colours if back else 1.25 * colours)

    def floor(self, peaks: dict[str, float], dtype: str) -> float:
        """Seconds: the convolution at the card's full rate or bandwidth, whichever takes longer, then the rest."""
        memory = peaks["memory_bytes"]
        return max(self.flops / peaks[f"{dtype}_flops"], self.convolution_bytes / memory) + self.rest_bytes / memory


def costs(generator: Generator, count: int, item: int, form: str, back: bool = False) -> list[Cost]:
    """Of each layer, all of one form."""
    found = []
    for index, layer in enumerate([generator.conv1, *generator.convs]):
        outputs, inputs = layer.conv.weight.shape[1:3]
        own = form if layer.conv.resample else "cudnn"
        found.append(Cost(inputs, outputs, 2 ** ((index + 5) // 2), count, item, own, back))
    return found


EFFICIENCY = {"flops": 0.6, "memory": 0.8, "filter": 0.6, "filter, back": 0.5}
"""Shares of the card's peaks that predictions assume: of convolutions, passes over memory, passes with a filter."""


def predicted(
    generator: Generator, count: int, item: int, peaks: dict[str, float], back: bool | None = None
) -> Iterator[dict[str, Any]]:
    """What each layer should take, in the form that should be fastest."""
    memory, rate = peaks["memory_bytes"], peaks["bfloat16_flops"] * EFFICIENCY["flops"]
    totals = {}
    for way in (False, True) if back is None else (back,):
        layers = [costs(generator, count, item, form, way) for form in FORMS]
        for index, forms in enumerate(zip(*layers, strict=True)):
            doubles = index % 2 == 1
            best: dict[str, Any] = {}
            for form, cost in zip(FORMS, forms, strict=True):
                filtered = doubles and form != "folded"
                share = EFFICIENCY["filter, back" if way else "filter"] if filtered else EFFICIENCY["memory"]
                convolution = max(cost.flops / rate, cost.convolution_bytes / memory / EFFICIENCY["memory"])
                rest = cost.rest_bytes / memory / share
                if not best or convolution + rest < best["ms"] / MILLI:
                    best = {
                        "layer": index,
                        "way": "back" if way else "forward",
                        "side": 2 ** ((index + 5) // 2),
                        "form": form if doubles else "cudnn",
                        "GFLOP": cost.flops / 1e9,
                        "MB": (cost.convolution_bytes + cost.rest_bytes) / 1e6,
                        "convolution": convolution * MILLI,
                        "rest": rest * MILLI,
                        "ms": (convolution + rest) * MILLI,
                    }
            yield best
            totals.setdefault(best["way"], []).append(best)
    for way, rows in totals.items():
        sums = {key: sum(row[key] for row in rows) for key in ("GFLOP", "MB", "convolution", "rest", "ms")}
        yield {"layer": "all", "way": way, "side": "", "form": "", **sums}
