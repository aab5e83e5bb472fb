"""Stand-ins for SAM and its judges whose every answer is known beforehand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

YEARS = 0.006  # by how much a picture grows lighter in a year


class Thumbnails(nn.Module):
    """In the place of SAM: a face's code is the face itself, shrunk to `side` pixels, and ageing makes it lighter.

    At 256 pixels it inverts perfectly. `strength` is the share of the years asked for that it does add.
    """

    def __init__(self, side: int = 256, strength: float = 1.0) -> None:
        super().__init__()
        self.side, self.strength = side, strength
        self.register_buffer("latent_avg", torch.zeros(3, side * side))

    def encode(self, faces: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(faces, self.side).flatten(2)

    def edit(
        self, faces: torch.Tensor, target_age: torch.Tensor, inversion: torch.Tensor | None = None
    ) -> torch.Tensor:
        inversion = self.encode(faces) if inversion is None else inversion
        years = self.strength * (target_age - Lightness()(faces))
        return inversion + YEARS * years[:, None, None]

    def synthesize(self, w_plus: torch.Tensor) -> torch.Tensor:
        small = w_plus.view(-1, 3, self.side, self.side)
        return F.interpolate(small, size=(256, 256), mode="bilinear") if self.side < 256 else small


class Lightness(nn.Module):
    """Reads the age of `life`'s portraits exactly, but for the rounding of pixels."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return 50 + faces.mean((1, 2, 3)) / YEARS

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [F.avg_pool2d(images, 4), F.avg_pool2d(images, 8)]


class Pattern(nn.Module):
    """Knows people of `life` by their patterns, at whatever lightness."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        shrunk = F.adaptive_avg_pool2d(faces, 8).flatten(1)
        return F.normalize(shrunk - shrunk.mean(1, keepdim=True))


def life(person: int, ages: list[float]) -> torch.Tensor:
    """A person's portraits (A, 3, 256, 256): a pattern that is all theirs, of mean 0, and their age's lightness."""
    pattern = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(person)) - 0.5
    pattern = (pattern - pattern.mean()) * 0.6
    large = F.interpolate(pattern[None], size=(256, 256), mode="nearest")
    years = torch.tensor(ages, dtype=torch.float32).view(-1, 1, 1, 1)
    exact = large + YEARS * (years - 50)
    return ((exact + 1) * 127.5).round() / 127.5 - 1
