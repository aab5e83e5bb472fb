"""Put tensors into a network strictly, and say what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sam_age.errors import InputError

CLASSES = {
    "SAM": "sam_age.models.sam",
    "PSP": "sam_age.models.sam",
    "GradualStyleEncoder": "sam_age.models.encoder",
    "Generator": "sam_age.models.stylegan2",
    "Discriminator": "sam_age.models.stylegan2",
    "ArcFace": "sam_age.models.identity",
    "FaceNet": "sam_age.models.identity",
    "FaceEmbedder": "sam_age.models.identity",
    "DEX": "sam_age.models.age",
    "AgeAndGender": "sam_age.models.age",
    "AgeClassifier": "sam_age.models.age",
    "LPIPS": "sam_age.models.perceptual",
    "LatentBaselines": "sam_age.evaluation.baselines",
    "LatentDirection": "sam_age.editing.directions",
}
"""Networks that a file alone rebuilds: class name -> module. Only these are ever built from metadata."""


class _NoRandomInit(TorchFunctionMode):
    """Leave out the drawing of initial weights: every one of them is about to be replaced.

    The memory is reserved but never touched, so a full-size model is built in no time and no room.
    Fixed buffers (blur kernels, constants) keep their values, which building on the meta device would lose.
    """

    IN_PLACE = frozenset(f"{how}{law}_" for how in ("", "kaiming_", "xavier_") for law in ("normal", "uniform"))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("randn", "rand"):
            kwargs.pop("generator", None)
            return torch.empty(*args, **kwargs)
        if name in self.IN_PLACE:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build(kind: str, config: Mapping[str, Any], source: str) -> nn.Module:
    """The network of a class name and its constructor arguments, weights unset.

    Raises:
        InputError: an unknown class, or arguments that it does not take.
    """
    if kind not in CLASSES:
        raise InputError(f"{source} holds a {kind!r}, which is no network of sam-age: {', '.join(CLASSES)}.")
    network = getattr(import_module(CLASSES[kind]), kind)
    try:
        with _NoRandomInit():
            return network.from_config(dict(config)) if hasattr(network, "from_config") else network(**config)
    except (TypeError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0][:200]
        raise InputError(f"{source}: no {kind} can be built from its arguments ({first}).") from None


def optional(name: str) -> bool:
    """Entries that files may leave out: fixed blur kernels, and batch norm's counters."""
    return name.endswith(".kernel") or name == "kernel" or name.endswith("num_batches_tracked")


def differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps `given` from being `expected`, a phrase for each sort; empty where it fits."""
    missing = [name for name in expected if name not in given and not optional(name)]
    extra = [name for name in given if name not in expected and not optional(name)]
    reshaped = [
        f"{name} {list(given[name].shape)} where {list(tensor.shape)} is expected"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    return [
        f"{len(found)} {what} ({_first(found)})"
        for found, what in ((missing, "missing"), (extra, "unexpected"), (reshaped, "mis-shaped"))
        if found
    ]


def _first(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def assign(module: nn.Module, state: dict[str, Tensor], path: Path, looks_like: str, copy: bool) -> None:
    """Give `module` exactly these weights, as float32 on its own memory.

    Args:
        state: tensors by the names of the module's state dict; blur kernels and counters may be absent. It is
            emptied on the way, so that a file in half precision is not held beside its float32 copy.
        looks_like: what to call the file in a message.
        copy: the tensors are views of a file.
    Raises:
        InputError: tensors missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    if wrong := differences(expected, state):
        raise InputError(
            f"{path} looks like {looks_like}, but its tensors do not fit: {'; '.join(wrong)}. "
            f"It is another model's file or an incomplete one; `sam-weights inspect` shows what it holds."
        )
    own = {name: _owned(state.pop(name, None), tensor, name, copy) for name, tensor in expected.items()}
    module.load_state_dict(own, strict=True, assign=True)


def _owned(given: Tensor | None, built: Tensor, name: str, copy: bool) -> Tensor:
    if given is None:  # a counter restarts, a kernel is as built
        return torch.zeros_like(built) if name.endswith("num_batches_tracked") else built
    value = given.to(built.dtype)
    if value is given and (copy or not value.is_contiguous()):
        value = value.clone(memory_format=torch.contiguous_format)
    return value
