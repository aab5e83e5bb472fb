"""From a path or a name to a network with its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.sam import PSP, SAM
from sam_age.models.stylegan2 import Generator
from sam_age.weights.files import Contents, open_file
from sam_age.weights.fit import assign, build
from sam_age.weights.known import resolve
from sam_age.weights.recognise import Checkpoint, recognise

log = logging.getLogger("sam_age")

WHOLE = 0.6
"""Share of a file above which it is read in one go rather than tensor by tensor off its mapping."""

MEAN_SAMPLES = 4096


def load(path_or_name: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The network in a file, in eval mode.

    The file is recognised by the names and shapes in it: the authors' SAM file -> SAM, pSp's -> PSP,
    StyleGAN2 of rosinality or NVlabs -> Generator (with `latent_avg` set), model_ir_se50.pth -> ArcFace,
    dex_age_classifier.pth -> DEX, a sam-train checkpoint -> SAM, our safetensors -> what they say.
    Constructor arguments come from the shapes (or, in our own files, are stored), so any size loads.

    Args:
        path_or_name: a file, or one of `KNOWN` ("sam", "psp", ...), found in $SAM_AGE_WEIGHTS or ./weights.
        device: where to put the network.
    Returns:
        The network, float32, eval mode, on memory of its own: the file may be moved or overwritten.
    Raises:
        InputError: no such file, not a known kind, damaged, in need of code, or tensors that do not fit.
    """
    contents, found = read_whole(resolve(path_or_name))
    module = build(found.kind, found.config, str(contents.path))
    fill_network(module, found, contents)
    return module.to(device).eval()


def inspect_file(path: Path) -> tuple[Contents, Checkpoint]:
    """A file's structure and what it was recognised as, its tensors unread where the container allows it."""
    contents = open_file(path)
    return contents, recognise(contents)


def read_whole(path: Path) -> tuple[Contents, Checkpoint]:
    """`inspect_file`, with the tensors in memory if most of the file is wanted."""
    contents, found = inspect_file(path)
    if contents.mapped and found.bytes() > WHOLE * path.stat().st_size:
        contents = contents.in_memory()
        found = recognise(contents)
    return contents, found


def fill_network(module: nn.Module, found: Checkpoint, contents: Contents) -> None:
    """Load a recognised file's weights strictly into a network built to its size; empties `found.state`."""
    if contents.container != "safetensors" and hasattr(module, "load_weights_file"):
        module.load_weights_file(contents.path)
        return
    state = found.state
    centre = state.get("latent_avg", found.latent_avg)
    path, whole = contents.path, isinstance(module, SAM | PSP)
    if whole and centre is None:
        raise InputError(
            f"{path} looks like {found.looks_like}, but without latent_avg, from which every code starts: take a file "
            "that its training code saved whole."
        )
    if whole:
        state["latent_avg"] = _for_each_style(centre, module.latent_avg)
    assign(module, state, path, found.looks_like, copy=contents.mapped)
    if whole:
        module.decoder.latent_avg = module.latent_avg.mean(0)
    elif isinstance(module, Generator):
        module.latent_avg = centre_of(module, centre, path)
    for note in found.notes:
        log.info("%s: %s.", path, note)


def _for_each_style(centre: Tensor | None, expected: Tensor) -> Tensor:
    """A (D,) centre as (n_styles, D); `expected` itself stands in for one that is not known."""
    if centre is None:
        return expected
    return centre.expand_as(expected) if centre.shape == expected.shape[1:] else centre


def centre_of(generator: Generator, latent_avg: Tensor | None, path: Path | str) -> Tensor:
    """(style_dim,): the file's average w, or the mean over a fixed sample where it has none."""
    if latent_avg is None:
        log.warning("%s has no latent_avg: took the mean of %d w drawn with a fixed seed.", path, MEAN_SAMPLES)
        return generator.mean_latent(MEAN_SAMPLES, torch.Generator().manual_seed(0))[0]
    if latent_avg.shape[-1:] != (generator.style_dim,):
        raise InputError(
            f"{path}: its latent_avg has the shape {list(latent_avg.shape)}, where the generator's w has "
            f"{generator.style_dim} numbers."
        )
    return latent_avg.to(torch.float32).reshape(-1, generator.style_dim)[0].clone()


def plain_state(contents: Contents) -> dict[str, Tensor]:
    """The tensors of a file that need not be one of the known kinds: its state_dict, or its top level."""
    tree = contents.tree
    if isinstance(tree, Mapping) and isinstance(tree.get("state_dict"), Mapping):
        tree = tree["state_dict"]
    return {str(k): v for k, v in tree.items() if isinstance(v, Tensor)} if isinstance(tree, Mapping) else {}
