"""A GAN that goes on at twice the size: what a smaller StyleGAN2 has learnt, put into a larger one.

Most of what a generator learns shows at half of the size already, where a step costs a quarter. Progressive growing
(Karras et al. 2018) did it layer by layer within one run; here it is one run after another, and nothing is faded in:
the new layers begin with the old pictures, enlarged.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from torch import Tensor

from sam_age.errors import InputError
from sam_age.models.stylegan2 import Discriminator, Generator
from sam_age.weights.known import resolve
from sam_age.weights.loading import centre_of, inspect_file

log = logging.getLogger("sam_age")


def grow(network: Generator | Discriminator, weights: str | Path) -> None:
    """Take the layers of a smaller network of the same widths; those for larger maps stay as drawn.

    A generator's new ToRGB layers become 0, so that its pictures are the smaller one's, enlarged by StyleGAN2's filter.

    Args:
        weights: a file that `write_weights` wrote of the smaller network.
    Raises:
        InputError: no such file, another kind of network, not smaller, or of other widths.
    """
    path = resolve(weights)
    _, found = inspect_file(path)
    kind = type(network).__name__
    if found.kind != kind:
        raise InputError(f"{path} holds {found.looks_like}; a {kind} is wanted here.")
    small, large = int(found.config["size"]), int(network.config["size"])
    if small >= large:
        raise InputError(f"{path} is for {small} pixels, and this {kind} for {large}: there is nothing to grow.")
    state, own = {name: tensor.float() for name, tensor in found.state.items()}, network.state_dict()
    if isinstance(network, Discriminator):
        state = _from_the_top(state, levels=(large // small).bit_length() - 1)
    state = {name: tensor for name, tensor in state.items() if name != "latent_avg"}
    if wrong := [name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape]:
        raise InputError(
            f"{path} does not fit into this {kind}: {wrong[0]} is {list(state[wrong[0]].shape)}. The two may differ "
            "in `size` alone: see model.* of the run that made it."
        )
    network.load_state_dict(own | state)
    if isinstance(network, Generator):
        with torch.no_grad():
            for number, to_rgb in enumerate(network.to_rgbs):
                if f"to_rgbs.{number}.conv.weight" not in state:
                    to_rgb.conv.weight.zero_()
                    to_rgb.bias.zero_()
        network.latent_avg = centre_of(network, found.state.get("latent_avg", found.latent_avg), path)
    log.info("%s: a %s for %d pixels, grown to %d.", path, kind, small, large)


def _from_the_top(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A discriminator's blocks are counted from the largest maps: they move on by as many as there are new ones. The
    layer that reads colours is the size's own and stays behind."""
    moved = {}
    for name, tensor in state.items():
        if block := re.fullmatch(r"convs\.(\d+)\.(.*)", name):
            if block[1] != "0":
                moved[f"convs.{int(block[1]) + levels}.{block[2]}"] = tensor
        else:
            moved[name] = tensor
    return moved
