"""NVlabs' StyleGAN2 pickles (stylegan2-ada-pytorch), read without executing what they hold.

Such a file is an ordinary pickle of {"G", "D", "G_ema", ...}, whose networks carry their own Python source,
to be executed on loading. Here the names in the pickle are answered by inert stand-ins: a network becomes
the dictionary of its state, a tensor's bytes are read by `torch.load(weights_only=True)`, and any name
outside the short list below ends the reading.

The generator is then given rosinality's names. Both implementations keep raw weights with the same run-time
scales, and both apply the up-sampling kernels through a transposed convolution without flipping them, so
only names and singleton dimensions change.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_age.errors import InputError

AGAIN = "Download it again and compare its size with the source's."


class _RefusedError(Exception):
    """A name in the pickle that has no stand-in."""


class _Object:
    """Anything whose contents do not matter: swallows every way in which a pickle builds an object."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Network:
    """A persistent object: the dictionary of its state."""

    state: dict[str, Any] = {}  # noqa: RUF012 - for one that a pickle builds without its constructor

    def __init__(self, meta: Any) -> None:
        state = meta.get("state") if isinstance(meta, dict) else None
        self.state = state if isinstance(state, dict) else {}


class _Storage:
    """A tensor's bytes as torch.save wrote them; decoded only if the generator needs them."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Tensor:
    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def decode(self) -> Tensor:
        stored = torch.load(io.BytesIO(self.storage.data), map_location="cpu", weights_only=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these files hold typed storages, which torch calls deprecated
            flat = torch.empty(0, dtype=stored.dtype).set_(stored.untyped())
        if math.prod(self.size) > flat.numel():
            raise ValueError("larger than its storage")
        view = flat.as_strided(tuple(self.size), tuple(self.stride), self.offset)  # checks the bounds
        return view.to(torch.float32).contiguous().clone()


def _stand_ins() -> dict[str, Callable[..., Any]]:
    """A fresh set for every file, since a pickle may write attributes onto the classes it is given."""
    network = type("Network", (_Network,), {})
    tensor = type("TensorRecord", (_Tensor,), {})
    storage = type("StorageRecord", (_Storage,), {})
    mapping = type("Mapping", (dict,), {"__setstate__": lambda self, state: None})
    inert = type("Inert", (_Object,), {})
    return {
        "torch_utils.persistence._reconstruct_persistent_obj": network,
        "torch._utils._rebuild_parameter": lambda data, *rest: data,
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch.storage._load_from_bytes": storage,
        "collections.OrderedDict": mapping,
        "dnnlib.util.EasyDict": mapping,
        "builtins.set": lambda items=(): set(items),
        "__builtin__.set": lambda items=(): set(items),
        "_codecs.encode": lambda text, *rest: text.encode("latin1"),  # how protocol 2 spells bytes
        "torch.Size": lambda items=(): tuple(items),
        "torch.device": inert,
        "numpy.dtype": inert,
        "numpy.ndarray": inert,
        "numpy.core.multiarray.scalar": inert,
        "numpy._core.multiarray.scalar": inert,
        "numpy.core.multiarray._reconstruct": inert,
        "numpy._core.multiarray._reconstruct": inert,
    }


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._known = _stand_ins()
        self._inert = type("Inert", (_Object,), {})

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._known:
            return self._known[full]
        if module.startswith("torch.nn.modules.") or (module == "torch" and re.fullmatch(r"[a-z]+\d+", name)):
            return self._inert
        raise _RefusedError(full)

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("a persistent id")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The generator's tensors in rosinality's names, with `latent_avg`, and what is known about it.

    Returns:
        ({name: float32 tensor}, {"lr_mlp": float, "conv_clamp": float or None}).
    Raises:
        InputError: not such a file, damaged, in need of code, or a generator that ours cannot be.
    """
    try:
        with path.open("rb") as file:
            tree = _Reader(file).load()
    except _RefusedError as refused:
        raise InputError(_refusal(path, str(refused))) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any opcode
        first = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{path} is a damaged pickle ({first}). {AGAIN}") from None
    network = tree.get("G_ema") if isinstance(tree, dict) else None
    if not isinstance(network, _Network):
        found = ", ".join(map(str, list(tree)[:5])) if isinstance(tree, dict) else type(tree).__name__
        raise InputError(
            f"{path} is a pickle without a G_ema network (found: {found or 'nothing'}). "
            f"Of pickles, only NVlabs' StyleGAN2 in its PyTorch form is read."
        )
    _check_form(path, network)
    try:
        state = {name: record.decode() for name, record in _records(network).items()}
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{path}: a tensor of G_ema cannot be read ({first}). {AGAIN}") from None
    return rosinality_names(state, path), _facts(network)


def _refusal(path: Path, name: str) -> str:
    if name.startswith("dnnlib.tflib"):
        return (
            f"{path} is NVlabs' TensorFlow pickle; only the PyTorch form is read. "
            f"Convert it with legacy.py of NVlabs' stylegan2-ada-pytorch first."
        )
    return (
        f"{path} is a pickle that needs {name}; reading it would run code from the file, so it is refused. "
        f"Of pickles, only NVlabs' StyleGAN2 (with G_ema) is read; otherwise save a state_dict."
    )


def _children(network: _Network, kind: str) -> dict[str, Any]:
    found = network.state.get(kind)
    return found if isinstance(found, dict) else {}


def _records(network: _Network, prefix: str = "") -> dict[str, _Tensor]:
    own = {**_children(network, "_parameters"), **_children(network, "_buffers")}
    records = {prefix + name: value for name, value in own.items() if isinstance(value, _Tensor)}
    for name, child in _children(network, "_modules").items():
        if isinstance(child, _Network):
            records |= _records(child, f"{prefix}{name}.")
    return records


def _at(network: Any, *names: str) -> dict[str, Any]:
    """State of a submodule by its path, {} where there is none."""
    for name in names:
        network = _children(network, "_modules").get(name) if isinstance(network, _Network) else None
    return network.state if isinstance(network, _Network) else {}


def _check_form(path: Path, network: _Network) -> None:
    """Refuse the generators that share the container but not the architecture."""
    synthesis = _at(network, "synthesis")
    blocks = synthesis.get("_modules", {})
    if any(re.match(r"L\d+_", name) for name in blocks):
        raise InputError(f"{path} holds a StyleGAN3 generator; SAM is built on StyleGAN2.")
    if "b4" not in blocks:
        found = ", ".join(list(blocks)[:3]) or "nothing"
        raise InputError(f"{path}: its G_ema is not a StyleGAN2 generator (synthesis holds {found}).")
    if network.state.get("c_dim"):
        raise InputError(f"{path} holds a class-conditional generator (c_dim {network.state['c_dim']}).")
    wanted = {"architecture": "skip", "img_channels": 3}
    block = _at(network, "synthesis", "b4")
    for name, value in wanted.items():
        if block.get(name, value) != value:
            raise InputError(f"{path}: its generator has {name} {block[name]!r}; only {value!r} is supported.")
    activation = _at(network, "synthesis", "b4", "conv1").get("activation", "lrelu")
    if activation != "lrelu":
        raise InputError(f"{path}: its generator has activation {activation!r}; only 'lrelu' is supported.")


def _facts(network: _Network) -> dict[str, Any]:
    gain = _at(network, "mapping", "fc0").get("bias_gain", 0.01)
    clamp = _at(network, "synthesis", "b4", "conv1").get("conv_clamp")
    return {
        "lr_mlp": float(gain) if isinstance(gain, int | float) else 0.01,
        "conv_clamp": float(clamp) if isinstance(clamp, int | float) else None,
    }


def rosinality_names(state: dict[str, Tensor], path: Path | str = "G_ema") -> dict[str, Tensor]:
    """NVlabs' generator names -> rosinality's, plus `latent_avg` from `mapping.w_avg`.

    Raises:
        InputError: a tensor that has no place in rosinality's layout.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = _renamed(name, tensor)
        if found is None:
            raise InputError(f"{path}: its G_ema holds {name}, which StyleGAN2 does not have.")
        renamed |= found
    return renamed


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor] | None:
    if name == "mapping.w_avg":
        return {"latent_avg": tensor}
    if name == "synthesis.b4.const":
        return {"input.input": tensor[None]}
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
        return {f"style.{int(match[1]) + 1}.{match[2]}": tensor}
    if match := re.fullmatch(r"synthesis\.b(\d+)\.(?:(conv0|conv1|torgb)\.)?(.+)", name):
        return _layer(int(match[1]), match[2] or "", match[3], tensor)
    return None


LEAVES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "weight": ("conv.weight", lambda x: x[None]),
    "affine.weight": ("conv.modulation.weight", lambda x: x),
    "affine.bias": ("conv.modulation.bias", lambda x: x),
}
CONV_LEAVES = LEAVES | {
    "bias": ("activate.bias", lambda x: x),
    "noise_strength": ("noise.weight", lambda x: x.reshape(-1)),
}
RGB_LEAVES = LEAVES | {"bias": ("bias", lambda x: x.reshape(1, -1, 1, 1))}


def _layer(resolution: int, layer: str, leaf: str, tensor: Tensor) -> dict[str, Tensor] | None:
    """One tensor of the block at a resolution; None for one that has no counterpart."""
    block = resolution.bit_length() - 3  # 4 pixels -> 0, 8 -> 1, ...
    up = 2 * (block - 1)  # number of the block's first convolution; the block at 4 pixels has none
    if leaf == "resample_filter":  # sum 1 there; here each use holds its own gain
        uses = {"": f"to_rgbs.{block - 1}.upsample.kernel", "conv0": f"convs.{up}.conv.blur.kernel"}
        return {uses[layer]: tensor * 4} if block and layer in uses else {}
    if layer == "torgb":
        name, leaves = (f"to_rgbs.{block - 1}" if block else "to_rgb1"), RGB_LEAVES
    elif layer == "conv1" or (layer == "conv0" and block):
        index = up + (layer == "conv1")
        if leaf == "noise_const":
            return {f"noises.noise_{index + 1 if block else 0}": tensor[None, None]}
        name, leaves = (f"convs.{index}" if block else "conv1"), CONV_LEAVES
    else:
        return None
    if leaf not in leaves:
        return None
    new, reshape = leaves[leaf]
    return {f"{name}.{new}": reshape(tensor)}
