"""Ageing without learning to age: two ways to move a pSp code from one age to another.

Both are closed-form fits to codes of faces whose ages are known, and both know of a face only its code and the age
that a network reads off it. What SAM adds to them is what it has learnt.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from sam_age.data.dataset import FacesDataset, collate, to_unit_range
from sam_age.data.loader import batches
from sam_age.editing.directions import ridge_direction
from sam_age.errors import InputError
from sam_age.models.age import AgeNet
from sam_age.models.sam import SAM, face_pool

log = logging.getLogger("sam_age")

OLDEST = 100  # years
PROBES = 64  # faces along whose codes the step is measured
APART = 30  # years that they are to be read apart, for a step that counts


class LatentBaselines(nn.Module):
    """A linear direction of age in w+, and the mean code of each age.

    Args:
        n_styles, style_dim: shape of the codes.
        nodes: ages from 0 to 100, evenly spaced, whose mean codes are kept; between them it is interpolated.

    Sources: the direction, Shen et al. 2020, "Interpreting the Latent Space of GANs for Semantic Face Editing".
    """

    normal: Tensor
    years_per_unit: Tensor
    means: Tensor

    def __init__(self, n_styles: int, style_dim: int, nodes: int = 21) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"n_styles": n_styles, "style_dim": style_dim, "nodes": nodes}
        self.register_buffer("normal", torch.zeros(n_styles, style_dim))
        self.register_buffer("years_per_unit", torch.ones(1))
        self.register_buffer("means", torch.zeros(nodes, n_styles, style_dim))

    def linear(self, codes: Tensor, source_age: Tensor, target_age: Tensor) -> Tensor:
        """Codes (N, n_styles, D) moved along the unit normal of age; ages (N,) in years."""
        distance = (target_age - source_age) / self.years_per_unit
        return codes + distance[:, None, None] * self.normal

    def mean_shift(self, codes: Tensor, source_age: Tensor, target_age: Tensor) -> Tensor:
        """Codes (N, n_styles, D) plus the mean code at the target age minus that at the source age."""
        return codes + (self.mean_code(target_age) - self.mean_code(source_age))

    def mean_code(self, age: Tensor) -> Tensor:
        """(N,) years -> (N, n_styles, D)."""
        last = len(self.means) - 1
        place = (age * (last / OLDEST)).clamp(0, last)
        below = place.floor().long().clamp(max=max(last - 1, 0))
        part = (place - below)[:, None, None]
        return self.means[below] * (1 - part) + self.means[(below + 1).clamp(max=last)] * part


def fit(codes: Tensor, ages: Tensor, *, bandwidth: float = 5.0, nodes: int = 21) -> LatentBaselines:
    """Both baselines from faces of known age, in float64 and without a random draw.

    Args:
        codes: (N, n_styles, D), what pSp makes of the faces.
        ages: (N,) years; faces whose age is not known (NaN) are left out.
        bandwidth: of the kernel that smooths the mean codes over age, years.
        nodes: see `LatentBaselines`.
    Raises:
        InputError: fewer than ten faces of known age, or all of one age.
    """
    known = ~ages.isnan()
    codes, ages = codes[known].double(), ages[known].double()
    if len(ages) < 10 or (ages == ages[0]).all():
        raise InputError(
            f"The latent baselines are fitted to codes of faces at known ages, ten at least, of different ages; here "
            f"are {len(ages)}: give data.train= such faces, or baselines=null."
        )
    count, n_styles, style_dim = codes.shape
    direction = ridge_direction(codes.flatten(1), ages)
    fitted = LatentBaselines(n_styles, style_dim, nodes).to(codes.device)
    fitted.normal.copy_(direction.normal.view(n_styles, style_dim))
    fitted.years_per_unit.fill_(direction.label_per_unit)
    at = torch.linspace(0, OLDEST, nodes, dtype=torch.float64, device=codes.device)
    fitted.means.copy_(local_means(codes.flatten(1), ages, at, bandwidth).view_as(fitted.means))
    log.info(
        "Latent baselines from %d faces: the linear direction explains %.0f %% of their ages' variance (left-out).",
        count,
        100 * direction.explained,
    )
    return fitted


@torch.no_grad()
def years_along(normal: Tensor, codes: Tensor, sam: SAM, age_net: AgeNet) -> float | None:
    """Years per unit along a direction, as they are read off the faces that the generator makes of moved codes.

    A regression's normal leads to where codes of other ages are told from these most surely, which in thousands of
    dimensions is a short way, and changes little that one could see; so, as one does by hand with such directions, it
    is followed until something shows: until faces moved to either side are read `APART` years apart on average.

    Args:
        normal: (n_styles, D), of length 1.
        codes: (N, n_styles, D), from which to move.
    Returns:
        None: nothing shows however far one goes, up to the codes' own distance from their mean.
    """

    def read(distance: float) -> Tensor:
        moved = (codes + distance * normal).split(16)
        return torch.cat([age_net(face_pool(sam.decoder.synthesize(some, "stored"))).float() for some in moved]).mean()

    farthest = (codes - codes.mean(0)).flatten(1).norm(dim=1).mean().item()
    for halvings in reversed(range(8)):
        distance = farthest / 2**halvings
        apart = (read(distance) - read(-distance)).item()
        if apart >= APART:
            return apart / (2 * distance)
    return None


def local_means(codes: Tensor, ages: Tensor, at: Tensor, bandwidth: float) -> Tensor:
    """The mean code at each age, by local linear regression under a Gaussian kernel: exact for codes linear in age.

    Args:
        codes: (N, D); ages: (N,) and at: (K,), years.
    Returns:
        (K, D).
    """
    offset = (ages[None, :] - at[:, None]) / bandwidth  # (K, N)
    exponent = -offset.square() / 2
    weight = (exponent - exponent.amax(1, keepdim=True)).exp()  # however far the nearest face is, it counts
    weight = weight / weight.sum(1, keepdim=True)
    mean = (weight * offset).sum(1, keepdim=True)
    spread = (weight * (offset - mean).square()).sum(1, keepdim=True)
    slope = weight * (offset - mean) / spread.clamp_min(1e-9)
    return (weight - mean * slope) @ codes


def fit_on_faces(
    sam: SAM,
    dataset: FacesDataset,
    count: int = 12_000,
    *,
    age_net: AgeNet | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 32,
    num_workers: int = 0,
) -> LatentBaselines:
    """`fit` to pSp's codes of a data set's faces, `count` of known age at most, drawn with a fixed seed.

    age_net, best that of SAM's losses, measures how far a year is along the linear direction, see `years_along`;
    without one it is as far as codes of people a year apart lie along it.

    The result is on the CPU.

    Raises:
        InputError: see `fit`.
    """
    source = dataset.source
    every = range(count) if getattr(source, "endless", False) else range(len(source))
    aged = [i for i in every if hasattr(source, "age") and not math.isnan(source.age(i))]
    chosen = some(aged, count)
    log.info("Fitting latent baselines to %d faces.", len(chosen))
    loader = batches(Subset(dataset, chosen), collate, batch_size=batch_size, num_workers=num_workers)
    sam = sam.to(device)
    codes, ages = [torch.empty(0, *sam.latent_avg.shape, device=device)], [torch.empty(0)]
    with torch.inference_mode():
        for batch in loader:
            if len(batch["faces"]):
                codes.append(sam.encode(to_unit_range(batch["faces"].to(device))).float())
                ages.append(batch["age"])
        fitted = fit(torch.cat(codes), torch.cat(ages).to(device))
        measured = None
        if age_net is not None:
            if isinstance(age_net, nn.Module):
                age_net = age_net.to(device)
            measured = years_along(fitted.normal, torch.cat(codes)[:PROBES].to(fitted.normal), sam, age_net)
            if measured is None:
                log.warning("The linear direction changes no read age, however far it is followed.")
        if measured is not None:
            log.info(
                "A year along it is read off faces moved %.3g, where people a year apart lie %.3g apart.",
                1 / measured,
                1 / fitted.years_per_unit.item(),
            )
            fitted.years_per_unit.fill_(measured)
        return fitted.cpu()


def some(values: Sequence[int], count: int | None) -> list[int]:
    """`count` of the values at most, in their order, drawn with a fixed seed; all of them for None.

    Not every n-th: people, sexes and ages go round in such data, and a stride could meet the same ones every time.

    >>> some(range(100), 4)
    [5, 49, 53, 97]
    """
    if count is None or len(values) <= count:
        return list(values)
    return [values[i] for i in sorted(random.Random(0).sample(range(len(values)), count))]
