"""Our own files: safetensors whose metadata rebuild the network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from sam_age import __version__
from sam_age.errors import InputError
from sam_age.models.stylegan2 import Generator
from sam_age.weights.fit import optional
from sam_age.weights.recognise import FORMAT

HALF_MAX = 65504.0  # largest float16


def save(module: nn.Module, path: str | Path, half: bool = False, facts: dict[str, str] | None = None) -> Path:
    """Write a network's weights and constructor arguments; `load` reads them back.

    Args:
        module: a network with a `config` of plain values.
        path: the file to write, conventionally .safetensors; replaced in one step if it exists.
        half: store the large tensors as float16. What is one-dimensional (biases, norms and their
            statistics, noise strengths) and the average latent stay float32, as does any tensor beyond
            float16's range.
        facts: further metadata, e.g. {"source": "the authors' SAM file"}.
    Returns:
        The path.
    Raises:
        InputError: the module has no config, or the path cannot be written.

    Blur kernels and batch-norm counters are left out: the constructor makes them.
    """
    path = Path(path)
    if not hasattr(module, "config"):
        raise InputError(f"{type(module).__name__} has no config: its file could not be loaded again.")
    metadata = {
        "format": FORMAT,
        "kind": type(module).__name__,
        "config": json.dumps(module.config),
        "sam_age_version": __version__,
        "precision": "float16" if half else "float32",
        **(facts or {}),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(_stored(module, half), temporary, metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # the library has its own error for a full disk
        raise InputError(f"Cannot write {path}: {getattr(error, 'strerror', None) or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _stored(module: nn.Module, half: bool) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in module.state_dict().items() if not optional(name)}
    if isinstance(module, Generator):
        state["latent_avg"] = module.latent_avg  # kept beside the state dict, as in rosinality's files
    return {name: _stored_tensor(name, tensor.detach(), half) for name, tensor in state.items()}


def _stored_tensor(name: str, tensor: Tensor, half: bool) -> Tensor:
    exact = tensor.ndim < 2 or name.endswith("latent_avg") or tensor.dtype != torch.float32
    if half and not exact and tensor.abs().max() <= HALF_MAX:
        tensor = tensor.to(torch.float16)
    return tensor.cpu().contiguous()
