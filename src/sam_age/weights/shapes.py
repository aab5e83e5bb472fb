"""Constructor arguments from the shapes in a state dict.

Where a tensor that would tell is missing, the authors' number is assumed: the strict load that follows then
names the missing tensor, which a failed guess here would hide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

State = Mapping[str, Tensor]


def under(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it.

    >>> under({"encoder.a": 1, "encoder_x.b": 2}, "encoder.")
    {'a': 1}
    """
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def _size(state: State, name: str, dim: int, default: int) -> int:
    tensor = state.get(name)
    return tensor.shape[dim] if tensor is not None and tensor.ndim > dim else default


def _count(state: State, pattern: str) -> int:
    """One more than the largest number that `pattern` captures in any name; 0 where none matches."""
    found = (re.match(pattern, name) for name in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def encoder(state: State, n_styles: int | None = None) -> dict[str, Any]:
    """GradualStyleEncoder's arguments. `n_styles` is given where a generator beside it decides."""
    widths, depths = trunk(state)
    steps = _count(state, r"styles\.0\.convs\.(\d+)\.weight")  # convolutions sit at 0, 2, 4, ...
    return {
        "in_channels": _size(state, "input_layer.0.weight", 1, 3),
        "n_styles": _count(state, r"styles\.(\d+)\.") if n_styles is None else n_styles,
        "style_dim": _size(state, "styles.0.linear.weight", 0, 512),
        "widths": widths,
        "depths": depths,
        "tower_width": _size(state, "styles.0.convs.0.weight", 0, 512),
        "image_size": 16 * 2 ** ((steps + 1) // 2) if steps else 256,
    }


def trunk(state: State) -> tuple[list[int], list[int]]:
    """Widths and depths of an IR-SE trunk's four blocks.

    A block starts where the width changes, so two blocks of one width cannot be told apart: such a model
    needs its arguments stored with it, as our own files do.
    """
    widths: list[int] = [_size(state, "input_layer.0.weight", 0, 64)]
    depths: list[int] = [0]
    for unit in range(_count(state, r"body\.(\d+)\.")):
        width = _size(state, f"body.{unit}.res_layer.1.weight", 0, widths[-1])
        if width != widths[-1]:
            widths.append(width)
            depths.append(0)
        depths[-1] += 1
    return (widths, depths) if len(widths) == 4 else ([64, 128, 256, 512], [3, 4, 14, 3])


def generator(state: State) -> dict[str, Any]:
    """Generator's arguments; `lr_mlp` leaves no trace in the shapes and is StyleGAN2's 0.01."""
    blocks = max(
        _count(state, r"to_rgbs\.(\d+)\."),
        _count(state, r"convs\.(\d+)\.") // 2,
        _count(state, r"noises\.noise_(\d+)$") // 2,
    )
    widths = {4: _size(state, "conv1.conv.weight", 1, 512)}
    for block in range(blocks):
        resolution = 8 << block
        widths[resolution] = _size(state, f"convs.{2 * block + 1}.conv.weight", 1, widths[resolution // 2])
    multiplier, widest = channels(widths)
    kernels = [tensor for name, tensor in state.items() if name.endswith(".kernel")]
    return {
        "size": 4 << blocks,
        "style_dim": _size(state, "style.1.weight", 0, 512),
        "n_mlp": _count(state, r"style\.(\d+)\.") - 1 if "style.1.weight" in state else 8,
        "channel_multiplier": multiplier,
        "channel_max": widest,
        "blur_kernel": next((taps(kernel) for kernel in kernels if _is_filter(kernel)), [1, 3, 3, 1]),
        "lr_mlp": 0.01,
    }


def channels(widths: Mapping[int, int]) -> tuple[float, int]:
    """(channel_multiplier, channel_max) that give these widths by resolution.

    A width is min(channel_max, base // resolution) with base = 16384 channel_multiplier. Of the bases that
    fit, config F's or half of it is taken where it is among them.

    >>> channels({4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128})
    (1, 512)
    >>> channels({4: 16, 8: 16, 16: 16, 32: 10})
    (0.01953125, 16)
    """
    widest = max(widths.values())
    low = max(width * resolution for resolution, width in widths.items())
    high = min(
        ((width + 1) * resolution - 1 for resolution, width in widths.items() if width < widest),
        default=None,
    )
    for base in (32768, 16384):
        if base >= low and (high is None or base <= high):
            return base // 16384, widest
    multiplier = low / 16384
    return (int(multiplier) if multiplier.is_integer() else multiplier), widest


def _is_filter(kernel: Tensor) -> bool:
    return kernel.ndim == 2 and not kernel.is_meta and bool(kernel.isfinite().all() and kernel.sum() > 0)


def taps(kernel: Tensor) -> list[float]:
    """The 1-D taps whose outer product a blur kernel is, smallest 1.

    >>> import torch
    >>> taps(torch.outer(torch.tensor([1., 3., 3., 1.]), torch.tensor([1., 3., 3., 1.])) / 16)
    [1, 3, 3, 1]
    """
    line = kernel.double().sum(1)
    line = line / line[line != 0].abs().min()
    whole = line.round()
    close = bool((line - whole).abs().max() < 1e-3)
    return [int(tap) for tap in whole] if close else [float(tap) for tap in line]
