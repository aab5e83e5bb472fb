"""Reads the golden numbers: what the authors' code computed from made-up weights and made-up inputs.

    case = Golden()["encoder18"]
    inputs = case.tensors()                         # {name: tensor}
    fill_module(network, prefix="encoder.")         # the weights the numbers were made with
    assert_matches(case, {"codes": network(...)})   # full-size arrays; tolerances come with the numbers

Where the numbers come from and how the tolerances were chosen: README.md in this folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .formulas import SEED, filled_tensor, made_input, picture_u8, standard_normal

__all__ = ["SEED", "Case", "Golden", "Row", "assert_matches", "fill", "fill_module", "manifest", "state_dict"]

FOLDER = Path(__file__).resolve().parent


class Row(NamedTuple):
    """One comparison: the output's name, how far off it is, how far off it may be, and the verdict."""

    output: str
    error: float
    tolerance: float
    ok: bool


class Case:
    """The inputs, settings and expected outputs of one golden case.

    Attributes:
        doc: what was computed, in a few sentences.
        params: the case's settings (ages, layer numbers, factors).
        notes: orders of vectors, names of parameters, step numbers.
        outputs: name -> shape, comparison mode and tolerance of each output.
    """

    def __init__(self, name: str, spec: dict[str, Any], folder: Path = FOLDER) -> None:
        self.name = name
        self.doc: str = spec["doc"]
        self.params: dict[str, Any] = spec["params"]
        self.notes: dict[str, Any] = spec["notes"]
        self.outputs: dict[str, dict[str, Any]] = spec["outputs"]
        self._recipes: dict[str, dict[str, Any]] = spec["inputs"]
        self._stored: list[str] = spec["stored_inputs"]
        with np.load(folder / f"{name}.npz") as file:
            self._arrays = dict(file)

    def inputs(self) -> dict[str, np.ndarray]:
        """Every input by name: regenerated from its recipe, or as stored. Images are NCHW."""
        made = {name: made_input(recipe) for name, recipe in self._recipes.items()}
        return made | {name: self._arrays[f"in.{name}"] for name in self._stored}

    def tensors(self, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """`inputs()` as tensors."""
        return {name: torch.from_numpy(np.array(x)).to(device) for name, x in self.inputs().items()}

    def expected(self, output: str) -> np.ndarray:
        """The stored array of an output that is stored whole.

        Raises:
            KeyError: the output is not of this case, or only a reduction of it is stored.
        """
        return self._arrays[f"out.{output}"]

    def check(self, got: Mapping[str, Any], factor: float = 1.0) -> list[Row]:
        """Compare outputs (arrays or tensors, full size) with the stored numbers.

        Args:
            got: output name -> array; any subset of the case's outputs.
            factor: multiplies every tolerance, for arithmetic coarser than float32.
        """
        return [row for name, value in got.items() for row in self._compare(name, _array(value), factor)]

    def _compare(self, name: str, got: np.ndarray, factor: float) -> Iterator[Row]:
        spec = self.outputs[name]
        if list(got.shape) != spec["shape"]:
            raise AssertionError(f"{self.name}.{name}: shape {list(got.shape)}, expected {spec['shape']}")
        mode = spec["mode"]
        if mode == "exact":
            differs = float(not np.array_equal(got, self.expected(name)))
            yield Row(name, differs, 0.0, differs == 0)
        elif mode == "image_u8":
            difference = np.abs(got.astype(np.int64) - self.expected(name).astype(np.int64))
            found = {"mean_abs": difference.mean(), "fraction_over_2": (difference > 2).mean()}
            for part, error in found.items():
                tolerance = spec["tol"][part] * factor
                yield Row(f"{name}.{part}", float(error), tolerance, bool(error <= tolerance))
        else:
            tolerance = spec["tol"] * factor
            for part, value in self._parts(spec, got).items():
                want = self._arrays[f"out.{name}{part}"]
                error = _error(mode, value, want, spec["max_abs"] if part else None)
                yield Row(name + part, error, tolerance, error <= tolerance)

    @staticmethod
    def _parts(spec: dict[str, Any], got: np.ndarray) -> dict[str, np.ndarray]:
        """The array itself, or the reductions that stand for a large one."""
        if "store" not in spec:
            return {"": got}
        store = spec["store"]
        parts = _reduced(got, store["channel_stride"], store["stride"], store["blocks"])
        if spec["mode"] == "l2":  # the extremes of a gradient jump when one rectifier flips
            del parts[".stats"]
        return parts


class Golden(Mapping[str, Case]):
    """The golden cases by name."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.index: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if self.index["seed"] != SEED:
            raise ValueError(f"{folder} was made with seed {self.index['seed']}, not the formulas' {SEED}.")

    def __getitem__(self, name: str) -> Case:
        return Case(name, self.index["cases"][name], self.folder)

    def __iter__(self) -> Iterator[str]:
        return iter(self.index["cases"])

    def __len__(self) -> int:
        return len(self.index["cases"])

    def random_numbers_agree(self) -> bool:
        """Whether this machine's numpy draws the numbers that the set was made with."""
        expected = self.index["selftest"]
        normal = standard_normal("selftest", (1000, 1000)).astype("<f4")
        picture = picture_u8("selftest", 2, 64, 48)
        return (_sha256(normal), _sha256(picture)) == (expected["normal_sha256"], expected["image_u8_sha256"])


def assert_matches(case: Case, got: Mapping[str, Any], factor: float = 1.0) -> None:
    """Fail with a table of what is off: one line per output with its error and tolerance."""
    rows = case.check(got, factor)
    if not rows:
        raise AssertionError(f"{case.name}: nothing was compared.")
    if not all(row.ok for row in rows):
        lines = (
            f"  {'ok ' if row.ok else 'OFF'} {row.output}: error {row.error:.3g}, allowed {row.tolerance:.3g}"
            for row in rows
        )
        raise AssertionError("\n".join([f"{case.name} does not match the golden numbers:", *lines]))


def fill(shapes: Mapping[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """The made-up weights of tensors known by name and shape, float32.

    Args:
        shapes: name -> shape, or name -> [shape, dtype] as in a manifest.
        prefix: put before each name where the numbers are derived from it, not in the result
            (`fill(encoder_shapes, prefix="encoder.")` gives a SAM checkpoint's encoder).
    Returns:
        name -> tensor, without the names that keep what the model builds (blur kernels, batch counters).
    """
    plain = {name: _shape(value) for name, value in shapes.items()}
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in plain.items():
        normalised = f"{name.rpartition('.')[0]}.running_mean" in plain
        array = filled_tensor(prefix + name, shape, of_batch_norm=normalised)
        if array is not None:
            tensors[name] = torch.from_numpy(np.asarray(array))
    return tensors


def fill_module(module: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
    """Fill a module's state dict in place by its own names, as `fill` does; returns the module."""
    own = module.state_dict()
    made = fill({name: tuple(tensor.shape) for name, tensor in own.items()}, prefix)
    with torch.no_grad():
        for name, tensor in made.items():
            own[name].copy_(tensor)
    return module


@cache
def manifest(name: str) -> dict[str, Any]:
    """What an official file holds, e.g. `manifest("sam64")["state_dict"]`: name -> [shape, dtype], in order.

    Names: dex_age_classifier, lpips_alex, model_ir_se50, psp_ffhq_encode, sam64, sam1024, small,
    stylegan2_ffhq_config_f. Read it, do not change it: the value is shared.
    """
    return json.loads((FOLDER / "manifests" / f"{name}.json").read_text(encoding="utf-8"))


def state_dict(shapes: Mapping[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """`fill`, plus the kept entries: a complete state dict in a manifest's names and order.

    Blur kernels are the outer product of [1, 3, 3, 1] with sum 1, times 4 after an upsampling by two;
    `num_batches_tracked` is 0.
    """
    made = fill(shapes, prefix)
    return {name: made[name] if name in made else _kept(prefix + name) for name in shapes}


def _kept(name: str) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(line, line)
    layer = name.split("convs.")[-1].split(".")[0]
    after_upsampling = "to_rgbs." in name or (".conv.blur." in name and int(layer) % 2 == 0)
    return kernel * 4 if after_upsampling else kernel


def _shape(value: Any) -> tuple[int, ...]:
    nested = len(value) == 2 and isinstance(value[1], str)
    return tuple(value[0] if nested else value)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
    return np.asarray(value)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _reduced(array: np.ndarray, channel_stride: int, stride: int, blocks: int) -> dict[str, np.ndarray]:
    """What is stored of a large (..., C, H, W) array: strided values, block means, four statistics."""
    channels = array[..., ::channel_stride, :, :]
    height, width = (size // blocks for size in channels.shape[-2:])
    cut = channels[..., : height * blocks, : width * blocks].astype(np.float64)
    cells = cut.reshape(*channels.shape[:-2], height, blocks, width, blocks)
    whole = array.astype(np.float64)
    return {
        ".sub": channels[..., ::stride, ::stride],
        ".blocks": cells.mean((-3, -1)),
        ".stats": np.array([whole.mean(), whole.std(), whole.min(), whole.max()]),
    }


def _error(mode: str, got: np.ndarray, want: np.ndarray, scale: float | None) -> float:
    """Distance in the case's own measure.

    scale: largest difference, relative to the largest expected value of the whole output;
    each: largest relative difference, element by element; l2: relative difference of the norm.
    """
    got, want = got.astype(np.float64), want.astype(np.float64)
    if not np.isfinite(got).all():
        return float("inf")
    difference = np.abs(got - want)
    if mode == "each":
        return float((difference / np.maximum(np.abs(want), 1e-6)).max())
    if mode == "l2":
        return float(np.linalg.norm(difference) / max(np.linalg.norm(want), 1e-30))
    if mode == "scale":
        return float(difference.max() / max(np.abs(want).max() if scale is None else scale, 1e-30))
    raise ValueError(f"Unknown comparison mode {mode!r}; known: scale, each, l2, exact, image_u8.")
