"""Networks that are about to learn, from where somebody else's training left off."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.age import DEX
from sam_age.weights.files import is_safetensors, open_file
from sam_age.weights.judges import RANDOM, load_into
from sam_age.weights.known import resolve
from sam_age.weights.loading import plain_state

Network = TypeVar("Network", bound=nn.Module)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0, 1]

VGG16_LAYERS = {
    **{f"features.{n}": f"conv{block}_{i}" for n, block, i in (
        (0, 1, 1), (2, 1, 2), (5, 2, 1), (7, 2, 2), (10, 3, 1), (12, 3, 2), (14, 3, 3),
        (17, 4, 1), (19, 4, 2), (21, 4, 3), (24, 5, 1), (26, 5, 2), (28, 5, 3),
    )},
    "classifier.0": "fc6", "classifier.3": "fc7",
}  # fmt: skip
"""torchvision's names of VGG-16's layers -> DEX's. The last, of ImageNet's thousand classes, has no counterpart."""


def started(network: Network, weights: str | Path | None = None) -> Network:
    """A network to be trained, with the weights it starts from.

    Args:
        network: freshly built.
        weights: a file of this network, e.g. one that an earlier run wrote; for DEX also torchvision's VGG-16
            (vgg16-397923af.pth), which brings all layers but the last. None or "random": as the constructor drew them.
    Raises:
        InputError: no such file, or another network's.
    """
    if weights is None or str(weights) == RANDOM:
        return network
    path = resolve(weights)
    state = {} if is_safetensors(path) else plain_state(open_file(path))
    if isinstance(network, DEX) and "features.0.weight" in state:
        start_dex(network, state, path)
    else:
        load_into(network, path)
    return network.requires_grad_(True).train()


def start_dex(network: DEX, vgg16: dict[str, Tensor], path: Path) -> None:
    """Give DEX all layers of VGG-16 but the last.

    torchvision's network takes colours with ImageNet's mean removed, DEX takes [-1, 1]: the first layer is restated,
    so that it answers the same to the same picture, but for the two outermost pixels' worth of padding.
    """
    state = network.state_dict()
    for theirs, ours in VGG16_LAYERS.items():
        for part in ("weight", "bias"):
            tensor = vgg16.get(f"{theirs}.{part}")
            if tensor is None or tensor.shape != state[f"{ours}.{part}"].shape:
                raise InputError(
                    f"{path} is not torchvision's VGG-16 ({theirs}.{part} is missing or of another shape)."
                )
            state[f"{ours}.{part}"] = tensor.to(torch.float32)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    first = state["conv1_1.weight"]
    # ((y + 1) / 2 - mean) / std = y / (2 std) + (1/2 - mean) / std
    state["conv1_1.bias"] = state["conv1_1.bias"] + (first.sum((2, 3)) * ((0.5 - mean) / std)).sum(1)
    state["conv1_1.weight"] = first / (2 * std)[None, :, None, None]
    network.load_state_dict(state)
