"""What is scored: SAM, and the ways to age a face without it, each from the same inversion of the same picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sam_age.evaluation.baselines import LatentBaselines
from sam_age.models.sam import SAM

SAM_ITSELF = "sam"
LOOKED_UP = ("input", "ceiling", "truth")
"""Methods that make no picture of their own for a target age: the input as it is; the inversion of the true portrait
at the target age, which is the best that pSp and the generator can do; the true portrait itself, which is what the
judges make of honest ageing."""

WHAT = {
    SAM_ITSELF: "SAM",
    "input": "the input, unchanged",
    "linear": "linear latent direction",
    "mean_shift": "mean code shift",
    "ceiling": "inversion of the truth (ceiling)",
    "truth": "the true portrait",
}
"""Method -> what to call it; the order of tables."""


@dataclass(frozen=True)
class Request:
    """Faces, and the ages wanted of them."""

    faces: Tensor  # (N, 3, 256, 256) in [-1, 1]
    codes: Tensor  # (N, n_styles, D), their inversions
    source_age: Tensor  # (N,) years, as read off the faces: nothing that makes pictures is told the true one
    target_age: Tensor  # (N,) years


Method = Callable[[Request], tuple[Tensor, Tensor]]
"""-> pictures (N, 3, 256, 256), not clipped, and the codes w+ that they were made of."""


def methods(sam: SAM, baselines: LatentBaselines | None = None) -> dict[str, Method]:
    """The methods that make pictures, by name."""

    def itself(request: Request) -> tuple[Tensor, Tensor]:
        w_plus = sam.edit(request.faces, request.target_age, request.codes)
        return sam.synthesize(w_plus), w_plus

    def linear(request: Request) -> tuple[Tensor, Tensor]:
        w_plus = baselines.linear(request.codes, request.source_age, request.target_age)
        return sam.synthesize(w_plus), w_plus

    def mean_shift(request: Request) -> tuple[Tensor, Tensor]:
        w_plus = baselines.mean_shift(request.codes, request.source_age, request.target_age)
        return sam.synthesize(w_plus), w_plus

    made: dict[str, Method] = {SAM_ITSELF: itself}
    return made if baselines is None else made | {"linear": linear, "mean_shift": mean_shift}
