"""How old does a face look: networks that map a face to years.

All but the last line of each is a classifier; the age is the expectation over its classes, which is smoother
than the likeliest class and has a gradient everywhere. Add your own by its `_target_`; `AgeNet` is all it has
to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.models.trunk import ResidualTrunk

CLASSES = 101  # the ages 0 to 100


@runtime_checkable
class AgeNet(Protocol):
    """What the losses ask of an age network: faces -> years."""

    def __call__(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> ages (N,), years."""
        ...


def expected_age(logits: Tensor, class_ages: Tensor) -> Tensor:
    """The mean age under the predicted distribution; float32 or float64.

    Args:
        logits: (N, K) unnormalised log-probabilities.
        class_ages: (K,) age that each class stands for, years.
    Returns:
        (N,) years.

    >>> expected_age(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([20.0, 40.0]))
    tensor([30.0000, 20.0025])
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # a product and a sum, not a matrix product: autocast would round the ages to bfloat16, half a year at 80
    return (logits.softmax(1) * class_ages.to(logits.dtype)).sum(1)


class DEX(nn.Module):
    """DEX, the age network in SAM's training: VGG-16 with one class per year.

    State-dict keys are those of `dex_age_classifier.pth` with underscores (`conv1_1` to `fc8_101`).
    Faces are fed in [-1, 1] without ImageNet's mean, and shrunk without antialiasing: not what VGG expects,
    but what the weights and the published numbers were made with.

    Source: Rothe et al. 2018, "Deep expectation of real and apparent age from a single image".
    """

    BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
    IMAGE_SIZE = 224

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, object] = {}
        channels = 3
        for block, widths in enumerate(self.BLOCKS, start=1):
            for position, width in enumerate(widths, start=1):
                self.add_module(f"conv{block}_{position}", nn.Conv2d(channels, width, 3, padding=1))
                channels = width
        self.fc6 = nn.Linear(channels * 7 * 7, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8_101 = nn.Linear(4096, CLASSES)
        self.register_buffer("class_ages", torch.arange(CLASSES, dtype=torch.float32), persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> ages (N,), years."""
        return expected_age(self.logits(faces), self.class_ages)

    def logits(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> (N, 101), one class per year from 0 to 100."""
        x = self.features(faces).flatten(1)
        x = F.dropout(F.relu(self.fc6(x)), training=self.training)
        x = F.dropout(F.relu(self.fc7(x)), training=self.training)
        return self.fc8_101(x)

    def features(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> the last pooled map, (N, 512, 7, 7)."""
        size = (self.IMAGE_SIZE, self.IMAGE_SIZE)
        x = F.interpolate(faces, size, mode="bilinear", align_corners=False, antialias=False)
        for block, widths in enumerate(self.BLOCKS, start=1):
            for position in range(1, len(widths) + 1):
                x = F.relu(self.get_submodule(f"conv{block}_{position}")(x))
            x = F.max_pool2d(x, 2)
        return x


class AgeClassifier(nn.Module):
    """A small network of DEX's form, for the lifespan set: one class per year, the age is the expectation.

    Args:
        widths: channels of each stage, multiples of 8.
        depths: residual units of each stage.
        image_size: side to which faces are averaged down first, pixels.

    The defaults have 2.8 M parameters.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 2, 2, 2),
        image_size: int = 128,
    ) -> None:
        super().__init__()
        self.config = {"widths": list(widths), "depths": list(depths), "image_size": image_size}
        self.trunk = ResidualTrunk(widths, depths, image_size)
        self.head = nn.Linear(widths[-1], CLASSES)
        self.register_buffer("class_ages", torch.arange(CLASSES, dtype=torch.float32), persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> ages (N,), years."""
        return expected_age(self.logits(faces), self.class_ages)

    def logits(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1] -> (N, 101), one class per year from 0 to 100."""
        return self.head(F.silu(self.features(faces)[-1]).mean((2, 3)))

    def features(self, images: Tensor) -> list[Tensor]:
        """The map of each stage, fine to coarse."""
        return self.trunk(images)
