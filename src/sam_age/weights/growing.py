"""A GAN that goes on at twice the size: what a smaller StyleGAN2 has learnt, put into a larger one.

Most of what a generator learns shows at half of the size already, where a step costs a quarter. Progressive growing
(Karras et al. 2018) did it layer by layer within one run; here it is one run after another, and nothing is faded in:
the generator begins with the old pictures, enlarged, and the discriminator with the old scores of pictures made small
(the idea of Chen et al. 2016, "Net2Net"). A discriminator whose new layers were left as drawn told nothing apart for
500 steps, and its generator unlearnt meanwhile.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.stylegan2 import Discriminator, Generator
from sam_age.weights.known import resolve
from sam_age.weights.loading import centre_of, inspect_file

log = logging.getLogger("sam_age")


def grow(network: Generator | Discriminator, weights: str | Path) -> None:
    """Take the layers of a smaller network of the same widths, and set those for larger maps to change nothing yet.

    A generator's new ToRGB layers become 0, so that its pictures are the smaller one's, enlarged by StyleGAN2's filter.
    A discriminator's new blocks hand colours on, made smaller by its own filter, in 6 of their channels: it scores a
    picture as the smaller one scores the small picture. (With fewer than 6 channels its new blocks stay as drawn.) All
    other new weights stay as drawn, or become 0 where they would be heard, and learn.

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
    colours = [state.get(f"convs.0.{part}") for part in ("0.weight", "1.bias")]
    levels = (large // small).bit_length() - 1
    if isinstance(network, Discriminator):
        state = _from_the_top(state, levels)
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
    else:
        _hand_colours_on(network, *colours, levels)
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


# ---- a discriminator's new blocks ---------------------------------------------------------------------
# sqrt(2) LeakyReLU(x) - sqrt(2) LeakyReLU(-x) = 1.2 sqrt(2) x: two channels hand a number of either sign through an
# activation. So red, green, blue and their negatives are six channels, which each layer can read and write again.

GAIN = 1.2 * math.sqrt(2)


@torch.no_grad()
def _hand_colours_on(network: Discriminator, weight: Tensor, bias: Tensor, levels: int) -> None:
    """Set a discriminator's first layers, as many blocks as there are new levels, so that what the last of them gives
    is what the smaller one's first layer makes of the small picture.

    Args:
        weight, bias: of that layer, (O, 3, 1, 1) as stored, and (O,).
    """
    blocks = network.convs[1 : 1 + levels]
    if min(_channels(block) for block in blocks) < 6:
        return
    signs = torch.cat([torch.eye(3), -torch.eye(3)])  # (6, 3): what is written of the colours
    _write(network.convs[0], signs, torch.zeros(6))
    for block in blocks:
        last = block is blocks[-1]
        _write(block.conv1, signs, torch.zeros(6), read=True)
        # the block divides by sqrt(2) what its two branches give together
        wanted, shift = (weight.flatten(1) / math.sqrt(3), bias) if last else (signs, torch.zeros(6))
        _write(block.conv2, math.sqrt(2) * wanted, math.sqrt(2) * shift, read=True)
        block.skip[1].weight[: len(wanted)] = 0


def _write(layer: nn.Sequential, wanted: Tensor, shift: Tensor, *, read: bool = False) -> None:
    """Have a layer's first channels give the activations of `wanted` (R, 3) times the colours, plus `shift` (R,).

    read: its input holds the colours in six channels, and is not the picture itself. Of all others nothing is heard.
    """
    *_, conv, activation = layer
    rows, middle = len(wanted), conv.weight.shape[-1] // 2
    conv.weight[:rows] = 0
    colours = torch.cat([wanted, -wanted], 1) / GAIN if read else wanted
    conv.weight[:rows, : colours.shape[1], middle, middle] = colours / conv.scale
    activation.bias[:rows] = shift


def _channels(block: nn.Module) -> int:
    """That come into a block."""
    return block.conv1[0].weight.shape[1]
