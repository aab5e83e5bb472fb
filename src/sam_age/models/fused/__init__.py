"""The generator on GPUs with Triton, fast: `Generator.synthesize` goes this way where `reason_against` is None."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sam_age.models.convolve import takes_second_gradients

if TYPE_CHECKING:
    from sam_age.models.stylegan2 import Generator

log = logging.getLogger("sam_age")

DTYPES = (torch.bfloat16, torch.float32)  # float16 has not the range for activations times styles


def compute_dtype(generator: Generator, device: torch.device) -> torch.dtype:
    """What the generator's convolutions run in: autocast's dtype where it is on, the weights' elsewhere."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return generator.input.input.dtype


def reason_against(generator: Generator, w_plus: Tensor, maps: list[Tensor]) -> str | None:
    """Why `synthesize` must go the plain way, or None where the fused one serves. It looks at no value."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "a compiler or an exporter takes the plain operations"
    if w_plus.device.type != "cuda" and not interpreted():
        return _no_cuda(w_plus.device.type)
    dtype = compute_dtype(generator, w_plus.device)
    if dtype not in DTYPES:
        return f"it computes in bfloat16 and float32, not {dtype}"
    if len(generator.config["blur_kernel"]) != 4:
        return "it knows filters of four taps"
    if any(layer.activate.bias.shape[0] % 8 for layer in (generator.conv1, *generator.convs)):
        return "its channels come in eights"
    if w_plus.shape[0] == 0 or w_plus.shape[0] > 65535:
        return "there is no picture to make, or more than 65535"
    # without gradients too: weights that learn would be prepared anew at every call, and not all optimizers (PyTorch's
    # fused ones) count their changes, by which it is seen that they must be
    if any(parameter.requires_grad for parameter in synthesis_parameters(generator)):
        return "the generator's own parameters want gradients: generator.requires_grad_(False) freezes them"
    if torch.is_grad_enabled():
        if takes_second_gradients():
            return "gradients of gradients are asked for"
        if any(noise.requires_grad for noise in maps):
            return "the noise wants gradients"
    if any(tensor.device != w_plus.device for tensor in (generator.input.input, *maps)):
        return "codes, noise and weights are on different devices"  # the plain path says so in PyTorch's words
    if any(noise.shape[:2] not in ((1, 1), (len(w_plus), 1)) for noise in maps) or not _sides_fit(maps):
        return "the noise is not one value a pixel"
    if dtype == torch.bfloat16 and w_plus.is_cuda and torch.cuda.get_device_capability(w_plus.device)[0] < 8:
        return "this GPU has no bfloat16"
    return trouble(w_plus.device)


@lru_cache
def _no_cuda(kind: str) -> str:
    """Told once, and not as a warning: a machine without a GPU has nothing to mend."""
    log.info("The generator takes its plain path here: the fused one is for CUDA, not %s.", kind)
    return f"it is for CUDA, not {kind}"


def _sides_fit(maps: list[Tensor]) -> bool:
    return all(tuple(noise.shape[2:]) == (2 ** ((i + 5) // 2),) * 2 for i, noise in enumerate(maps))


def synthesis_parameters(generator: Generator) -> list[Tensor]:
    """All but those of the mapping network."""
    parts = (generator.input, generator.conv1, generator.to_rgb1, generator.convs, generator.to_rgbs)
    return [parameter for part in parts for parameter in part.parameters()]


@lru_cache
def trouble(device: torch.device) -> str | None:
    """What keeps Triton from running on a GPU, if anything: tried once, and told once."""
    if importlib.util.find_spec("triton") is None:
        reason, help_ = "Triton is not installed", "`pip install triton` helps."
    else:
        try:
            _try(device)
        except Exception as error:  # a missing C compiler, a GPU too old, ...: whatever it is, the plain path goes
            reason = f"Triton does not run here ({type(error).__name__}: {str(error).strip().splitlines()[-1:]})"
            help_ = "It needs a C compiler (gcc) and a GPU from Volta on."
        else:
            return None
    log.warning("%s: slower plain paths are taken. %s", reason, help_)
    return reason


def _try(device: torch.device) -> None:
    """Run the smallest kernel."""
    from sam_age.models.fused.launch import skip_backward

    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        skip_backward(torch.zeros(1, 1, 2, 2, device=device), (0.0, 1.0, 1.0, 0.0))


def interpreted() -> bool:
    """Triton's interpreter runs the kernels on a CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
