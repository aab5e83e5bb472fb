"""Files in other people's formats, made for the tests: made-up weights under the official names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.sam import PSP, SAM
from sam_age.models.stylegan2 import Generator
from tests.golden import fill, manifest, state_dict

TINY = {"widths": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "tower_width": 16, "style_dim": 32, "n_styles": 8}


def tiny_encoder(in_channels: int) -> GradualStyleEncoder:
    return GradualStyleEncoder(in_channels, **TINY)


def tiny_generator() -> Generator:
    return Generator(32, style_dim=32, n_mlp=2, channel_multiplier=0.0625, channel_max=32)


def tiny_sam() -> SAM:
    """A SAM of the real architecture in 32 pixels, its weights drawn with a fixed seed."""
    torch.manual_seed(7)
    return _shaken(SAM(tiny_encoder(4), tiny_encoder(3), tiny_generator(), torch.randn(8, 32)))


def tiny_psp() -> PSP:
    torch.manual_seed(8)
    return _shaken(PSP(tiny_encoder(3), tiny_generator(), torch.randn(8, 32)))


def _shaken(model: torch.nn.Module) -> Any:
    """Eval mode, with batch statistics and counters as training would leave them, not as built."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(12)
            elif name.endswith("noise.weight"):
                tensor.fill_(0.3)
    return model.eval()


def authors_sam(model: SAM, path: Path, **opts: Any) -> Path:
    """As the authors' training saves: latent_avg beside the state dict."""
    state = {name: value for name, value in model.state_dict().items() if name != "latent_avg"}
    opts = {"output_size": model.decoder.size, "device": "cuda", "checkpoint_path": None, **opts}
    torch.save({"state_dict": state, "latent_avg": model.latent_avg, "opts": opts}, path)
    return path


def authors_psp(model: PSP, path: Path) -> Path:
    state = {name: value for name, value in model.state_dict().items() if name != "latent_avg"}
    opts = {"start_from_latent_avg": True}
    torch.save({"state_dict": state, "latent_avg": model.latent_avg, "opts": opts}, path)
    return path


def filled(name: str, part: str = "state_dict", prefix: str = "") -> dict[str, Tensor]:
    """The golden cases' weights under the names of an official file."""
    return state_dict(manifest(name)[part], prefix)


def filled_latent_avg(*shape: int) -> Tensor:
    return fill({"latent_avg": shape})["latent_avg"]


def empty(name: str, part: str = "state_dict") -> dict[str, Tensor]:
    """Zeros of an official file's names and shapes, next to nothing on disk."""
    shapes = {key: (shape, getattr(torch, dtype)) for key, (shape, dtype) in manifest(name)[part].items()}
    return {key: torch.zeros(1, dtype=dtype).expand(*shape) if shape else torch.zeros((), dtype=dtype)
            for key, (shape, dtype) in shapes.items()}  # fmt: skip
