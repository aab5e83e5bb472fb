"""Frozen networks for the losses and the judges, weights from a file or made up on purpose."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from torch import nn

from sam_age.errors import InputError
from sam_age.weights.files import Contents, open_file
from sam_age.weights.fit import CLASSES, assign
from sam_age.weights.known import KNOWN, how_to_get, resolve
from sam_age.weights.loading import plain_state
from sam_age.weights.recognise import recognise

log = logging.getLogger("sam_age")

RANDOM = "random"

FILES = {"ArcFace": "arcface", "DEX": "dex", "FaceNet": "facenet", "LPIPS": "alexnet"}
"""Which known file each network's weights come from."""

Network = TypeVar("Network", bound=nn.Module)


def frozen(network: Network, weights: str | Path | None, *, name: str) -> Network:
    """A network with its weights, in eval mode and without gradients to its parameters.

    Args:
        network: freshly built.
        weights: a file or a known name; "random" keeps what the constructor drew, on purpose, and warns.
        name: the network's role ("age", "identity"), for messages.
    Returns:
        The same network.
    Raises:
        InputError: no weights given (says where to get them), or a file that is not this network's.

    A network class may take part by either of two methods: `load_weights_file(path)` reads a file all by
    itself, `adapt_state_dict(state)` renames what a file holds before the strict load. Where weights are
    None, `load_default_weights()` is called if the network has it.
    """
    if weights is None and hasattr(network, "load_default_weights"):
        network.load_default_weights()
    elif weights is None:
        raise InputError(_absent(network, name))
    elif str(weights) == RANDOM:
        kind = type(network).__name__
        log.warning("The %s network (%s) has random weights: what it says means nothing.", name, kind)
    else:
        load_into(network, resolve(weights))
    return network.requires_grad_(False).eval()


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
    contents = open_file(path)
    kind = type(network).__name__
    found_kind, looks_like = _identity(contents)
    if found_kind in CLASSES and kind in CLASSES and found_kind != kind:
        raise InputError(f"{path} holds {looks_like} ({found_kind}); a {kind} is wanted here.")
    if contents.container != "safetensors" and hasattr(network, "load_weights_file"):
        network.load_weights_file(path)
        return
    state = plain_state(contents)
    if hasattr(network, "adapt_state_dict"):
        state = network.adapt_state_dict(state)
    elif kind == "DEX":
        state = {name.replace("-", "_"): value for name, value in state.items()}
    assign(network, state, path, looks_like or f"weights of {kind}", copy=contents.mapped)


def _identity(contents: Contents) -> tuple[str, str]:
    """(kind, what it looks like), or ("", "") for a file that is none of the known kinds."""
    try:
        found = recognise(contents)
    except InputError:
        return "", ""
    return found.kind, found.looks_like
