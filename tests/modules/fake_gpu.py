"""A step on a GPU that is not there: shapes and devices alone, to see what it would ask of the host."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sam_age.models.stylegan2 import Generator


class Work(TorchDispatchMode):
    """Counts what would be launched, and writes down what has to do with the host's memory. What waits for a value,
    fake tensors refuse by themselves."""

    FREE = frozenset({"device", "detach", "empty", "empty_like", "promote_types"})  # nothing runs on the GPU

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.launched: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name not in self.FREE and not getattr(function, "is_view", False):
            self.launched[name] += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.seen.append(str(function))
        return result


@contextlib.contextmanager
def on_a_gpu(module: Any, monkeypatch: Any) -> Iterator[Work]:
    """The LightningModule's tensors as a GPU's, without one; backward passes, which need one, are left out."""
    with FakeTensorMode():
        for part in module.modules():
            if isinstance(part, Generator):
                part.fused = False  # its kernels need a GPU
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    made = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                    part._parameters[name] = nn.Parameter(made, requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
        monkeypatch.setattr(type(module), "device", torch.device("cuda"))
        monkeypatch.setattr(type(module), "manual_backward", lambda *args, **kwargs: None)
        module._trainer = SimpleNamespace(world_size=1, global_step=12, strategy=SimpleNamespace(model=module))
        before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        torch.set_autocast_enabled("cuda", True)  # the context manager would not, where there is no GPU
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with Work() as work:
                yield work
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
            torch.clear_autocast_cache()
