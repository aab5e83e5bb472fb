"""The networks that are measured: those of conf/, with made-up weights.

The configs are read as plain YAML, so that a benchmark also runs where Hydra is not installed.
"""

from __future__ import annotations

from typing import Any

import yaml
from torch import nn

from sam_age.config import CONF_DIR
from sam_age.losses import AgingLosses
from sam_age.models.sam import SAM

SIZES = ("1024", "256_small", "tiny")
"""conf/model/sam_<size>.yaml: the authors' model, the package's own, and one that takes no time."""


def config(group: str, name: str) -> dict[str, Any]:
    """conf/<group>/<name>.yaml as it stands, nothing interpolated."""
    return yaml.safe_load((CONF_DIR / group / f"{name}.yaml").read_text(encoding="utf-8"))


def fast_step(*, uncompiled: bool = False) -> dict[str, Any]:
    """What conf/experiment/fast.yaml sets of `AgingModule`; `uncompiled`: without what takes minutes to begin."""
    return config("experiment", "fast")["module"] | ({"compiled": []} if uncompiled else {})


def arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """A constructor's own arguments: without what Hydra needs (`_target_` and its like)."""
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def random_sam(size: str, pixels: int | None = None) -> SAM:
    """SAM of a size in `SIZES`, as its constructor draws it; in eval mode.

    Args:
        pixels: side of its pictures where it is to be another, a power of two: what cost grows with.
    """
    model = config("model", f"sam_{size}")
    parts = {part: arguments(model[part]) for part in ("encoder", "pretrained_encoder", "decoder")}
    if pixels is not None:
        parts["decoder"]["size"] = pixels
        for part in ("encoder", "pretrained_encoder"):
            parts[part]["n_styles"] = 2 * pixels.bit_length() - 4
    return SAM.from_config(parts).eval()


def random_losses(size: str) -> AgingLosses:
    """The paper's objective: DEX, ArcFace and LPIPS for the full size, small networks for the others."""
    from sam_age.models.age import DEX, AgeClassifier
    from sam_age.models.identity import ArcFace, FaceEmbedder
    from sam_age.models.perceptual import LPIPS, FeatureDistance

    networks: list[nn.Module] = [DEX(), ArcFace(), LPIPS()]
    if size != "1024":
        small = {"widths": (8, 16, 32), "depths": (1, 1, 1), "image_size": 64}
        networks = [AgeClassifier(**small), FaceEmbedder(**small), FeatureDistance(FaceEmbedder(**small))]
    weights = {name: value for name, value in config("losses", "paper").items() if isinstance(value, int | float)}
    return AgingLosses(*networks, **weights).eval()
