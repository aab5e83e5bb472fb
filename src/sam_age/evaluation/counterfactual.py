"""How near a picture comes to the true portrait: pixels, structure, and what networks see in the two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.models.identity import face_crop
from sam_age.models.ops import at_least_float32
from sam_age.models.perceptual import LPIPS, FeatureDistance

WINDOW, SIGMA = 11, 1.5  # of structural similarity, pixels; as published
REGIONS = {"": lambda images: images, "_face": face_crop}
"""Suffix of a score -> the part of the picture that it looks at."""


def likeness(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """How near pictures are to what they should be.

    Args:
        images, truth: (N, 3, H, W) in [-1, 1]; the former is clipped to it.
    Returns:
        per picture, (N,): `ssim`, structural similarity in 11-pixel windows (1 when equal); `psnr`, decibels.
    """
    similarity, error = pixel_maps(images, truth)
    return {"ssim": similarity.mean((1, 2, 3)), "psnr": decibels(error)}


def pixel_maps(images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The structural similarity and the squared error at each position and colour: two maps (N, 3, H, W)."""
    images, truth = at_least_float32(images).clamp(-1, 1), at_least_float32(truth)
    return structural_similarity(images, truth), (images - truth).square()


def decibels(squared_error: Tensor) -> Tensor:
    """Peak signal to noise of pictures that span 2, from a map of squared errors (N, 3, H, W): (N,)."""
    return 10 * torch.log10(4 / squared_error.mean((1, 2, 3)).clamp_min(1e-10))


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of pictures (N, C, H, W) in [-1, 1] around each position: (N, C, H, W), 1 when equal.

    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """
    # on a CPU one at a time: it then fits into the cache, and takes half the time
    each = zip(a.split(1), b.split(1), strict=True) if a.device.type == "cpu" else [(a, b)]
    return torch.cat([_similarity(x, y) for x, y in each])


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # for values that span 2
    planes = F.pad(torch.cat([a, b, a * a, b * b, a * b]), (WINDOW // 2,) * 4, mode="reflect")
    mean_a, mean_b, aa, bb, ab = _windowed(planes).chunk(5)
    product, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
    structure = (2 * (ab - product) + c2) / (aa + bb - squares + c2)
    return structure * (2 * product + c1) / (squares + c1)


def _windowed(x: Tensor) -> Tensor:
    """Gaussian means over windows of (N, C, H, W), without padding.

    A sum of shifted copies rather than a convolution: GPUs round those to three digits unless told otherwise, and
    what is wanted here are small differences of large numbers.
    """
    weights = [math.exp(-((i - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    for dim in (2, 3):
        size = x.shape[dim] - WINDOW + 1
        mean = torch.zeros_like(x.narrow(dim, 0, size))
        for i, weight in enumerate(weights):
            mean.add_(x.narrow(dim, i, size), alpha=weight / sum(weights))
        x = mean
    return x


@dataclass(frozen=True)
class Seen:
    """Pictures and what the networks see in them, whole and in the face region; computed once, compared often."""

    images: Tensor  # (N, 3, 256, 256) in [-1, 1]
    features: dict[str, list[list[Tensor]]]  # suffix of the region -> each network's maps, (N, C, h, w)

    def __getitem__(self, where: Tensor) -> Seen:
        """The pictures at `where` (M,), in that order, some perhaps more than once."""
        features = {
            region: [[x[where] for x in maps] for maps in networks] for region, networks in self.features.items()
        }
        return Seen(self.images[where], features)


class Likeness(nn.Module):
    """Compares pictures with what they should be.

    Args:
        networks: whose features make the LPIPS-style distance, each with as much weight; may be none.
        lpips: the published LPIPS, if its weights are at hand.
    """

    def __init__(self, networks: Sequence[nn.Module] = (), lpips: LPIPS | None = None) -> None:
        super().__init__()
        self.distances = nn.ModuleList(FeatureDistance(network) for network in networks)
        self.lpips = lpips

    def see(self, images: Tensor) -> Seen:
        """images: (N, 3, 256, 256) in [-1, 1]."""
        networks = [*self.distances, *([] if self.lpips is None else [self.lpips])]
        regions = {suffix: crop(images) for suffix, crop in REGIONS.items()} if networks else {}
        features = {suffix: [network.features(part) for network in networks] for suffix, part in regions.items()}
        return Seen(images, features)

    def compare(self, images: Seen, truth: Seen) -> dict[str, Tensor]:
        """Per picture, (N,): `ssim`, `psnr`; `lpips`, the mean distance over the networks; `lpips_alexnet`, the
        published one. Each also of the face region: `ssim_face`, ..."""
        scores = {}
        similarity, error = pixel_maps(images.images, truth.images)
        for suffix, crop in REGIONS.items():
            scores[f"ssim{suffix}"] = crop(similarity).mean((1, 2, 3))
            scores[f"psnr{suffix}"] = decibels(crop(error))
            if len(self.distances):
                scores[f"lpips{suffix}"] = self._distance(images, truth, suffix)
            if self.lpips is not None:
                ours, theirs = images.features[suffix][-1], truth.features[suffix][-1]
                scores[f"lpips_alexnet{suffix}"] = self.lpips.distance(ours, theirs)
        return scores

    def _distance(self, images: Seen, truth: Seen, suffix: str) -> Tensor:
        both = zip(self.distances, images.features[suffix], truth.features[suffix], strict=False)  # LPIPS' come last
        return torch.stack([network.distance(a, b) for network, a, b in both]).mean(0)
