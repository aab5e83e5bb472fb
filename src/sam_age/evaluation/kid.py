"""How alike two sets of pictures are: the kernel distance (KID) between any network's features of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from sam_age.models.ops import at_least_float32


def embed(network: nn.Module, images: Tensor) -> Tensor:
    """Features of images (N, 3, H, W) in [-1, 1], one row an image: (N, D).

    The mean over positions of the last map of a network that has `features(images)`, what any other returns.
    """
    if hasattr(network, "features"):
        return at_least_float32(network.features(images)[-1]).mean((2, 3))
    return at_least_float32(network(images)).flatten(1)


def kernel_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of rows (N, D) and (M, D), under the kernel (x.y / D + 1)^3.

    About 0, perhaps below it, for two samples of one distribution; NaN for fewer than two rows of either.

    Source: Binkowski et al. 2018, "Demystifying MMD GANs". All rows at once instead of random subsets of them: the
    same number every time.
    """
    real, fake = real.double(), fake.double()
    n, m, size = len(real), len(fake), real.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / size + 1) ** 3

    if min(n, m) < 2:
        return torch.full((), float("nan"), dtype=real.dtype, device=real.device)
    within_real, within_fake = kernel(real, real), kernel(fake, fake)
    within = (within_real.sum() - within_real.trace()) / (n * (n - 1))
    within = within + (within_fake.sum() - within_fake.trace()) / (m * (m - 1))
    return within - 2 * kernel(real, fake).mean()


class KernelDistance(Metric):
    """KID between the features of real and of generated pictures, over all ranks; see `kernel_distance`.

    >>> kid = KernelDistance()
    >>> kid.update(torch.zeros(4, 2), real=True)
    >>> kid.update(torch.ones(4, 2), real=False)
    >>> kid.compute()
    tensor(7.)
    """

    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("reals", [], dist_reduce_fx="cat")
        self.add_state("fakes", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, *, real: bool) -> None:
        """features (N, D)."""
        (self.reals if real else self.fakes).append(features.detach())

    def compute(self) -> Tensor:
        """A scalar; NaN where there is nothing to compare."""
        if not len(self.reals) or not len(self.fakes):
            return torch.tensor(float("nan"))
        return kernel_distance(dim_zero_cat(self.reals), dim_zero_cat(self.fakes)).float()
