"""The pSp encoder: an IR-SE trunk, a feature pyramid, and one small tower per style vector.

State-dict keys are those of the authors' checkpoints (`input_layer`, `body`, `latlayer1`, `latlayer2`,
`styles.<i>.convs`, `styles.<i>.linear`), so their files load without a rename table.

Sources: pSp (Richardson et al. 2021), section 3.1; SAM (Alaluf et al. 2021), section 3.2; the trunk is
ArcFace's IR-SE-50 (Deng et al. 2019; squeeze and excitation after Hu et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.models.convolve import Conv2d
from sam_age.models.ops import EqualLinear
from sam_age.models.side_by_side import shares, side_by_side

COARSE_STYLES = 3  # styles 0-2 read the deepest map, 1/16 of the image
MIDDLE_STYLES = 4  # styles 3-6 read the 1/8 map; all others the 1/4 map


class SqueezeExcite(nn.Module):
    """Reweight channels by what the whole map holds: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(squeezed))))


class Subsample(nn.Module):
    """Every `stride`-th row and column: what the authors write as max pooling over one pixel, which would copy the map
    and keep an index for each of its numbers."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x if self.stride == 1 else x[..., :: self.stride, :: self.stride]


class IRSEUnit(nn.Module):
    """Improved-residual unit with squeeze and excitation; `stride` 2 halves the map."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        if in_channels == channels:
            self.shortcut_layer: nn.Module = Subsample(stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            SqueezeExcite(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


def input_layer(in_channels: int, width: int) -> nn.Sequential:
    """The trunk's stem: a 3x3 convolution at full resolution, batch norm, PReLU."""
    return nn.Sequential(Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width))


def ir_se_body(widths: Sequence[int] = (64, 128, 256, 512), depths: Sequence[int] = (3, 4, 14, 3)) -> nn.Sequential:
    """The trunk's residual units, block after block; each block halves the map once.

    The default is IR-SE-50. `widths[b]` channels and `depths[b]` units in block b.
    """
    units: list[nn.Module] = []
    in_channels = widths[0]
    for width, depth in zip(widths, depths, strict=True):
        for position in range(depth):
            units.append(IRSEUnit(in_channels, width, stride=2 if position == 0 else 1))
            in_channels = width
    return nn.Sequential(*units)


class MapToStyle(nn.Module):
    """map2style: shrink a square feature map to one style vector, (N, C, S, S) -> (N, style_dim)."""

    def __init__(self, in_channels: int, width: int, style_dim: int, size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(int(math.log2(size))):
            layers += [nn.Conv2d(in_channels, width, 3, 2, 1), nn.LeakyReLU(0.01)]
            in_channels = width
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(width, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class GradualStyleEncoder(nn.Module):
    """Face -> style vectors, from coarse (0) to fine (n_styles - 1).

    Args:
        in_channels: 4 for the age encoder (RGB and target age / 100), 3 for the inversion encoder.
        n_styles: style vectors to predict, 2 log2(generator size) - 2; 18 for 1024.
        style_dim: length of each.
        widths: channels of the trunk's four blocks.
        depths: residual units in each block.
        tower_width: channels inside each map2style tower.
        image_size: side of the input in pixels, a power of two of at least 32.

    The defaults are the authors' 267 M parameters. The same class with other numbers is a small encoder:
    `GradualStyleEncoder(3, 14, widths=(24, 48, 96, 128), depths=(2, 2, 3, 2), tower_width=64)`.
    """

    def __init__(
        self,
        in_channels: int = 4,
        n_styles: int = 18,
        style_dim: int = 512,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (3, 4, 14, 3),
        tower_width: int = 512,
        image_size: int = 256,
    ) -> None:
        super().__init__()
        if len(widths) != 4 or len(depths) != 4:
            raise ValueError(f"The trunk has four blocks; got widths {widths} and depths {depths}.")
        if image_size < 32 or image_size & (image_size - 1):
            raise ValueError(f"image_size must be a power of two from 32 up, not {image_size}.")
        self.config = {
            "in_channels": in_channels,
            "n_styles": n_styles,
            "style_dim": style_dim,
            "widths": list(widths),
            "depths": list(depths),
            "tower_width": tower_width,
            "image_size": image_size,
        }
        self.in_channels, self.image_size = in_channels, image_size
        self.input_layer = input_layer(in_channels, widths[0])
        self.body = ir_se_body(widths, depths)
        *_, fine, middle, coarse = (end - 1 for end in accumulate(depths))
        self._taps = (fine, middle, coarse)  # last unit of blocks 2, 3 and 4: 6, 20 and 23 by default
        self.latlayer1 = nn.Conv2d(widths[2], widths[3], 1)
        self.latlayer2 = nn.Conv2d(widths[1], widths[3], 1)
        self.styles = nn.ModuleList(
            MapToStyle(widths[3], tower_width, style_dim, image_size // self._reduction(i)) for i in range(n_styles)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Copies are as written, as PyTorch has it of `Module.compile`: what torch.compile made of `tower_maps` would
        go on computing with this one's weights."""
        state = super().__getstate__()
        state.pop("tower_maps", None)
        return state

    @staticmethod
    def _reduction(style: int) -> int:
        if style < COARSE_STYLES:
            return 16
        return 8 if style < COARSE_STYLES + MIDDLE_STYLES else 4

    def pyramid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maps that the towers read: coarse (1/16), middle (1/8) and fine (1/4 of the image's side)."""
        x = self.input_layer(x)
        taps = []
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in self._taps:
                taps.append(x)
        fine, middle, coarse = taps
        middle = _upsample(coarse, middle) + self.latlayer1(middle)
        fine = _upsample(middle, fine) + self.latlayer2(fine)
        return coarse, middle, fine

    def tower_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """`pyramid`, as the towers take it under autocast: all of the encoder but the towers, to be compiled as one."""
        return tuple(map(_as_convolved, self.pyramid(x)))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in_channels, image_size, image_size) -> (N, n_styles, style_dim)."""
        # Another size would fail late and oddly: the towers would turn left-over positions into batch rows.
        if x.shape[1:] != (self.in_channels, self.image_size, self.image_size):
            raise ValueError(
                f"The encoder takes (N, {self.in_channels}, {self.image_size}, {self.image_size}), "
                f"not {tuple(x.shape)}: resize the faces to {self.image_size} first."
            )
        maps = self.tower_maps(x)
        shares = _dealt_out(len(self.styles))
        made = side_by_side([partial(self._some_styles, share) for share in shares], *maps)
        styles = dict(zip(chain(*shares), chain(*made), strict=True))
        return torch.stack([styles[i] for i in range(len(styles))], dim=1)

    def _some_styles(self, indices: Sequence[int], coarse: Tensor, middle: Tensor, fine: Tensor) -> list[Tensor]:
        maps = {16: coarse, 8: middle, 4: fine}
        return [self.styles[i](maps[self._reduction(i)]) for i in indices]


def _as_convolved(x: Tensor) -> Tensor:
    """In the type that autocast gives to each tower's first convolution: cast once, not by each of the 11 that read the
    fine map, which would also keep a copy each for the way back."""
    kind = x.device.type
    known = torch.compiler.is_compiling() or torch.amp.is_autocast_available(kind)  # a compiler cannot ask
    casts = x.dtype == torch.float32 and known and torch.is_autocast_enabled(kind)
    return x.to(torch.get_autocast_dtype(kind)) if casts else x


def _dealt_out(styles: int) -> list[list[int]]:
    """The towers' numbers, in as many shares of about the same work as run side by side. Towers of fine maps, which
    are the last ones, have most to do."""
    return [list(range(styles - 1 - first, -1, -shares())) for first in range(min(shares(), styles))]


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    # align_corners=True as in the authors' pyramid: trained weights depend on it
    size = tuple(like.shape[2:])
    return _Upsample.apply(x, size) if x.is_cuda else _interpolate(x, size)


def _interpolate(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class _Upsample(torch.autograd.Function):
    """Bilinear interpolation whose gradient is two matrix products, along columns and rows, channels innermost.

    Each pixel of PyTorch's own kernel adds to four places, in an order that changes; what torch.compile makes of it
    took 1.55 ms for 16 maps of 64 x 64 pixels and 512 channels on an H200, for 0.05 of memory traffic.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, ...]) -> Tensor:
        ctx.size = x.shape[2:]
        return _interpolate(x, size)

    @staticmethod
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, None]:
        n, c, height, width = of_y.shape
        rows, columns = (_weights(a, b, of_y) for a, b in zip(ctx.size, of_y.shape[2:], strict=True))
        with torch.autocast(of_y.device.type, enabled=False):
            by_rows = rows.T @ of_y.permute(0, 2, 3, 1).reshape(n, height, width * c)
            of_x = columns.T @ by_rows.view(-1, width, c)
        return of_x.view(n, *ctx.size, c).permute(0, 3, 1, 2), None


def _weights(before: int, after: int, like: Tensor) -> Tensor:
    """What each of `before` places gives to each of `after`: (after, before), linear between corners that align."""
    exact = {"dtype": torch.promote_types(like.dtype, torch.float32), "device": like.device}
    places = torch.arange(after, **exact) * ((before - 1) / max(1, after - 1))
    return (1 - (places[:, None] - torch.arange(before, **exact)).abs()).clamp(min=0).to(like.dtype)
