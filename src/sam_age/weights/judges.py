"""Frozen networks for the losses and the judges, weights from a file or made up on purpose."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from torch import nn

from sam_age.errors import InputError
from sam_age.models.perceptual import FeatureDistance
from sam_age.weights.files import Contents, is_safetensors, open_file
from sam_age.weights.fit import CLASSES, assign
from sam_age.weights.known import KNOWN, how_to_get, resolve
from sam_age.weights.loading import load, plain_state
from sam_age.weights.recognise import Checkpoint, recognise

log = logging.getLogger("sam_age")

RANDOM = "random"

FILES = {"ArcFace": "arcface", "DEX": "dex", "FaceNet": "facenet", "LPIPS": "alexnet"}
"""Which known file each network's weights come from."""

Network = TypeVar("Network", bound=nn.Module)


def frozen(network: Network | None = None, weights: str | Path | None = None, *, name: str) -> Network:
    """A network with its weights, in eval mode and without gradients to its parameters.

    Args:
        network: freshly built; None: as the file says, which has to be one that `load` reads.
        weights: a file or a known name; "random" keeps what the constructor drew, on purpose, and warns.
        name: the network's role ("age", "identity"), for messages.
    Returns:
        The same network, or the file's.
    Raises:
        InputError: no weights given (says where to get them), or a file that is not this network's.

    A network class may read its own files: its `load_weights_file(path)` then takes every file but our
    safetensors, and with `finds_own_weights = True` it is called without a path where weights are None.
    """
    if network is None:
        if weights is None or str(weights) == RANDOM:
            raise InputError(f"The {name} network is to be what its file says: set its `weights` to a file.")
        network = load(weights)
    elif weights is None and getattr(network, "finds_own_weights", False):
        network.load_weights_file()
    elif weights is None:
        raise InputError(_absent(network, name))
    elif str(weights) == RANDOM:
        kind = type(network).__name__
        log.warning("The %s network (%s) has random weights: what it says means nothing.", name, kind)
    else:
        load_into(network, resolve(weights))
    return network.requires_grad_(False).eval()


def frozen_features(
    network: nn.Module | None = None, weights: str | Path | None = None, *, name: str
) -> FeatureDistance:
    """Perceptual distances by a frozen network's features, see `FeatureDistance`. Arguments as of `frozen`."""
    return FeatureDistance(frozen(network, weights, name=name))


def _absent(network: nn.Module, name: str) -> str:
    kind = type(network).__name__
    known = KNOWN.get(FILES.get(kind, ""))
    if known is None:
        return f"The {name} network ({kind}) has no weights: set its `weights` to a file, or to random."
    key = known.key or f"the {name} network's weights"
    return (
        f"The {name} network ({kind}) has no weights: set {key} to its file, or to random to make one up. "
        f"{how_to_get(known)}"
    )


def load_into(network: nn.Module, path: Path) -> None:
    """Load a file strictly into a network that is already built.

    Raises:
        InputError: the file is another network's, or its tensors do not fit.
    """
    if hasattr(network, "load_weights_file") and not is_safetensors(path):
        network.load_weights_file(path)
        return
    contents = open_file(path)
    kind = type(network).__name__
    found = _recognised(contents)
    if found is None:
        assign(network, plain_state(contents), path, f"weights of {kind}", copy=contents.mapped)
    elif found.kind in CLASSES and kind in CLASSES and found.kind != kind:
        raise InputError(f"{path} holds {found.looks_like}; a {kind} is wanted here.")
    else:
        assign(network, found.state, path, found.looks_like, copy=contents.mapped)


def _recognised(contents: Contents) -> Checkpoint | None:
    """None for a file of none of the known kinds: it may be a user's own network's."""
    try:
        return recognise(contents)
    except InputError:
        return None
