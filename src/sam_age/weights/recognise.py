"""From what a file holds to which network it is: by names and shapes, never by the file's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sam_age.errors import InputError
from sam_age.weights import shapes
from sam_age.weights.files import Contents
from sam_age.weights.shapes import under

FORMAT = "sam-age/1"

KNOWN_FORMS = (
    "the authors' SAM file",
    "a pSp file",
    "rosinality's StyleGAN2 (g_ema)",
    "NVlabs' StyleGAN2 pickle (G_ema)",
    "model_ir_se50.pth (ArcFace)",
    "dex_age_classifier.pth (DEX)",
    "facenet-pytorch's InceptionResnetV1",
    "a sam-train .ckpt",
    "a .safetensors file of sam-age",
)


@dataclass
class Checkpoint:
    """A recognised file.

    Attributes:
        kind: name of the network's class, e.g. "SAM".
        looks_like: what to call the file in a message.
        config: the network's constructor arguments.
        state: its tensors by the names of its state dict, perhaps views of the file.
        latent_avg: centre of W where the file keeps it beside the state dict, else None.
        opts: training options that the file carries.
        notes: what was missing or taken instead, one sentence each.
    """

    kind: str
    looks_like: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    latent_avg: Tensor | None = None
    opts: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state.values())


def recognise(contents: Contents) -> Checkpoint:
    """Tell which network a file holds.

    Raises:
        InputError: none that is known, or one that cannot be used alone.
    """
    tree = contents.tree
    if contents.container == "safetensors":
        return _ours(contents)
    if contents.container == "nvlabs":
        return _nvlabs(contents)
    if not isinstance(tree, Mapping):
        raise InputError(f"{contents.path} holds a {type(tree).__name__}, not tensors by name.{_known()}")
    state = tree.get("state_dict", tree)
    if not isinstance(state, Mapping):
        raise InputError(f"{contents.path}: its state_dict is a {type(state).__name__}.{_known()}")
    for form in (_lightning, _sam_or_psp, _stylegan2, _arcface, _dex, _facenet):
        found = form(contents, tree, tensors(state))
        if found is not None:
            return found
    raise InputError(_unknown(contents, tree, state))


def tensors(tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries that are tensors."""
    return {str(name): value for name, value in tree.items() if isinstance(value, Tensor)}


def _known() -> str:
    return " Known: " + "; ".join(KNOWN_FORMS) + "."


def _unknown(contents: Contents, tree: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    if "features.0.weight" in state and "classifier.6.weight" in state:
        return (
            f"{contents.path} is torchvision's AlexNet, which is only a part of LPIPS: "
            f"give it as weights.alexnet instead of loading it alone."
        )
    if any("weight_orig" in name for name in tensors_of(tree.get("g_ema"))):
        return f"{contents.path} is a StyleGAN2 file in the layout of before 2019-12-19: convert it anew."
    inner = "" if state is tree else f", in state_dict {_names(state)}"
    return f"{contents.path} is no file that sam-age knows: its keys are {_names(tree)}{inner}.{_known()}"


def tensors_of(value: Any) -> dict[str, Tensor]:
    return tensors(value) if isinstance(value, Mapping) else {}


def _names(tree: Mapping[str, Any], most: int = 5) -> str:
    names = [str(name) for name in tree]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


# ---- our own -------------------------------------------------------------------------------------------


def _ours(contents: Contents) -> Checkpoint:
    metadata = contents.metadata
    if metadata.get("format") != FORMAT:
        found = f"format {metadata['format']!r}" if "format" in metadata else "no format"
        raise InputError(
            f"{contents.path} is a safetensors file without sam-age's metadata ({found}; its keys are "
            f"{_names(contents.tree)}). `sam-weights convert` makes such files from the authors' ones."
        )
    try:
        kind, config = metadata["kind"], json.loads(metadata["config"])
        if not isinstance(config, dict):
            raise ValueError("config is not a dictionary")
    except (KeyError, ValueError) as error:
        raise InputError(f"{contents.path}: damaged metadata ({error}). Convert the original again.") from None
    state = contents.tree  # not a copy: loading empties it as it goes
    latent_avg = state.get("latent_avg") if kind == "Generator" else None
    if latent_avg is not None:
        state = {name: value for name, value in state.items() if name != "latent_avg"}
    return Checkpoint(kind, f"a {FORMAT} file of {kind}", config, state, latent_avg)


def _lightning(contents: Contents, tree: Mapping[str, Any], state: dict[str, Tensor]) -> Checkpoint | None:
    for kind, prefix, looks_like in (
        ("SAM", "sam.", "a sam-train checkpoint"),
        ("PSP", "psp.", "an inversion's sam-train checkpoint"),
    ):
        whole = under(state, prefix)
        if any(name.startswith("encoder.") for name in whole):
            notes = []
            if averaged := under(state, "ema_encoder."):
                whole = {name: value for name, value in whole.items() if not name.startswith("encoder.")}
                whole |= {f"encoder.{name}": value for name, value in averaged.items()}
                notes.append("took the averaged (EMA) encoder")
            if averaged := under(state, "ema_decoder."):
                whole |= {f"decoder.{name}": value for name, value in averaged.items()}
                notes.append("took the averaged (EMA) generator")
            return Checkpoint(kind, looks_like, tree.get("network") or sam_config(whole), whole, notes=notes)
    if generator := under(state, "generator_ema."):
        return _gan(tree, generator)
    if "pytorch-lightning_version" in tree:
        raise InputError(
            f"{contents.path} is a Lightning checkpoint, but holds no SAM (no sam.encoder.*; its tensors are "
            f"{_names(state)}). A stage's networks are in the folder weights/ of its run."
        )
    return None


def _gan(tree: Mapping[str, Any], generator: dict[str, Tensor]) -> Checkpoint:
    config = (tree.get("network") or {}).get("generator") or shapes.generator(generator)
    latent_avg = tree.get("latent_avg")
    notes = ["took the averaged (EMA) generator"]
    return Checkpoint("Generator", "a GAN's sam-train checkpoint", config, generator, latent_avg, notes=notes)


# ---- the authors' --------------------------------------------------------------------------------------


def sam_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor arguments of the parts that a SAM or pSp state dict holds."""
    decoder = shapes.generator(under(state, "decoder."))
    styles = 2 * (decoder["size"].bit_length() - 1) - 2
    config: dict[str, Any] = {"encoder": shapes.encoder(under(state, "encoder."), styles)}
    if inversion := under(state, "pretrained_encoder."):
        config["pretrained_encoder"] = shapes.encoder(inversion, styles)
    return config | {"decoder": decoder}


def _sam_or_psp(contents: Contents, tree: Mapping[str, Any], state: dict[str, Tensor]) -> Checkpoint | None:
    if not {"encoder", "decoder"} <= {name.split(".")[0] for name in state}:
        return None
    config = sam_config(state)
    latent_avg = tree.get("latent_avg")
    latent_avg = latent_avg if isinstance(latent_avg, Tensor) else None
    opts = tree.get("opts")
    opts = dict(vars(opts) if hasattr(opts, "__dict__") and not isinstance(opts, Mapping) else opts or {})
    if "pretrained_encoder" in config:
        return Checkpoint("SAM", "the authors' SAM file", config, state, latent_avg, opts)
    if config["encoder"]["in_channels"] == 3:
        found = Checkpoint("PSP", "a pSp file", config, state, latent_avg, opts)
        if latent_avg is None and opts.get("start_from_latent_avg") is False:
            size = (config["encoder"]["n_styles"], config["encoder"]["style_dim"])
            found.latent_avg = torch.zeros(size)  # its encoder was trained without an offset
            found.notes.append("trained without start_from_latent_avg: codes get no offset")
        return found
    raise InputError(
        f"{contents.path} looks like a SAM file, but has no pretrained_encoder.*: it was trained without "
        f"start_from_encoded_w_plus, which sam-age does not support."
    )


def _stylegan2(contents: Contents, tree: Mapping[str, Any], state: dict[str, Tensor]) -> Checkpoint | None:
    notes: list[str] = []
    if "g_ema" in tree or "g" in tree:
        part = "g_ema" if "g_ema" in tree else "g"
        weights = tensors_of(tree[part])
        if part == "g":
            notes.append("the file has no g_ema: took g, the weights without averaging")
    else:
        weights = state
    if "style.1.weight" not in weights and "to_rgb1.bias" not in weights:
        return None
    if any(name.endswith("weight_orig") for name in weights):
        return None
    latent_avg = tree.get("latent_avg")
    if not isinstance(latent_avg, Tensor):
        latent_avg = weights.pop("latent_avg", None)
    config = shapes.generator(weights)
    found = Checkpoint("Generator", "rosinality's StyleGAN2 file", config, weights, latent_avg, notes=notes)
    _fill_noises(found)
    return found


def _nvlabs(contents: Contents) -> Checkpoint:
    state = dict(contents.tree)
    latent_avg = state.pop("latent_avg", None)
    config = shapes.generator(state) | {"lr_mlp": contents.metadata["lr_mlp"]}
    found = Checkpoint("Generator", "NVlabs' StyleGAN2 pickle", config, state, latent_avg)
    if clamp := contents.metadata["conv_clamp"]:
        found.notes.append(
            f"trained with activations clamped to +-{clamp:g} for fp16; here they are not, which only tells "
            f"where an activation would pass that bound"
        )
    _fill_noises(found)
    return found


def _fill_noises(found: Checkpoint) -> None:
    """Files converted before 2020-01-15 hold no noise maps: make them, the same ones every time."""
    if any(name.startswith("noises.") for name in found.state):
        return
    generator = torch.Generator().manual_seed(0)
    layers = 2 * (found.config["size"].bit_length() - 1) - 3
    for layer in range(layers):
        side = 2 ** ((layer + 5) // 2)
        found.state[f"noises.noise_{layer}"] = torch.randn(1, 1, side, side, generator=generator)
    found.notes.append(f"the file has no noise maps: {layers} were drawn with a fixed seed")


# ---- the judges ----------------------------------------------------------------------------------------


def _arcface(contents: Contents, tree: Mapping[str, Any], state: dict[str, Tensor]) -> Checkpoint | None:
    if "input_layer.0.weight" not in state or not any(name.startswith("output_layer.") for name in state):
        return None
    return Checkpoint("ArcFace", "ArcFace IR-SE-50 (model_ir_se50.pth)", {}, state)


def _dex(contents: Contents, tree: Mapping[str, Any], state: dict[str, Tensor]) -> Checkpoint | None:
    renamed = {name.replace("-", "_"): value for name, value in state.items()}
    if not any(name in renamed for name in ("fc8_101.weight", "conv5_3.weight")):
        return None
    return Checkpoint("DEX", "the DEX age classifier", {}, renamed)


def _facenet(contents: Contents, tree: Mapping[str, Any], state: dict[str, Tensor]) -> Checkpoint | None:
    if "conv2d_1a.conv.weight" not in state:
        return None
    return Checkpoint("FaceNet", "facenet-pytorch's InceptionResnetV1", {}, state)
