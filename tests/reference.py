"""The authors' networks at golden size, filled with the golden weights: shared by several tests."""

from __future__ import annotations

from sam_age.losses import AgingLosses
from sam_age.models.age import DEX
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.identity import ArcFace
from sam_age.models.perceptual import LPIPS
from sam_age.models.sam import SAM
from sam_age.models.stylegan2 import Generator
from tests.golden import fill, fill_module, manifest


def reference_sam() -> SAM:
    """SAM with a 64-pixel generator, in eval mode."""
    sam = SAM(GradualStyleEncoder(4, 10), GradualStyleEncoder(3, 10), Generator(64))
    return fill_module(sam).eval()


def reference_lpips() -> LPIPS:
    lpips = LPIPS().eval()
    lpips.load_parts(fill(manifest("lpips_alex")["alexnet"]), fill(manifest("lpips_alex")["lin"]))
    return lpips


def reference_losses(**weights) -> AgingLosses:
    """The paper's objective, with ArcFace, DEX and LPIPS."""
    return AgingLosses(fill_module(DEX()).eval(), fill_module(ArcFace()).eval(), reference_lpips(), **weights)


OFFICIAL_TERMS = {
    "loss_id": "identity",
    "loss_l2": "l2",
    "loss_lpips": "lpips",
    "loss_lpips_crop": "lpips_crop",
    "loss_l2_crop": "l2_crop",
    "loss_w_norm": "w_norm",
    "loss_aging": "age",
    "loss": "loss",
}
"""The authors' name of each term -> ours."""


def official_terms(terms: dict, order: list[str]) -> list[float]:
    """Our terms in the authors' order. Their `id_improve` is the similarity to the target less that of the
    source to itself, which is 1."""
    values = {theirs: terms[ours] for theirs, ours in OFFICIAL_TERMS.items()}
    values["id_improve"] = terms["identity_similarity"] - 1
    return [float(values[name]) for name in order]
