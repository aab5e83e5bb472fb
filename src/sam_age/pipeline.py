"""AgingPipeline: a photograph and ages in, pictures out. Needs neither Hydra nor Lightning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam_age.data.align import align, is_aligned
from sam_age.data.dataset import resize
from sam_age.data.detect import Face, FaceDetector
from sam_age.data.images import read_image
from sam_age.device import pick_device
from sam_age.errors import InputError
from sam_age.models.sam import FACE_SIZE, SAM
from sam_age.sheets import Cell, sheet, to_images, to_tensor
from sam_age.weights import load

ALIGN = ("auto", "always", "never")
FACES = ("largest", "all")


def check_ages(ages: Iterable[Any] | Any) -> list[float]:
    """Target ages as numbers, in the order given; a single age is a list of one.

    Raises:
        InputError: none at all, not a number, or outside 0-100.

    >>> check_ages([5, "30", 62.5])
    [5.0, 30.0, 62.5]
    """
    checked = []
    for age in [ages] if isinstance(ages, str) or not isinstance(ages, Iterable) else ages:
        try:
            years = float(age)
        except (TypeError, ValueError):
            years = math.nan
        if not 0 <= years <= 100 or isinstance(age, bool):  # NaN fails this too
            raise InputError(f"Target age {age!r} is not a number from 0 to 100: give ages in years.")
        checked.append(years)
    if not checked:
        raise InputError("No target ages: give at least one, from 0 to 100 years.")
    return checked


@dataclass(frozen=True)
class AgedFace:
    """One face at every age asked for."""

    face: Image.Image  # the aligned input, 256 x 256
    ages: list[float]  # years, as asked
    images: list[Image.Image]  # one per age
    w_plus: Tensor  # (ages, n_styles, style_dim), float32, CPU
    quad: np.ndarray | None  # (4, 2) corners of the face in the photograph, pixels; None if it came aligned

    def cells(self) -> list[Cell]:
        """The input and all ages, each with its caption."""
        aged = [(image, f"age {age:g}") for image, age in zip(self.images, self.ages, strict=True)]
        return [(self.face, "input"), *aged]

    def sheet(self, cell: int = 256) -> Image.Image:
        """They side by side, at most six in a row."""
        cells = self.cells()
        columns = min(len(cells), 6)
        return sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], cell)


class AgingPipeline:
    """Everything between a photograph and the same face at other ages.

    Args:
        sam: the model, on the device it is to run on.
        precision: "float32", "bfloat16", or "auto": bfloat16 on CUDA, float32 elsewhere.
        batch_size: faces times ages in one pass; None: 1 on a CPU, where more takes memory and saves no time
            (docs/performance.md), and 8 elsewhere.

    sam = AgingPipeline.from_pretrained("sam_ffhq_aging.pt")
    young, old = sam("photo.jpg", ages=[5, 80])[0].images
    """

    def __init__(self, sam: SAM, *, precision: str = "auto", batch_size: int | None = None) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision is auto, float32 or bfloat16, not {precision!r}.")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise InputError(f"batch_size is a whole number from 1 up, or null, not {batch_size!r}.")
        self.sam = sam.eval()
        on_cuda = self.device.type == "cuda"
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else 8)
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and on_cuda)
        self._detector: FaceDetector | None = None

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path, device: str = "auto", **kwargs: Any) -> Self:
        """The pipeline around a checkpoint that `sam_age.weights.load` knows.

        Args:
            device: "auto" takes CUDA, else MPS, else the CPU.
        Raises:
            InputError: the file cannot be used, or is another network than SAM.
        """
        sam = load(path_or_name, device=pick_device(device))
        if not isinstance(sam, SAM):
            raise InputError(f"{path_or_name} holds {type(sam).__name__}, not a whole SAM: give a SAM checkpoint.")
        return cls(sam, **kwargs)

    @property
    def device(self) -> torch.device:
        return self.sam.latent_avg.device

    def __call__(
        self,
        photo: str | Path | Image.Image,
        ages: Sequence[float],
        *,
        align: str = "auto",
        faces: str = "largest",
    ) -> list[AgedFace]:
        """Age the faces of one photograph.

        Args:
            photo: a path or a picture.
            ages: target ages, years, 0 to 100.
            align: "auto" aligns unless the picture is an aligned face already; "always"; "never" takes the
                whole picture as the face.
            faces: "largest" or "all".
        Returns:
            One `AgedFace` per face, largest first.
        Raises:
            InputError: not an image, no face in it, or an age that is none.
        """
        ages = check_ages(ages)
        name = "the picture" if isinstance(photo, Image.Image) else str(photo)
        image = photo.convert("RGB") if isinstance(photo, Image.Image) else read_image(photo)
        found = self.find_faces(image, align=align, faces=faces, name=name)
        codes, results = self.age([crop for crop, _ in found], ages)
        return [
            AgedFace(crop, ages, pictures, code, quad)
            for (crop, quad), pictures, code in zip(found, results, codes, strict=True)
        ]

    def find_faces(
        self, image: Image.Image, *, align: str = "auto", faces: str = "largest", name: str = "the picture"
    ) -> list[tuple[Image.Image, np.ndarray | None]]:
        """The faces of a picture as 256-pixel crops, each with its quad, or None where it came aligned."""
        if align not in ALIGN:
            raise InputError(f"align is one of {', '.join(ALIGN)}, not {align!r}.")
        if faces not in FACES:
            raise InputError(f"faces is one of {', '.join(FACES)}, not {faces!r}.")
        if align == "never":
            return [(resize(image, FACE_SIZE), None)]
        detected = self.detector.detect(image)
        if not detected:
            raise InputError(
                f"No face found in {name} ({image.width} x {image.height}): use a photo where it is larger "
                "and unobstructed, or align=never if the picture is an aligned face."
            )
        kept = detected if faces == "all" else detected[:1]
        return [self._crop(image, face, align) for face in kept]

    @property
    def detector(self) -> FaceDetector:
        if self._detector is None:
            self._detector = FaceDetector()
        return self._detector

    @staticmethod
    def _crop(image: Image.Image, face: Face, mode: str) -> tuple[Image.Image, np.ndarray | None]:
        if mode == "auto" and is_aligned(image.size, face.quad):
            return resize(image, FACE_SIZE), None
        return align(image, face.quad, FACE_SIZE), face.quad

    @torch.inference_mode()
    def age(self, faces: Sequence[Image.Image], ages: Sequence[float]) -> tuple[list[Tensor], list[list[Image.Image]]]:
        """Age aligned 256-pixel faces: each is inverted once, whatever the number of ages.

        Returns:
            for each face its codes (ages, n_styles, style_dim) on the CPU, and its pictures, one per age.
        """
        codes: list[list[Tensor]] = [[] for _ in faces]
        pictures: list[list[Image.Image]] = [[] for _ in faces]
        with torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext():
            pixels = to_tensor(faces).to(self.device)
            inversions = torch.cat([self.sam.encode(chunk) for chunk in pixels.split(self.batch_size)])
            jobs = [(face, age) for face in range(len(faces)) for age in ages]
            for start in range(0, len(jobs), self.batch_size):
                chunk = jobs[start : start + self.batch_size]
                which = torch.tensor([face for face, _ in chunk], device=self.device)
                target = torch.tensor([age for _, age in chunk], dtype=torch.float32, device=self.device)
                w_plus = self.sam.edit(pixels[which], target, inversions[which])
                images = to_images(self.sam.synthesize(w_plus, resize=False))
                for (face, _), code, image in zip(chunk, w_plus.float().cpu(), images, strict=True):
                    codes[face].append(code)
                    pictures[face].append(image)
        return [torch.stack(rows) for rows in codes], pictures
