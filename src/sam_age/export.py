"""ONNX: the model as two graphs that run without PyTorch, checked against it.

    encoder.onnx      faces (N, 3, 256, 256) in [-1, 1], age (N,) years -> w_plus (N, n_styles, D)
    generator.onnx    w_plus -> image (N, 3, size, size), nominally in [-1, 1]; the stored noise is in the graph

N is free. Between the two lies w+, so that a program may mix, dial and move codes as sam_age.editing does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from sam_age import __version__
from sam_age.errors import InputError
from sam_age.models.sam import FACE_SIZE, SAM

log = logging.getLogger("sam_age")

TOLERANCE = 1e-3  # largest difference to PyTorch, of w+ and of pixels in [-1, 1], by their own largest value
OPSET = 18
PARTS = ("encoder", "generator")
LARGEST_WHOLE = 1 << 30  # bytes of weights that go into the .onnx itself; protobuf ends at 2 GiB


class _AgeEncoder(nn.Module):
    """Face and age -> w+, both encoders and the average."""

    def __init__(self, sam: SAM) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, faces: Tensor, age: Tensor) -> Tensor:
        return self.sam.edit(faces, age)


class _Synthesis(nn.Module):
    """w+ -> image at the generator's size."""

    def __init__(self, sam: SAM) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, w_plus: Tensor) -> Tensor:
        return self.sam.synthesize(w_plus, resize=False)


@dataclass(frozen=True)
class Exported:
    """A graph that was written."""

    path: Path
    bytes: int  # of the file and, where the weights lie beside it, of theirs
    difference: float | None  # largest one to PyTorch as a share of the largest value; None: not checked


def export_onnx(
    sam: SAM, folder: str | Path, *, parts: Sequence[str] = PARTS, check: bool = True
) -> dict[str, Exported]:
    """Write encoder.onnx and generator.onnx, float32, for any batch size.

    Weights of more than a gigabyte lie beside the graph, in encoder.onnx.data: keep the two together.

    Args:
        sam: the model, on a CPU.
        folder: where to; made if it is not there.
        parts: one of them alone, for example.
        check: run both by onnxruntime on one and on three made-up inputs, and compare with PyTorch.
    Returns:
        Part -> what was written.
    Raises:
        InputError: onnx and onnxscript are not installed (or onnxruntime, to check), or the folder cannot be written.
        RuntimeError: a graph that differs from PyTorch by more than `TOLERANCE`; nothing is left of it.
    """
    if not parts or not set(parts) <= set(PARTS):
        raise InputError(f"parts are {' and '.join(PARTS)}, or one of them, not {parts!r}.")
    needed = ["onnx", "onnxscript", *(["onnxruntime"] if check else [])]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise InputError(f"Export to ONNX needs {' and '.join(missing)}: pip install 'sam-age[onnx]'.")
    if sam.latent_avg.device.type != "cpu":
        raise InputError(f"Export to ONNX starts from a model on the CPU, this one is on {sam.latent_avg.device}.")
    folder = Path(folder)
    sam = sam.eval()
    draws = torch.Generator().manual_seed(0)
    faces = torch.rand(3, 3, FACE_SIZE, FACE_SIZE, generator=draws) * 2 - 1
    ages = torch.tensor([5.0, 80.0, 33.5])
    with torch.no_grad():
        codes = sam.edit(faces, ages)
    size = sam.decoder.size
    made: dict[str, Exported] = {}
    for name, network, inputs, output, said in (
        ("encoder", _AgeEncoder(sam), {"faces": faces, "age": ages}, "w_plus",
         f"faces: (N, 3, {FACE_SIZE}, {FACE_SIZE}) RGB in [-1, 1], aligned as FFHQ; age: (N,) years, 0-100"),
        ("generator", _Synthesis(sam), {"w_plus": codes}, "image",
         f"image: (N, 3, {size}, {size}) RGB, nominally in [-1, 1], not clipped"),
    ):  # fmt: skip
        if name in parts:
            made[name] = _write(network.eval(), inputs, output, folder / f"{name}.onnx", said, check)
    return made


def _write(
    network: nn.Module, inputs: dict[str, Tensor], output: str, path: Path, said: str, check: bool
) -> Exported:  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as place:
            made = Path(place) / path.name  # the graph names the file of its weights, so this is its name already
            _trace(network, inputs, output, made, said)
            difference = compare(network, inputs, made) if check else None
            if difference is not None and not difference <= TOLERANCE:
                raise RuntimeError(f"{path.name} differs from PyTorch by {difference:.2g}, more than {TOLERANCE:g}.")
            files = sorted(Path(place).iterdir(), key=lambda file: file == made)  # the graph last
            total = sum(file.stat().st_size for file in files)
            for file in files:
                file.replace(path.parent / file.name)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from None
    log.info("%s: %.1f MB%s.", path, total / 1e6, "" if difference is None else f", within {difference:.1g} of PyTorch")
    return Exported(path, total, difference)


def _trace(network: nn.Module, inputs: dict[str, Tensor], output: str, path: Path, said: str) -> None:
    import onnx

    batch = torch.export.Dim("batch", min=1)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    with _quiet():
        program = torch.onnx.export(
            network,
            tuple(value[:2] for value in inputs.values()),  # of one, the exporter would fix the batch size
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes={name: {0: batch} for name in inputs},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto if weights <= LARGEST_WHOLE else None
    if model is None:
        program.save(str(path), external_data=True)
        model = onnx.load(str(path), load_external_data=False)
    model.producer_name, model.producer_version, model.doc_string = "sam-age", __version__, said
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]  # stack traces with the paths of this machine
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    onnx.save(model, str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of things inside of itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@torch.no_grad()
def compare(network: nn.Module, inputs: dict[str, Tensor], path: Path, batches: Sequence[int] = (1, 3)) -> float:
    """The largest difference between onnxruntime and PyTorch, as a share of the largest value of PyTorch's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in batches:
        some = {name: value[:count] for name, value in inputs.items()}
        wanted = network(*some.values()).numpy()
        (found,) = session.run(None, {name: value.numpy() for name, value in some.items()})
        if found.shape != wanted.shape:
            raise RuntimeError(f"{path.name} gives {found.shape} where PyTorch gives {wanted.shape}.")
        worst = max(worst, float(np.abs(found - wanted).max() / np.abs(wanted).max()))
    return worst
