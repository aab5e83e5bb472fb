"""Adaptive discriminator augmentation: what the discriminator sees is varied as far as it overfits, and no further.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data": its geometric and colour
transformations but for those that no aligned face has (quarter turns, hue), and its rule for the probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.ops import at_least_float32

LUMA = 1 / math.sqrt(3)  # the grey axis, of length one


class AdaptiveAugment(nn.Module):
    """Each transformation hits each image with one probability, which follows the signs of the real faces' scores.

    The probability lives on the device and is never read by the host; the libraries' augmentations want it as a
    number. Gradients flow through to the images, once: the warp has no second derivative.

    Args:
        target: mean sign of the scores of real faces, -1 to 1: above it the probability rises, below it falls.
        every: steps between two adjustments.
        images_to_one: real faces in which the probability goes from 0 to 1 at the quickest.
        start: probability at the beginning.
        most: the largest it may become: above 0.8 augmentations begin to show in the generator's faces.
        shift: standard deviation of the shift, as a share of the side;
        zoom: of log2 of the size;
        turn: of the rotation, degrees;
        brightness: of what is added, on the scale [-1, 1];
        contrast, saturation: of log2 of their factors.
    """

    def __init__(
        self,
        *,
        target: float = 0.6,
        every: int = 4,
        images_to_one: float = 500_000,
        start: float = 0.0,
        most: float = 0.8,
        shift: float = 0.125,
        zoom: float = 0.2,
        turn: float = 15.0,
        brightness: float = 0.2,
        contrast: float = 0.5,
        saturation: float = 1.0,
    ) -> None:
        super().__init__()
        if every < 1 or not 0 <= start <= most <= 1 or images_to_one <= 0:
            raise InputError("ada: every is at least 1, 0 <= start <= most <= 1, and images_to_one above 0.")
        self.config: dict[str, Any] = {}
        self.target, self.every, self.images_to_one, self.most = target, every, images_to_one, most
        self.shift, self.zoom, self.turn = shift, zoom, turn
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.register_buffer("probability", torch.tensor(float(start)))
        self.register_buffer("signs", torch.zeros(2))  # sum and number of signs since the last adjustment

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [-1, 1] -> the same shape, float32 or better; the images themselves at probability 0."""
        with torch.autocast(images.device.type, enabled=False):
            return self.recoloured(self.warped(at_least_float32(images)))

    def warped(self, x: Tensor) -> Tensor:
        """Mirrored, enlarged, turned and shifted, in one interpolation; the surroundings are mirrored in."""
        hit = [self.chosen(x) for _ in range(4)]
        mirror = torch.where(hit[0] & (torch.rand_like(hit[0], dtype=x.dtype) < 0.5), -1.0, 1.0)
        size = torch.where(hit[1], torch.exp2(self.zoom * self.normal(x)), 1.0)
        angle = torch.where(hit[2], math.radians(self.turn) * self.normal(x), 0.0)
        shift = torch.where(hit[3], 2 * self.shift * torch.stack([self.normal(x), self.normal(x)]), 0.0)
        cos, sin = angle.cos() / size, angle.sin() / size
        rows = [torch.stack([mirror * cos, -mirror * sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        touched = torch.stack(hit).any(0)
        return torch.where(touched[:, None, None, None], moved, x)

    def recoloured(self, x: Tensor) -> Tensor:
        """Brighter or darker, of more or less contrast and colour."""

        def where_chosen(changed: Tensor, x: Tensor) -> Tensor:
            return torch.where(self.chosen(x)[:, None, None, None], changed, x)

        def each(numbers: Tensor) -> Tensor:
            return numbers[:, None, None, None]

        x = where_chosen(x + each(self.brightness * self.normal(x)), x)
        x = where_chosen(x * each(torch.exp2(self.contrast * self.normal(x))), x)
        grey = x.mean(1, keepdim=True)
        return where_chosen(grey + (x - grey) * each(torch.exp2(self.saturation * self.normal(x))), x)

    def chosen(self, x: Tensor) -> Tensor:
        """(N,) bool."""
        return torch.rand(len(x), device=x.device) < self.probability

    def normal(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), device=x.device, dtype=x.dtype)

    @torch.no_grad()
    def observe(self, real_scores: Tensor, step: int, over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Take note of the scores of a step's real faces (N, 1), and adjust the probability when it is time.

        Args:
            step: counted from 1.
            over_ranks: the mean of a tensor over all ranks.
        """
        count = self.signs.new_full((), real_scores.numel())  # filled in on the device: a copy would wait for it
        self.signs += torch.stack([real_scores.sign().sum().to(count), count])
        if step % self.every:
            return
        total, count = over_ranks(self.signs.clone())
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        change = (total / count - self.target).sign() * count * ranks / self.images_to_one
        self.probability.add_(change).clamp_(0, self.most)
        self.signs.zero_()
