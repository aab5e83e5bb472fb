"""Faces as they are after a camera, a file format or a generator: augmentation for the networks that judge.

What they look at in SAM's losses is a generator's output, softer than any photograph and with marks of its own. A
network trained on clean portraits alone takes such marks for age.
"""

from __future__ import annotations

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.models.ops import at_least_float32
from sam_age.models.resample import crop_and_pool


class Wear(nn.Module):
    """Each face shifted, recoloured, softened, compressed, or hidden in part, each by chance; the same range.

    What is drawn comes from torch's own generators: seed them before a call, and the call repeats.

    Args:
        size: faces are averaged down to this side first, pixels, as the networks would do; None keeps theirs.
        shift: largest shift, as a share of the side, and
        turn: rotation, degrees, and
        zoom: change of size, as a share; alignment is never exact.
        colour: how far brightness, contrast and saturation move, as a share.
        hue: how far it moves, as a share of the circle; skin is told by little of it.
        grey: probability of no colour at all.
        blur: probability of a Gaussian blur, and
        blur_sigma: its range, pixels.
        coarse: probability of being shrunk and enlarged again, and
        coarsest: to what share of the side at the least.
        noise: probability of pixel noise, and
        noise_sigma: its deviation, of a range of 2.
        jpeg: probability of JPEG's marks, and
        jpeg_quality: their range, 1-100.
        hide: probability of a grey rectangle over up to a fifth of the face.
    """

    def __init__(
        self,
        *,
        size: int | None = None,
        shift: float = 0.04,
        turn: float = 6.0,
        zoom: float = 0.08,
        colour: float = 0.25,
        hue: float = 0.01,
        grey: float = 0.05,
        blur: float = 0.3,
        blur_sigma: tuple[float, float] = (0.3, 2.5),
        coarse: float = 0.3,
        coarsest: float = 0.25,
        noise: float = 0.2,
        noise_sigma: float = 0.06,
        jpeg: float = 0.2,
        jpeg_quality: tuple[float, float] = (30.0, 95.0),
        hide: float = 0.1,
    ) -> None:
        super().__init__()
        self.size = size
        self.coarse, self.coarsest = coarse, coarsest
        low, high = blur_sigma
        kernel = 2 * round(2.5 * high) + 1
        self.before = K.AugmentationSequential(
            K.RandomAffine(turn, (shift, shift), (1 - zoom, 1 + zoom), padding_mode="reflection", p=0.8),
            K.ColorJitter(colour, colour, colour, hue, p=0.8),
            K.RandomGrayscale(p=grey),
            K.RandomGaussianBlur((kernel, kernel), (low, high), p=blur),
        )
        self.after = K.AugmentationSequential(
            K.RandomGaussianNoise(std=noise_sigma / 2, p=noise),
            K.RandomJPEG(tuple(jpeg_quality), p=jpeg),
            K.RandomErasing((0.02, 0.2), (0.4, 2.5), value=0.5, p=hide),
        )

    @torch.no_grad()
    def forward(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> (N, 3, H, W), or size for H and W; the same range, float32."""
        with torch.autocast(faces.device.type, enabled=False):
            height, width = faces.shape[-2:]
            if self.size is not None:
                faces = crop_and_pool(faces, (0, height), (0, width), self.size)
            x = self.before((at_least_float32(faces) + 1) / 2)
            x = self.after(self.coarsen(x.clamp(0, 1)))
        return x.clamp(0, 1) * 2 - 1

    def coarsen(self, x: Tensor) -> Tensor:
        """Some of the images shrunk and enlarged again, all by one factor: one resize serves the batch."""
        chosen = torch.rand(len(x)) < self.coarse
        share = self.coarsest + (1 - self.coarsest) * float(torch.rand(()))
        side = max(1, round(share * x.shape[-1]))
        if side == x.shape[-1]:
            return x
        small = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        coarse = F.interpolate(small, x.shape[-2:], mode="bilinear")
        return torch.where(chosen.to(x.device, non_blocking=True)[:, None, None, None], coarse, x)
