"""NVlabs' StyleGAN2 as its paper and operations define it: an independent forward, and its pickle.

Written from the definitions, not from either implementation that is tested: upsampling is literal zero
insertion, padding, an FIR filter and a true convolution; modulation builds one kernel per sample. float64.

`pickled` writes the file as stylegan2-ada-pytorch would: objects reduce to
`torch_utils.persistence._reconstruct_persistent_obj` and a dictionary with their source and state.
"""

from __future__ import annotations

import math
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Persistent(nn.Module):
    """A module that pickles as NVlabs' persistent classes do."""

    def __reduce__(self) -> Any:
        persistence = sys.modules["torch_utils.persistence"]
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise RuntimeError('the source in a pickle must not run')",
            "class_name": type(self).__name__,
            "state": dict(self.__dict__),
        }
        return persistence._reconstruct_persistent_obj, (meta,), None


class Dense(Persistent):
    def __init__(self, inputs: int, outputs: int, lr_multiplier: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(bias + torch.randn(outputs) * 0.1 / lr_multiplier)
        self.weight_gain = lr_multiplier / np.sqrt(inputs)  # numpy scalars are in their pickles too
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight * float(self.weight_gain)).T + self.bias * self.bias_gain


def lrelu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def insert_zeros(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, 2 * h, 2 * w)
    out[:, :, ::2, ::2] = x
    return out


def fir(x: Tensor, kernel: Tensor, pad: tuple[int, int]) -> Tensor:
    """Zero padding and true convolution with one kernel for every channel."""
    x = F.pad(x, (*pad, *pad))
    weight = kernel.to(x.dtype).flip(0, 1).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, weight, groups=x.shape[1])


class Layer(Persistent):
    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, up: int, kernel: Tensor) -> None:
        super().__init__()
        self.resolution, self.up, self.activation, self.conv_clamp = resolution, up, "lrelu", None
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3).to(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.randn(outputs) * 0.1)
        self.noise_strength = nn.Parameter(torch.randn([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", kernel)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        kernels = self.weight[None] * self.affine(w)[:, None, :, None, None]
        kernels = kernels / (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        if self.up == 2:  # filtered to the doubled grid, then a true convolution
            x = fir(insert_zeros(x), self.resample_filter * 4, pad=(3, 2))
            x = torch.cat([F.conv2d(one[None], k.flip(2, 3)) for one, k in zip(x, kernels, strict=True)])
        else:  # a correlation
            x = torch.cat([F.conv2d(one[None], k, padding=1) for one, k in zip(x, kernels, strict=True)])
        return lrelu(x + self.noise_const * self.noise_strength + self.bias[:, None, None])


class ToRGB(Persistent):
    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.randn(3))
        self.weight_gain = 1 / np.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) * float(self.weight_gain)
        return torch.einsum("nihw,oi,ni->nohw", x, self.weight[:, :, 0, 0], style) + self.bias[:, None, None]


class Block(Persistent):
    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, kernel: Tensor) -> None:
        super().__init__()
        self.resolution, self.img_channels, self.architecture = resolution, 3, "skip"
        self.register_buffer("resample_filter", kernel)
        if inputs == 0:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
        else:
            self.conv0 = Layer(inputs, outputs, w_dim, resolution, 2, kernel)
        self.conv1 = Layer(outputs, outputs, w_dim, resolution, 1, kernel)
        self.torgb = ToRGB(outputs, w_dim)


class Synthesis(Persistent):
    def __init__(self, w_dim: int, size: int, channel_base: int, channel_max: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.block_resolutions = [2**i for i in range(2, size.bit_length())]
        inputs = 0
        for resolution in self.block_resolutions:
            outputs = min(channel_base // resolution, channel_max)
            block = Block(inputs, outputs, w_dim, resolution, torch.outer(line, line))
            self.add_module(f"b{resolution}", block)
            inputs = outputs

    def forward(self, ws: Tensor) -> Tensor:
        image, index = None, 0
        for resolution in self.block_resolutions:
            block = self.get_submodule(f"b{resolution}")
            if resolution == 4:
                x = block.const.expand(len(ws), -1, -1, -1)
            else:
                x = block.conv0(x, ws[:, index])
                index += 1
            x = block.conv1(x, ws[:, index])
            index += 1
            if image is not None:
                image = fir(insert_zeros(image), block.resample_filter * 4, pad=(2, 1))
            rgb = block.torgb(x, ws[:, index])  # shares its w with the next block's first layer
            image = rgb if image is None else image + rgb
        return image


class Mapping(Persistent):
    def __init__(self, w_dim: int, layers: int, lr_multiplier: float) -> None:
        super().__init__()
        self.num_layers = layers
        for i in range(layers):
            self.add_module(f"fc{i}", Dense(w_dim, w_dim, lr_multiplier))
        self.register_buffer("w_avg", torch.randn(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
        for i in range(self.num_layers):
            x = lrelu(self.get_submodule(f"fc{i}")(x))
        return x


class Generator(Persistent):
    def __init__(
        self, w_dim: int = 24, size: int = 32, layers: int = 3, lr_multiplier: float = 0.01,
        channel_base: int = 512, channel_max: int = 32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.z_dim = self.w_dim = w_dim
        self.c_dim, self.img_resolution, self.img_channels = 0, size, 3
        self._init_kwargs = sys_easy_dict(synthesis_kwargs=sys_easy_dict(channel_base=channel_base))
        self.synthesis = Synthesis(w_dim, size, channel_base, channel_max)
        self.mapping = Mapping(w_dim, layers, lr_multiplier)


def sys_easy_dict(**items: Any) -> Any:
    """dnnlib's EasyDict where the stand-in modules are in place, else a dict."""
    module = sys.modules.get("dnnlib.util")
    return module.EasyDict(items) if module else dict(items)


def modules_for_pickling() -> dict[str, types.ModuleType]:
    """Stand-ins for the modules that NVlabs' pickles name; they are needed to write one, not to read it."""
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("the reader called NVlabs' reconstruction")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    util = types.ModuleType("dnnlib.util")
    util.EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    names = {"torch_utils": types.ModuleType("torch_utils"), "dnnlib": types.ModuleType("dnnlib")}
    return names | {"torch_utils.persistence": persistence, "dnnlib.util": util}


def pickled(generator: Generator, path: Path, protocol: int = 4, **others: Any) -> Path:
    """Write the file, with the stand-in modules in place only while writing."""
    made = modules_for_pickling()
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        generator._init_kwargs = sys_easy_dict(c_dim=0, mapping_kwargs=sys_easy_dict(num_layers=3))
        tree = {"G": None, "D": None, "G_ema": generator, **others}
        tree["training_set_kwargs"] = sys_easy_dict(class_name="training.dataset.ImageFolderDataset")
        with path.open("wb") as file:
            pickle.dump(OrderedDict(tree) if protocol < 4 else tree, file, protocol=protocol)
    finally:
        generator._init_kwargs = {}
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return path
