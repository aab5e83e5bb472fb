"""From a path or a name to a network with its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

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
    path = resolve(path_or_name)
    contents, found = inspect_file(path)
    if contents.mapped and found.bytes() > WHOLE * path.stat().st_size:
        contents = contents.in_memory()
        found = recognise(contents)
    module = network_of(found, contents)
    return module.to(device).eval()


def inspect_file(path: Path) -> tuple[Contents, Checkpoint]:
    """A file's structure and what it was recognised as, its tensors unread where the container allows it."""
    contents = open_file(path)
    return contents, recognise(contents)


def network_of(found: Checkpoint, contents: Contents) -> nn.Module:
    """The network of a recognised file, its weights loaded strictly."""
    module = build(found.kind, found.config, str(contents.path))
    state = dict(found.state)
    adapt = getattr(module, "adapt_state_dict", None)
    if adapt is not None:
        state = adapt(state)
    own = hasattr(module, "latent_avg") and found.kind in ("SAM", "PSP")
    if own and "latent_avg" not in state:
        expected: Tensor = module.latent_avg
        given = expected if found.latent_avg is None else found.latent_avg
        state["latent_avg"] = given.expand_as(expected) if given.ndim == 1 else given
    assign(module, state, contents.path, found.looks_like, copy=contents.mapped)
    _centre(module, found, contents.path, known="latent_avg" in found.state)
    for note in found.notes:
        log.info("%s: %s.", contents.path, note)
    return module


def _centre(module: nn.Module, found: Checkpoint, path: Path, known: bool) -> None:
    """Set the generator's centre of W, estimating it where the file has none."""
    if isinstance(module, Generator):
        module.latent_avg = centre_of(module, found.latent_avg, path)
    elif found.kind in ("SAM", "PSP"):
        if found.latent_avg is None and not known:
            module.latent_avg.copy_(centre_of(module.decoder, None, path))
        module.decoder.latent_avg = module.latent_avg.mean(0)


def centre_of(generator: Generator, latent_avg: Tensor | None, path: Path | str) -> Tensor:
    """(style_dim,): the file's average w, or the mean over a fixed sample where it has none."""
    if latent_avg is not None:
        flat = latent_avg.to(torch.float32).reshape(-1, generator.style_dim)
        return flat[0].clone()
    log.warning(
        "%s has no latent_avg: took the mean of %d w drawn with a fixed seed instead.", path, MEAN_SAMPLES
    )
    return generator.mean_latent(MEAN_SAMPLES, torch.Generator().manual_seed(0))[0]


def plain_state(contents: Contents) -> dict[str, Tensor]:
    """The tensors of a file that need not be one of the known kinds: its state_dict, or its top level."""
    tree = contents.tree
    if isinstance(tree, Mapping) and isinstance(tree.get("state_dict"), Mapping):
        tree = tree["state_dict"]
    return {str(k): v for k, v in tree.items() if isinstance(v, Tensor)} if isinstance(tree, Mapping) else {}
