"""A small ConvNeXt, for the networks that evaluate alone: built otherwise than those that the losses look through.

Source: Liu et al. 2022, "A ConvNet for the 2020s".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.resample import crop_and_pool
from sam_age.models.trunk import check_stages

PATCH = 4  # pixels; side of the patches that the stem reads
SCALE = 1e-1  # of each block's contribution at first; the paper's 1e-6 is for far deeper trunks


class ConvNeXtTrunk(nn.Module):
    """Face -> one map per stage, the first a quarter of the side, each other half of the one before.

    Args:
        widths: channels of each stage, multiples of 8.
        depths: blocks of each stage.
        image_size: faces are averaged down (or repeated up) to this side first, pixels; a multiple of 4 and of
            another 2 for each stage after the first.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], image_size: int) -> None:
        super().__init__()
        check_stages(widths, depths, multiple=8)
        coarsest = PATCH * 2 ** (len(widths) - 1)
        if image_size < coarsest or image_size % coarsest:
            raise InputError(f"image_size {image_size} for {len(widths)} stages: give a multiple of {coarsest}.")
        self.image_size = image_size
        self.stages = nn.ModuleList()
        channels = 3
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            step = PATCH if stage == 0 else 2
            shrink = nn.Conv2d(channels, width, step, step)
            first = [shrink, ChannelNorm(width)] if stage == 0 else [ChannelNorm(channels), shrink]
            self.stages.append(nn.Sequential(*first, *(_Block(width) for _ in range(depth))))
            channels = width

    def forward(self, faces: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [-1, 1] -> (N, widths[i], s, s) for stage i, s = image_size / 2^(i + 2)."""
        height, width = faces.shape[-2:]
        x = crop_and_pool(faces, (0, height), (0, width), self.image_size)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels at each position: (N, C, H, W) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Block(nn.Module):
    """A 7x7 convolution of each channel alone, then two linear layers at each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, 4 * channels, 1)
        self.reduce = nn.Conv2d(4 * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), SCALE))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x))
        return x + self.scale * self.reduce(F.gelu(self.expand(y)))
