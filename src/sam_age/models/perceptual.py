"""How alike two images look: LPIPS, and the same kind of distance over the features of any network.

The work is split in two, so that the features of one image serve several comparisons:

    reference = network.features(photo)
    network.distance(network.features(aged), reference)   # one number an image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_age.errors import InputError
from sam_age.models.convolve import conv2d
from sam_age.models.ops import at_least_float32

ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


@runtime_checkable
class PerceptualNet(Protocol):
    """What the losses ask of a perceptual network."""

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [-1, 1] -> maps (N, C, h, w), ready for `distance`."""
        ...

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Distance of each image of a to its counterpart in b: (N,), 0 for equal images."""
        ...


class LPIPS(nn.Module):
    """LPIPS v0.1 on AlexNet: what people notice, learned from their judgements.

    The published implementation sums over a batch and the authors of SAM divide by its size: that is the mean
    of our distances. State-dict keys: `alexnet.<i>.*`, torchvision's `features.<i>.*`; `linear.<i>`, the
    published `lin<i>.model.1.weight`.

    Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric".
    """

    finds_own_weights = True
    CHANNELS = (64, 192, 384, 256, 256)
    TAPS = (1, 4, 7, 9, 11)  # the five rectifiers
    EPS = 1e-10  # added to the norm, as published

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, object] = {}
        a, b, c, d, e = self.CHANNELS
        self.alexnet = nn.Sequential(
            *(_Strided(3, a, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU(inplace=True)),
        )
        self.linear = nn.ParameterList(torch.ones(1, channels, 1, 1) for channels in self.CHANNELS)
        # ImageNet's mean and deviation, restated by the publication for images in [-1, 1].
        mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Five maps of unit vectors, fine to coarse: (N, C, h, w) from (N, 3, H, W), RGB in [-1, 1]."""
        x = (images - self.mean) / self.std
        maps = []
        for index, layer in enumerate(self.alexnet):
            x = layer(x)
            if index in self.TAPS:
                maps.append(unit_vectors(x, self.EPS))
        return maps

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Distance of each pair of images, shape (N,)."""
        layers = zip(features_a, features_b, self.linear, strict=True)
        return torch.stack([((a - b).square() * w).sum(1).mean((1, 2)) for a, b, w in layers]).sum(0)

    def forward(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Distance of each pair of images, (N, 3, H, W) twice -> (N,)."""
        return self.distance(self.features(images_a), self.features(images_b))

    def load_weights_file(self, path: str | Path | None = None) -> None:
        """Take AlexNet from torchvision's file, and the linear layers from the installed `lpips` package.

        Args:
            path: a state dict of torchvision's AlexNet (ImageNet); None: torchvision's cache, or a download.
        Raises:
            InputError: the file is missing or holds something else, or the download failed.
        """
        alexnet = _read(Path(path)) if path is not None else _download_alexnet()
        self.load_parts(alexnet, _read(_published_linear_layers()), source=str(path or ALEXNET_URL))

    def load_parts(
        self, alexnet: Mapping[str, Tensor], linear: Mapping[str, Tensor], source: str = "the given tensors"
    ) -> None:
        """Load both parts under their published names.

        Args:
            alexnet: torchvision's AlexNet, `features.0.weight` to `features.10.bias`; others are not used.
            linear: `lin0.model.1.weight` to `lin4.model.1.weight`.
            source: where they come from, for the error message.
        """
        trunk = {name: tensor for name, tensor in alexnet.items() if name.startswith("features.")}
        state = {f"alexnet.{name.removeprefix('features.')}": tensor for name, tensor in trunk.items()}
        state |= {f"linear.{name[3]}": tensor for name, tensor in linear.items()}
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(
                f"{source} is not AlexNet with LPIPS' linear layers ({_first_problem(error)}): "
                f"use torchvision's file, {ALEXNET_URL}"
            ) from error


class _Strided(nn.Conv2d):
    """A convolution of few channels whose stride is not 1. On GPUs, in half precision, it is one without a stride over
    blocks of stride x stride pixels, each a pixel of so many times the channels: cuDNN has no fast way back through
    strides of colours. The numbers are the same, and zeros fill the kernel up to whole blocks."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.is_cuda and (x.element_size() == 2 or torch.is_autocast_enabled("cuda"))
        return self.in_blocks(x) if half else super().forward(x)

    def in_blocks(self, x: Tensor) -> Tensor:
        """As `forward`, in blocks."""
        stride, padding, kernel = self.stride[0], int(self.padding[0]), self.kernel_size[0]
        blocks = -(-kernel // stride)  # along a side of the kernel
        made = [(side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:]]
        below, right = (
            (count + blocks - 1) * stride - padding - side for count, side in zip(made, x.shape[2:], strict=True)
        )
        x = F.pixel_unshuffle(F.pad(x, (padding, right, padding, below)), stride)
        fill = blocks * stride - kernel
        return conv2d(x, F.pixel_unshuffle(F.pad(self.weight, (0, fill, 0, fill)), stride), self.bias)


class FeatureDistance(nn.Module):
    """LPIPS' idea over the features of any network, with nothing to learn or download.

    Feature vectors are scaled to unit length at every position; the distance is the mean squared length of
    their difference, averaged over maps: 0 for equal images, at most 4.

    Args:
        network: anything with `features(images) -> list of (N, C, h, w)`, e.g. a `FaceEmbedder`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(network, "features", None)):
            raise InputError(f"{type(network).__name__} has no method features(images): give a network that has one.")
        self.network = network

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [-1, 1] -> the network's maps, as unit vectors over their channels."""
        return [unit_vectors(x, LPIPS.EPS) for x in self.network.features(images)]

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Distance of each pair of images, shape (N,)."""
        layers = zip(features_a, features_b, strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in layers]).mean(0)

    def forward(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Distance of each pair of images, (N, 3, H, W) twice -> (N,)."""
        return self.distance(self.features(images_a), self.features(images_b))


def unit_vectors(features: Tensor, eps: float) -> Tensor:
    """Scale the channel vector at every position to length one; float32 or float64.

    Half precision would lose `eps` and square into few digits. `vector_norm` has gradient 0 where all
    channels are 0; the root of a sum of squares, as published, has gradient NaN there.
    """
    features = at_least_float32(features)
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + eps)


def _published_linear_layers() -> Path:
    package = find_spec("lpips")  # finding does not import it
    if package is None or package.origin is None:
        raise InputError("LPIPS' linear layers come with a package that is not installed: pip install lpips")
    return Path(package.origin).parent / "weights" / "v0.1" / "alex.pth"


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"No AlexNet weights at {path}: download {ALEXNET_URL} and give its path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        raise InputError(f"{path} is not AlexNet ({type(error).__name__}): download {ALEXNET_URL}") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds a {type(state).__name__}, not AlexNet: download {ALEXNET_URL}")
    return state


def _download_alexnet() -> Mapping[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(ALEXNET_URL, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network, or a download that was cut short
        raise InputError(
            f"LPIPS needs AlexNet, and it could not be downloaded ({type(error).__name__}): "
            f"fetch {ALEXNET_URL} on another machine and give its path."
        ) from error


def _first_problem(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    return lines[0][:120].rstrip(".: ") if lines else "unknown format"
