"""A stand-in for SAM that gives back the face it was given: what is left is the pipeline's own doing."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mirror(nn.Module):
    """Codes are the face's pixels, (N, 768, 256); the result is the face, brighter by `shift` times the age.

    Args:
        size: side of its results.
        shift: added for each year, in levels of 255.
    """

    def __init__(self, size: int = 256, shift: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("latent_avg", torch.zeros(768, 256))
        self.size, self.shift = size, shift
        self.encoder = self.pretrained_encoder = None  # what a pipeline looks at of a SAM
        self.decoder = SimpleNamespace(size=size, input=None)

    def encode(self, faces: Tensor) -> Tensor:
        return faces.flatten(1, 2)

    def edit(self, faces: Tensor, target_age: Tensor, inversion: Tensor) -> Tensor:
        return inversion + (target_age * self.shift / 127.5)[:, None, None]

    def synthesize(self, w_plus: Tensor, *, resize: bool = True) -> Tensor:
        faces = w_plus.unflatten(1, (3, 256))
        return faces if self.size == 256 else F.interpolate(faces, (self.size, self.size), mode="bicubic")
