"""SAM from the files of its parts: where training starts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_age.errors import InputError
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.sam import SAM
from sam_age.models.stylegan2 import Generator
from sam_age.weights.fit import assign
from sam_age.weights.judges import RANDOM
from sam_age.weights.known import KNOWN, how_to_get, resolve
from sam_age.weights.loading import centre_of, fill_network, inspect_file, read_whole
from sam_age.weights.shapes import under

log = logging.getLogger("sam_age")

WIDTHS = ("channel_multiplier", "channel_max")


def build_sam(
    encoder: GradualStyleEncoder,
    pretrained_encoder: GradualStyleEncoder,
    decoder: Generator,
    *,
    checkpoint: str | Path | None = None,
    trunk: str | Path | None = None,
    psp: str | Path | None = None,
    stylegan2: str | Path | None = None,
) -> SAM:
    """SAM to be trained: from one whole file, or as the authors start from scratch.

    From scratch, the age encoder's trunk comes from ArcFace, with its fourth input channel drawn from N(0, 1)
    and its towers as the constructor drew them; the inversion encoder from pSp's file; the generator and
    the centre of W from StyleGAN2's.

    Args:
        encoder, pretrained_encoder, decoder: freshly built parts.
        checkpoint: a whole SAM (the authors' file, a sam-train checkpoint, our safetensors); the other three
            are then not read.
        trunk: model_ir_se50.pth or its like.
        psp: pSp's file.
        stylegan2: rosinality's or NVlabs' StyleGAN2.
            Each of these three may be "random": the part keeps the constructor's weights, with a warning.
    Returns:
        SAM in training mode, as its constructor leaves it.
    Raises:
        InputError: a file is not given, missing, of another kind, or of another size than the part.

    Source: the authors' training from scratch (SAM, section 3.2 and published code).
    """
    if checkpoint is not None:
        return _from_checkpoint(SAM(encoder, pretrained_encoder, decoder), resolve(checkpoint))
    _start_trunk(encoder, trunk)
    _start_inversion(pretrained_encoder, psp)
    latent_avg = _start_generator(decoder, stylegan2)
    return SAM(encoder, pretrained_encoder, decoder, latent_avg)


def _from_checkpoint(sam: SAM, path: Path) -> SAM:
    contents, found = read_whole(path)
    if found.kind != "SAM":
        raise InputError(f"{path} holds {found.looks_like}; model.checkpoint takes a whole SAM.")
    _same_shape(sam.config, found.config, path)
    fill_network(sam, found, contents)
    return sam


def _same_shape(wanted: dict[str, Any], held: dict[str, Any], path: Path) -> None:
    """Name the first constructor argument in which config and file differ.

    Channel widths are left to the strict load: several pairs of arguments give the same ones.
    """
    for part, arguments in wanted.items():
        for name, value in arguments.items():
            stored = held.get(part, {}).get(name, value)
            if name not in ("lr_mlp", *WIDTHS) and json.dumps(stored) != json.dumps(value):
                raise InputError(
                    f"{path} holds {part}.{name}={stored}, the config asks for {value}: "
                    f"set model.{part}.{name}={json.dumps(stored).replace(' ', '')} or take another file."
                )


def _given(weights: str | Path | None, name: str, argument: str) -> Path | None:
    """The file of a part, None for "random"."""
    if weights is None:
        known = KNOWN[name]
        raise InputError(
            f"SAM's start needs {known.what.split(':')[0]}: set {known.key} (model.{argument}) to its file, "
            f"or to random to make one up. {how_to_get(known)}"
        )
    return None if str(weights) == RANDOM else resolve(weights)


def _warn(part: str) -> None:
    log.warning("SAM's %s has random weights: made up on purpose, for benchmarks and smoke tests.", part)


def _start_trunk(encoder: GradualStyleEncoder, weights: str | Path | None) -> None:
    path = _given(weights, "arcface", "trunk")
    if path is None:
        return _warn("encoder trunk")
    contents, found = inspect_file(path)
    if found.kind != "ArcFace":
        raise InputError(
            f"{path} holds {found.looks_like}; the encoder's trunk starts from ArcFace's (model_ir_se50.pth)."
        )
    given = {name: value for name, value in found.state.items() if name.startswith(("input_layer.", "body."))}
    first = "input_layer.0.weight"
    own: Tensor = encoder.input_layer[0].weight
    if first in given and own.shape[1] > given[first].shape[1]:
        colours = given[first].to(own.dtype)
        age = torch.randn(own.shape[0], own.shape[1] - colours.shape[1], *own.shape[2:])
        given[first] = torch.cat([colours, age], dim=1)  # as the authors: std 1, far above trained filters
    for part in ("input_layer", "body"):
        module = getattr(encoder, part)
        assign(module, under(given, f"{part}."), path, f"{found.looks_like} ({part})", copy=contents.mapped)


def _start_inversion(pretrained_encoder: GradualStyleEncoder, weights: str | Path | None) -> None:
    path = _given(weights, "psp", "psp")
    if path is None:
        return _warn("inversion encoder")
    contents, found = inspect_file(path)
    if found.kind not in ("PSP", "GradualStyleEncoder"):
        raise InputError(f"{path} holds {found.looks_like}; the inversion encoder takes pSp's file.")
    state = under(found.state, "encoder.") if found.kind == "PSP" else found.state
    assign(pretrained_encoder, state, path, f"{found.looks_like} (encoder)", copy=contents.mapped)


def _start_generator(decoder: Generator, weights: str | Path | None) -> Tensor:
    path = _given(weights, "stylegan2", "stylegan2")
    if path is None:
        _warn("generator")
        return centre_of(decoder, None, "The random generator")
    contents, found = inspect_file(path)
    if found.kind != "Generator":
        raise InputError(f"{path} holds {found.looks_like}; the generator takes StyleGAN2's file.")
    _same_shape({"decoder": decoder.config}, {"decoder": found.config}, path)
    assign(decoder, found.state, path, found.looks_like, copy=contents.mapped)
    decoder.latent_avg = centre_of(decoder, found.latent_avg, path)
    for note in found.notes:
        log.info("%s: %s.", path, note)
    return decoder.latent_avg
