"""SAM and pSp from the files of their parts: where training starts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_age.errors import InputError
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.sam import PSP, SAM
from sam_age.models.stylegan2 import Generator
from sam_age.weights.fit import assign
from sam_age.weights.judges import RANDOM
from sam_age.weights.known import KNOWN, how_to_get, resolve
from sam_age.weights.loading import centre_of, fill_network, inspect_file, read_whole
from sam_age.weights.shapes import under

log = logging.getLogger("sam_age")

WIDTHS = ("channel_multiplier", "channel_max")


TOWERS = ("random", "zero")

INVERSIONS = {"SAM": "pretrained_encoder.", "PSP": "encoder.", "GradualStyleEncoder": ""}
"""Kinds of files that hold an inversion encoder, and where in them it is."""


def build_sam(
    encoder: GradualStyleEncoder,
    pretrained_encoder: GradualStyleEncoder,
    decoder: Generator,
    *,
    checkpoint: str | Path | None = None,
    trunk: str | Path | None = None,
    psp: str | Path | None = None,
    stylegan2: str | Path | None = None,
    age_channel_std: float = 1.0,
    towers: str = "random",
) -> SAM:
    """SAM to be trained: from one whole file, or as the authors start from scratch.

    From scratch, the age encoder's trunk comes from ArcFace, with its fourth input channel drawn from N(0, 1)
    and its towers as the constructor drew them; the inversion encoder from pSp's file; the generator and
    the centre of W from StyleGAN2's. Each may also come out of a file that holds more.

    Args:
        encoder, pretrained_encoder, decoder: freshly built parts.
        checkpoint: a whole SAM (the authors' file, a sam-train checkpoint, our safetensors); what follows has then
            no effect.
        trunk: model_ir_se50.pth or its like; or what `psp` takes: the trunk of its inversion encoder.
        psp: pSp's file, an inversion encoder alone, or a whole SAM: its inversion encoder.
        stylegan2: rosinality's or NVlabs' StyleGAN2, or a whole pSp or SAM: its generator and centre of W.
            Each of these three may be "random": the part keeps the constructor's weights, with a warning.
        age_channel_std: deviation of the age channel's filters, where the trunk comes from a file. The authors' 1 is
            far above trained filters, so that a large trunk has to learn anew and a small one is overwhelmed.
        towers: "random", the authors'; or "zero": the towers' last layers start at 0, so that SAM starts as the
            plain inversion, whatever the age.
    Returns:
        SAM in training mode, as its constructor leaves it.
    Raises:
        InputError: a file is not given, missing, of another kind, or of another size than the part.

    Source: the authors' training from scratch (SAM, section 3.2 and published code).
    """
    if towers not in TOWERS:
        raise InputError(f"model.towers is one of {', '.join(TOWERS)}, not {towers!r}.")
    if checkpoint is not None:
        return _from_checkpoint(SAM(encoder, pretrained_encoder, decoder), resolve(checkpoint))
    if _start_trunk(encoder, trunk, age_channel_std) is None:
        _warn("encoder trunk")
    _start_inversion(pretrained_encoder, psp)
    latent_avg = _start_generator(decoder, stylegan2)
    if towers == "zero":
        for tower in encoder.styles:
            torch.nn.init.zeros_(tower.linear.weight)
            torch.nn.init.zeros_(tower.linear.bias)
    return SAM(encoder, pretrained_encoder, decoder, latent_avg)


def build_psp(
    encoder: GradualStyleEncoder,
    decoder: Generator,
    *,
    checkpoint: str | Path | None = None,
    trunk: str | Path | None = None,
    psp: str | Path | None = None,
    stylegan2: str | Path | None = None,
) -> PSP:
    """pSp to be trained: from one whole file, or with ArcFace's trunk in front of a trained generator.

    Args:
        encoder, decoder: freshly built parts.
        checkpoint: a whole pSp; the other three are then not read.
        trunk: as of `build_sam`; "random": all of the encoder is as the constructor drew it.
        psp: an encoder to go on from, as of `build_sam`; the trunk is then not read.
        stylegan2: as of `build_sam`.
    Returns:
        PSP, its generator frozen.
    Raises:
        InputError: as of `build_sam`.

    Source: pSp (Richardson et al. 2021), section 3.1 and published code.
    """
    if checkpoint is not None:
        whole = _from_checkpoint(PSP(encoder, decoder), resolve(checkpoint))
    else:
        if psp is not None:
            _start_inversion(encoder, psp)
        elif _start_trunk(encoder, trunk) is None:
            log.info("The inversion encoder learns from nothing: no trunk was given.")
        whole = PSP(encoder, decoder, _start_generator(decoder, stylegan2))
    whole.decoder.requires_grad_(False)
    return whole


def _from_checkpoint(model: Any, path: Path) -> Any:
    contents, found = read_whole(path)
    if found.kind != type(model).__name__:
        what = "SAM" if isinstance(model, SAM) else "pSp"
        raise InputError(f"{path} holds {found.looks_like}; model.checkpoint takes a whole {what}.")
    _same_shape(model.config, found.config, path)
    fill_network(model, found, contents)
    return model


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
            f"Training starts from {known.what.split(':')[0]}: set {known.key} (model.{argument}) to its file, "
            f"or to random to make one up. {how_to_get(known)}"
        )
    return None if str(weights) == RANDOM else resolve(weights)


def _warn(part: str) -> None:
    log.warning("SAM's %s has random weights: made up on purpose, for benchmarks and smoke tests.", part)


def _start_trunk(encoder: GradualStyleEncoder, weights: str | Path | None, age_channel_std: float = 1.0) -> Path | None:
    """The file that the trunk now comes from; None for the constructor's."""
    path = _given(weights, "arcface", "trunk")
    if path is None:
        return None
    contents, found = inspect_file(path)
    if found.kind != "ArcFace" and found.kind not in INVERSIONS:
        raise InputError(
            f"{path} holds {found.looks_like}; the encoder's trunk starts from ArcFace's (model_ir_se50.pth), "
            "or from a pSp's or SAM's."
        )
    state = under(found.state, INVERSIONS.get(found.kind, ""))
    given = {name: value for name, value in state.items() if name.startswith(("input_layer.", "body."))}
    first = "input_layer.0.weight"
    own: Tensor = encoder.input_layer[0].weight
    if first in given and own.shape[1] > given[first].shape[1]:
        colours = given[first].to(own.dtype)
        age = torch.randn(own.shape[0], own.shape[1] - colours.shape[1], *own.shape[2:])
        given[first] = torch.cat([colours, age_channel_std * age], dim=1)
    for part in ("input_layer", "body"):
        module = getattr(encoder, part)
        assign(module, under(given, f"{part}."), path, f"{found.looks_like} ({part})", copy=contents.mapped)
    return path


def _start_inversion(pretrained_encoder: GradualStyleEncoder, weights: str | Path | None) -> None:
    path = _given(weights, "psp", "psp")
    if path is None:
        return _warn("inversion encoder")
    contents, found = inspect_file(path)
    if found.kind not in INVERSIONS:
        raise InputError(f"{path} holds {found.looks_like}; the inversion encoder takes pSp's file, or a whole SAM's.")
    state = under(found.state, INVERSIONS[found.kind])
    assign(pretrained_encoder, state, path, f"{found.looks_like} (encoder)", copy=contents.mapped)


def _start_generator(decoder: Generator, weights: str | Path | None) -> Tensor:
    """The centre of W, (style_dim,) or (n_styles, style_dim)."""
    path = _given(weights, "stylegan2", "stylegan2")
    if path is None:
        _warn("generator")
        return centre_of(decoder, None, "The random generator")
    contents, found = inspect_file(path)
    whole = found.kind in ("SAM", "PSP")
    if found.kind != "Generator" and not whole:
        raise InputError(
            f"{path} holds {found.looks_like}; the generator takes StyleGAN2's file, or a whole pSp's or SAM's."
        )
    _same_shape({"decoder": decoder.config}, {"decoder": found.config["decoder"] if whole else found.config}, path)
    state = under(found.state, "decoder.") if whole else found.state
    latent_avg = found.state.get("latent_avg", found.latent_avg) if whole else found.latent_avg
    assign(decoder, state, path, found.looks_like, copy=contents.mapped)
    for note in found.notes:
        log.info("%s: %s.", path, note)
    if whole and latent_avg is not None and latent_avg.ndim == 2:
        return _centre_of_styles(decoder, latent_avg, path)
    decoder.latent_avg = centre_of(decoder, latent_avg, path)
    return decoder.latent_avg


def _centre_of_styles(decoder: Generator, latent_avg: Tensor, path: Path) -> Tensor:
    """A whole model's centre, one row a style (n_styles, style_dim); the generator's own is their mean."""
    wanted = (decoder.n_latent, decoder.style_dim)
    if latent_avg.shape != wanted:
        raise InputError(f"{path}: its latent_avg has the shape {list(latent_avg.shape)}, not {list(wanted)}.")
    latent_avg = latent_avg.to(torch.float32).clone()
    decoder.latent_avg = latent_avg.mean(0)
    return latent_avg
