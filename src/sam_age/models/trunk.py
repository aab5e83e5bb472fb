"""A small residual trunk, shared by the networks that judge the lifespan set, and the choice of another."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.convolve import Conv2d
from sam_age.models.resample import crop_and_pool

TRUNKS = ("residual", "convnext")
"""The losses' networks have the first; those that evaluate alone have the second, so as not to share its mistakes."""

GROUPS = 8  # channels are normalised in this many groups


def build_trunk(kind: str, widths: Sequence[int], depths: Sequence[int], image_size: int) -> nn.Module:
    """A trunk by its name in `TRUNKS`: face (N, 3, H, W) -> a list of maps, fine to coarse."""
    if kind not in TRUNKS:
        raise InputError(f"There is no trunk {kind!r}; known: {', '.join(TRUNKS)}.")
    if kind == "residual":
        return ResidualTrunk(widths, depths, image_size)
    from sam_age.models.convnext import ConvNeXtTrunk  # it needs `check_stages` from here

    return ConvNeXtTrunk(widths, depths, image_size)


def check_stages(widths: Sequence[int], depths: Sequence[int], *, multiple: int) -> None:
    """A width (a multiple of `multiple`) and a depth for each stage, at least one.

    Raises:
        InputError: anything else.
    """
    usable = all(w > 0 and w % multiple == 0 for w in widths) and all(d > 0 for d in depths)
    if len(widths) != len(depths) or not widths or not usable:
        raise InputError(
            f"widths {list(widths)} and depths {list(depths)}: give a width (a multiple of {multiple}) "
            f"and a depth (1 or more) for each stage."
        )


class ResidualTrunk(nn.Module):
    """Face -> one map per stage, each half the size of the one before.

    Group normalisation instead of batch normalisation: a prediction does not depend on its neighbours in the
    batch, and there are no running statistics to drift while the network is frozen.

    Args:
        widths: channels of each stage, multiples of 8.
        depths: residual units of each stage.
        image_size: faces are averaged down (or repeated up) to this side first, pixels.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], image_size: int) -> None:
        super().__init__()
        check_stages(widths, depths, multiple=GROUPS)
        if image_size < 2 ** (len(widths) + 1):
            raise InputError(f"image_size {image_size} is too small for {len(widths)} stages that halve it.")
        self.image_size = image_size
        self.stem = Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.stages = nn.ModuleList()
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            inputs = [channels] + [width] * (depth - 1)
            units = (_Unit(i, width, s) for i, s in zip(inputs, strides, strict=True))
            self.stages.append(nn.Sequential(*units))
            channels = width

    def forward(self, faces: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [-1, 1] -> (N, widths[i], s, s) for stage i, s = image_size / 2^(i + 1)."""
        height, width = faces.shape[-2:]
        x = self.stem(crop_and_pool(faces, (0, height), (0, width), self.image_size))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _Unit(nn.Module):
    """Pre-activation residual unit (He et al. 2016)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.silu(self.norm1(x))
        y = self.conv2(F.silu(self.norm2(self.conv1(active))))
        return y + (x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active))
