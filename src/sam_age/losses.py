"""Every term of SAM's objective and of pSp's, and their weighted sums.

Sources: SAM (Alaluf et al. 2021), section 3.3; pSp (Richardson et al. 2021), section 3.2; both with the weights and
details of the authors' published runs.
All terms are computed on 256-pixel images in [-1, 1], at float32 or better whatever precision made them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.models.age import AgeNet
from sam_age.models.identity import IdentityNet, face_crop
from sam_age.models.ops import at_least_float32
from sam_age.models.perceptual import PerceptualNet
from sam_age.models.side_by_side import Part, side_by_side


def identity_weight(source_age: Tensor, target_age: Tensor) -> Tensor:
    """How firmly to hold on to identity: 1 at the same age, 0.5 a century away.

    Args:
        source_age: estimated age of the input face, shape (N,), years.
        target_age: requested age, shape (N,), years.
    Returns:
        Weight of each face's identity loss, shape (N,), in [0.5, 1].

    Source: SAM (Alaluf et al. 2021), weighted identity loss.

    >>> identity_weight(torch.tensor([30., 0.]), torch.tensor([30., 100.]))
    tensor([1.0000, 0.5000])
    """
    gap = (target_age - source_age).abs() / 100
    return 0.75 + 0.25 * torch.cos(torch.pi * gap)


def age_loss(predicted_age: Tensor, target_age: Tensor) -> Tensor:
    """Mean squared error of ages (N,) in centuries: ((predicted - target) / 100)^2.

    >>> age_loss(torch.tensor([30., 60.]), torch.tensor([40., 60.]))
    tensor(0.0050)
    """
    return F.mse_loss(predicted_age / 100, target_age / 100)


def w_norm(w_plus: Tensor, latent_avg: Tensor) -> Tensor:
    """Mean distance of codes (N, n_styles, D) from the average latent, over all styles at once.

    >>> w_norm(torch.full((2, 1, 4), 3.), torch.ones(1, 4))
    tensor(4.)
    """
    return torch.linalg.vector_norm(w_plus - latent_avg, dim=(1, 2)).mean()


@dataclass(frozen=True)
class Source:
    """What the losses need to know of the input faces; computed once a step, without gradients."""

    faces: Tensor  # (N, 3, 256, 256) in [-1, 1]
    age: Tensor  # (N,) years, by the age network
    identity: Tensor | None  # (N, D) unit embeddings
    features: list[Tensor] | None  # perceptual features of the whole face
    crop_features: list[Tensor] | None  # and of the identity crop


class AgingLosses(nn.Module):
    """The weighted sum of SAM's terms.

    Args:
        age_net: faces -> ages in years, differentiable, frozen.
        identity_net: faces -> unit embeddings; may be None when `identity` is 0.
        perceptual_net: LPIPS or its like; may be None when all three lpips weights are 0.
        l2, lpips: weights on the whole face in passes that keep the age, and in the cycle.
        l2_aging, lpips_aging: the same in passes that change the age.
        l2_crop, lpips_crop: weights on the identity crop, in every pass.
        identity, age, w_norm: weights of the other terms.
        code: of the mean squared distance of w+ from the code that ageing is expected to lead to, where one is given;
            not one of the paper's terms.
        weighted_identity: relax identity with the age gap (`identity_weight`).

    A term whose weight is 0 is not computed. The defaults are the paper's run.
    """

    def __init__(
        self,
        age_net: AgeNet,
        identity_net: IdentityNet | None = None,
        perceptual_net: PerceptualNet | None = None,
        *,
        l2: float = 0.25,
        l2_aging: float = 0.25,
        l2_crop: float = 1.0,
        lpips: float = 0.1,
        lpips_aging: float = 0.1,
        lpips_crop: float = 0.6,
        identity: float = 0.1,
        age: float = 5.0,
        w_norm: float = 0.005,
        code: float = 0.0,
        weighted_identity: bool = True,
    ) -> None:
        super().__init__()
        weights = {
            "l2": l2,
            "l2_aging": l2_aging,
            "l2_crop": l2_crop,
            "lpips": lpips,
            "lpips_aging": lpips_aging,
            "lpips_crop": lpips_crop,
            "identity": identity,
            "age": age,
            "w_norm": w_norm,
            "code": code,
        }
        _check(weights, identity_net, perceptual_net)
        self.weights = weights
        self.weighted_identity = weighted_identity
        self.age_net = age_net.requires_grad_(False).eval()
        self.identity_net = identity_net.requires_grad_(False).eval() if identity else None
        uses_lpips = lpips or lpips_aging or lpips_crop
        self.perceptual_net = perceptual_net.requires_grad_(False).eval() if uses_lpips else None

    def train(self, mode: bool = True) -> AgingLosses:
        """The judges stay in eval mode: their statistics are not ours to change."""
        return super().train(False)

    @torch.no_grad()
    def describe(self, faces: Tensor, age: Tensor | None = None, identity: Tensor | None = None) -> Source:
        """Age, identity and features of the input faces (N, 3, 256, 256): once a step.

        age, identity: what the networks said of them before, (N,) and (N, D), if it is known.
        """
        weights, net = self.weights, self.perceptual_net
        whole = net is not None and (weights["lpips"] or weights["lpips_aging"])
        crop = net is not None and weights["lpips_crop"]
        parts: dict[str, Part] = {}
        if age is None:
            parts["age"] = lambda x: at_least_float32(self.age_net(x))
        if identity is None and self.identity_net is not None:
            parts["identity"] = lambda x: at_least_float32(self.identity_net(x))
        if whole:
            parts["features"] = net.features
        if crop:
            parts["crop_features"] = lambda x: net.features(face_crop(x))
        found = dict(zip(parts, side_by_side(list(parts.values()), faces), strict=True))
        known = {"age": age, "identity": identity, "features": None, "crop_features": None}
        return Source(faces=faces, **known | found)

    def term_names(self, *, aging: bool) -> list[str]:
        """What `forward` reports for passes that change the age, or keep it."""
        weights, suffix = self.weights, "_aging" if aging else ""
        gates = {
            "l2": weights[f"l2{suffix}"],
            "l2_crop": weights["l2_crop"],
            "lpips": weights[f"lpips{suffix}"],
            "lpips_crop": weights["lpips_crop"],
            "identity": weights["identity"],
            "identity_similarity": weights["identity"],
            "age": weights["age"],
            "age_error": weights["age"],
            "w_norm": weights["w_norm"],
        }
        return [name for name, weight in gates.items() if weight] + ["loss"]

    def forward(
        self,
        images: Tensor,
        w_plus: Tensor,
        source: Source,
        target_age: Tensor,
        *,
        latent_avg: Tensor,
        aging: bool,
        expected: Tensor | None = None,
        truth: Source | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective for one pass, against the source faces; or against true portraits, where there are any.

        What ageing should have given is then known as well as when the age is kept: so the truth takes the source's
        place in the pixel and perceptual terms, with the weights of passes that keep the age.

        Args:
            images: (N, 3, 256, 256), what SAM made of the faces.
            w_plus: (N, n_styles, D), the codes they were made from.
            source: what `describe` found in the input faces.
            target_age: (N,) years.
            latent_avg: (n_styles, D).
            aging: whether this pass changes the age (which selects `l2_aging` and `lpips_aging`).
            expected: (N, n_styles, D), codes that w+ is to stay near; None leaves the term out.
            truth: the same people's portraits at the target ages; None: nobody knows them, as in the paper.
        Returns:
            loss, a scalar; and its terms before weighting, detached, with `identity_similarity` (mean
            cosine to the source) and `age_error` (mean absolute error, years) for the log.
        """
        images = at_least_float32(images)
        weights = self.weights
        like = source if truth is None else truth  # what the pictures are to look like
        suffix = "_aging" if aging and truth is None else ""
        l2_weight, lpips_weight = weights[f"l2{suffix}"], weights[f"lpips{suffix}"]
        weighted: list[Tensor] = []
        terms: dict[str, Tensor] = {}

        def add(name: str, weight: float, value: Tensor) -> None:
            weighted.append(weight * value)
            terms[name] = value.detach()

        if l2_weight:
            add("l2", l2_weight, F.mse_loss(images, like.faces))
        if weights["l2_crop"]:
            add("l2_crop", weights["l2_crop"], F.mse_loss(face_crop(images), face_crop(like.faces)))
        judged = self.judge(images, like, source, lpips=bool(lpips_weight))
        if "lpips" in judged:
            add("lpips", lpips_weight, judged["lpips"].mean())
        if "lpips_crop" in judged:
            add("lpips_crop", weights["lpips_crop"], judged["lpips_crop"].mean())
        if "similarity" in judged:
            firmness = identity_weight(source.age, target_age) if self.weighted_identity else 1.0
            add("identity", weights["identity"], (firmness * (1 - judged["similarity"])).mean())
            terms["identity_similarity"] = judged["similarity"].detach().mean()
        if "age" in judged:
            add("age", weights["age"], age_loss(judged["age"], target_age))
            terms["age_error"] = (judged["age"].detach() - target_age).abs().mean()
        if weights["w_norm"]:
            add("w_norm", weights["w_norm"], w_norm(at_least_float32(w_plus), latent_avg))
        if weights["code"] and expected is not None:
            add("code", weights["code"], F.mse_loss(at_least_float32(w_plus), expected))
        if not weighted:
            raise ValueError("Every loss weight is 0: there is nothing to learn from.")
        loss = torch.stack(weighted).sum()
        terms["loss"] = loss.detach()
        return loss, terms

    def judge(self, images: Tensor, like: Source, source: Source, *, lpips: bool) -> dict[str, Tensor]:
        """What the frozen networks say of images (N, 3, 256, 256), (N,) each: distances from what they are to look
        like (of whole faces where `lpips`), cosines to the source, ages. What counts for nothing is left out."""
        net = self.perceptual_net
        parts: dict[str, Part] = {}
        if self.weights["age"]:
            parts["age"] = lambda x: at_least_float32(self.age_net(x))
        if self.weights["identity"]:
            parts["similarity"] = lambda x: (at_least_float32(self.identity_net(x)) * source.identity).sum(1)
        if lpips:
            parts["lpips"] = lambda x: net.distance(net.features(x), like.features)
        if self.weights["lpips_crop"]:
            parts["lpips_crop"] = lambda x: net.distance(net.features(face_crop(x)), like.crop_features)
        return dict(zip(parts, side_by_side(list(parts.values()), images), strict=True))


class InversionLosses(nn.Module):
    """The weighted sum of pSp's terms, and of one for faces whose code is known.

    Args:
        identity_net: faces -> unit embeddings; may be None when `identity` is 0.
        perceptual_net: LPIPS or its like; may be None when both lpips weights are 0.
        l2, lpips: weights on the whole face.
        l2_crop, lpips_crop: on the identity crop.
        identity: of 1 - cosine to the face's embedding.
        w_norm: of the distance of w+ from the average latent.
        code: of the mean squared error of w+ where the true code is known, which is where the generator made the face.

    A term whose weight is 0 is not computed. The defaults are pSp's run on FFHQ.
    """

    def __init__(
        self,
        identity_net: IdentityNet | None = None,
        perceptual_net: PerceptualNet | None = None,
        *,
        l2: float = 1.0,
        l2_crop: float = 0.0,
        lpips: float = 0.8,
        lpips_crop: float = 0.0,
        identity: float = 0.1,
        w_norm: float = 0.005,
        code: float = 1.0,
    ) -> None:
        super().__init__()
        weights = {
            "l2": l2,
            "l2_crop": l2_crop,
            "lpips": lpips,
            "lpips_crop": lpips_crop,
            "identity": identity,
            "w_norm": w_norm,
            "code": code,
        }
        _check(weights, identity_net, perceptual_net)
        if not any(weight for name, weight in weights.items() if name != "code"):
            raise ValueError("Every loss weight but that of codes is 0: there is nothing to learn from.")
        self.weights = weights
        self.identity_net = identity_net.requires_grad_(False).eval() if identity else None
        self.perceptual_net = perceptual_net.requires_grad_(False).eval() if lpips or lpips_crop else None

    def train(self, mode: bool = True) -> InversionLosses:
        """The judges stay in eval mode: their statistics are not ours to change."""
        return super().train(False)

    def forward(
        self, images: Tensor, w_plus: Tensor, faces: Tensor, *, latent_avg: Tensor, codes: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective for one pass.

        Args:
            images: (N, 3, 256, 256), what the generator made of the codes.
            w_plus: (N, n_styles, D), the codes the encoder made of the faces.
            faces: (N, 3, 256, 256) in [-1, 1].
            latent_avg: (n_styles, D).
            codes: (K, n_styles, D), the true codes of the last K faces, if any are known.
        Returns:
            loss, a scalar; and its terms before weighting, detached, with `identity_similarity` (mean cosine) for
            the log.
        """
        images, w_plus, faces = at_least_float32(images), at_least_float32(w_plus), at_least_float32(faces)
        weights = self.weights
        weighted: list[Tensor] = []
        terms: dict[str, Tensor] = {}

        def add(name: str, value: Tensor) -> None:
            weighted.append(weights[name] * value)
            terms[name] = value.detach()

        if weights["l2"]:
            add("l2", F.mse_loss(images, faces))
        if weights["l2_crop"]:
            add("l2_crop", F.mse_loss(face_crop(images), face_crop(faces)))
        if weights["lpips"]:
            add("lpips", self._perceptual_distance(images, faces))
        if weights["lpips_crop"]:
            add("lpips_crop", self._perceptual_distance(face_crop(images), face_crop(faces)))
        if weights["identity"]:
            with torch.no_grad():
                own = at_least_float32(self.identity_net(faces))
            similarity = (at_least_float32(self.identity_net(images)) * own).sum(1).mean()
            add("identity", 1 - similarity)
            terms["identity_similarity"] = similarity.detach()
        if weights["w_norm"]:
            add("w_norm", w_norm(w_plus, latent_avg))
        if weights["code"] and codes is not None:
            add("code", F.mse_loss(w_plus[-len(codes) :], codes))
        loss = torch.stack(weighted).sum()
        terms["loss"] = loss.detach()
        return loss, terms

    def _perceptual_distance(self, images: Tensor, faces: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.perceptual_net.features(faces)
        return self.perceptual_net.distance(self.perceptual_net.features(images), features).mean()


def _check(weights: dict[str, float], identity_net: IdentityNet | None, perceptual_net: PerceptualNet | None) -> None:
    """ValueError for negative weights, and for terms without their network."""
    if negative := [name for name, weight in weights.items() if weight < 0]:
        raise ValueError(f"Loss weights cannot be negative: {', '.join(negative)}.")
    if weights["identity"] and identity_net is None:
        raise ValueError(f"The identity loss has weight {weights['identity']} but there is no identity_net.")
    if any(weight for name, weight in weights.items() if name.startswith("lpips")) and perceptual_net is None:
        raise ValueError("The lpips losses have weights but there is no perceptual_net.")
