"""The edits as methods of AgingPipeline: from aligned faces to codes, pictures and numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sam_age.data.images import read_image
from sam_age.data.sources import FolderFaces
from sam_age.editing.calibration import Calibrated, calibrate
from sam_age.editing.dial import AMOUNTS, DialCurve, dial, dial_curve
from sam_age.editing.directions import LatentDirection, fit_direction
from sam_age.editing.mixing import Layers, mix, random_styles
from sam_age.editing.patches import FEATHER, Where, patch_images, synthesize_patch
from sam_age.editing.path import LifespanPath
from sam_age.errors import InputError
from sam_age.sheets import to_images, to_tensor
from sam_age.weights import load

if TYPE_CHECKING:
    from sam_age.models.sam import SAM

log = logging.getLogger("sam_age")

Faces = Sequence[Image.Image]
"""Aligned faces, 256 pixels: `AgedFace.face`, or what `find_faces` cuts out."""

IDENTITY_NETWORKS = ("FaceEmbedder", "FaceNet", "ArcFace")
EVERY_FIVE = tuple(range(0, 101, 5))


class EditingMethods:
    """What AgingPipeline does besides ageing. Codes are w+, float32, on the CPU; `synthesize` makes pictures of them.

    N faces, A ages, S styles or references.
    """

    if TYPE_CHECKING:  # what a pipeline has
        sam: SAM
        batch_size: int

        def encode(self, faces: Faces) -> Tensor: ...
        def edit(
            self,
            faces: Faces,
            ages: Sequence[float] | Sequence[Sequence[float]] | Tensor,
            inversions: Tensor | None = None,
        ) -> Tensor: ...
        def synthesize(self, w_plus: Tensor) -> list[Image.Image]: ...
        def read_age(self, faces: Faces) -> list[float] | None: ...
        def find_faces(
            self, image: Image.Image, *, align: str = "auto", faces: Any = "largest", name: str = "the picture"
        ) -> list[tuple[Image.Image, np.ndarray | None]]: ...

    def mix(
        self,
        faces: Faces,
        ages: Sequence[float],
        styles: int = 5,
        *,
        layers: Layers = None,
        alpha: float = 1.0,
        seed: int = 0,
        truncation: float = 1.0,
    ) -> Tensor:
        """Aged codes in the colours and textures of random styles: (N, A, S, n_styles, D).

        styles: how many; layers, alpha, seed, truncation: see `sam_age.editing.mixing`.
        """
        chosen = random_styles(self.sam.decoder, styles, seed, truncation).float().cpu()
        return mix(self.edit(faces, ages)[:, :, None], chosen, layers, alpha)

    def reference(
        self,
        faces: Faces,
        ages: Sequence[float],
        references: Faces,
        *,
        layers: Layers = None,
        alpha: float = 1.0,
    ) -> Tensor:
        """Aged codes in the colours and textures of other faces, each of them in turn: (N, A, S, n_styles, D)."""
        return mix(self.edit(faces, ages)[:, :, None], self.encode(references), layers, alpha)

    def dial(self, faces: Faces, ages: Sequence[float], amount: float) -> Tensor:
        """Aged by a part: 0 is the source's own code, 1 the aged one. (N, A, n_styles, D)."""
        source = self.encode(faces)
        return dial(source[:, None], self.edit(faces, ages, source), amount)

    def dial_curve(
        self,
        faces: Faces,
        age: float,
        identity: str | Path | nn.Module,
        *,
        amounts: Sequence[float] = AMOUNTS,
    ) -> DialCurve:
        """Identity kept and age read at each setting of the dial.

        Args:
            age: target, years.
            identity: the network that judges, or its file or name, best one that was in no loss:
                "lifespan/eval_identity" for the package's own model, "facenet" for photographs.
        """
        who = load(identity) if isinstance(identity, str | Path) else identity
        if isinstance(identity, str | Path) and type(who).__name__ not in IDENTITY_NETWORKS:
            raise InputError(f"{identity} holds {type(who).__name__}, no identity network: one of {IDENTITY_NETWORKS}.")
        place = self.sam.latent_avg.device
        who = who.to(place).eval()
        source = self.encode(faces)
        aged = self.edit(faces, [age], source)[:, 0]
        reads = self.read_age(faces[:1]) is not None

        def pictures(codes: Tensor) -> Tensor:
            return to_tensor(self.synthesize(codes))

        def years(images: Tensor) -> Tensor:
            return torch.tensor(self.read_age(to_images(images)))

        inputs, targets = to_tensor(faces), [float(age)] * len(faces)
        return dial_curve(
            pictures, inputs, source, aged, targets,
            identity=lambda images: who(images.to(place)).cpu(), age=years if reads else None, amounts=amounts,
            batch_size=self.batch_size,
        )  # fmt: skip

    def calibrate(
        self, faces: Faces, ages: Sequence[float], *, tolerance: float = 0.5, rounds: int = 8
    ) -> list[Calibrated]:  # fmt: skip
        """For each face and age the target age at which the age network reads it, see `sam_age.editing.calibration`.

        Raises:
            InputError: the pipeline has no age network.
        """
        if self.read_age(faces[:1]) is None:
            raise InputError("Calibration needs an age network, and none came with this model: get DEX's file.")
        source = self.encode(faces)

        def read(which: list[int], settings: list[float]) -> list[float]:
            found: list[float] = []
            for start in range(0, len(which), 64):  # pictures of 1024 pixels: not all at once
                some = which[start : start + 64]
                rows = [[setting] for setting in settings[start : start + 64]]
                codes = self.edit([faces[face] for face in some], rows, source[some])
                found += self.read_age(self.synthesize(codes))
            return found

        return calibrate(read, len(faces), ages, tolerance=tolerance, rounds=rounds)

    def path(self, face: Image.Image, ages: Sequence[float] = EVERY_FIVE) -> LifespanPath:
        """One face's codes from age to age, as a curve that can be saved and read between its points."""
        ages = sorted({float(age) for age in ages})
        return LifespanPath(torch.tensor(ages), self.edit([face], ages)[0], self.sam.latent_avg.float().cpu())

    def direction(self, having: str | Path | Faces, lacking: str | Path | Faces, name: str = "") -> LatentDirection:
        """The line in w+ from faces that lack something to faces that have it; a folder or aligned faces each.

        For other labels, years for instance: `fit_direction(sam.encode(faces), labels)`.
        """
        sides = [self._faces_of(side) for side in (lacking, having)]
        if not any(map(len, sides)):
            raise InputError(
                "No face in any of the pictures: a direction needs faces that have something and that lack it."
            )
        labels = torch.cat([torch.full((len(side),), float(label)) for label, side in enumerate(sides)])
        return fit_direction(torch.cat([self.encode(side) for side in sides if side]), labels, name)

    def move(
        self,
        faces: Faces,
        ages: Sequence[float],
        direction: LatentDirection,
        amount: float = 1.0,
        *,
        layers: Layers = "all",
        when: Literal["before", "after"] = "after",
    ) -> Tensor:
        """Aged codes, moved along a direction: (N, A, n_styles, D).

        when: "after" moves the aged code. Moving the inversion instead would come to the same, as both are summands:
            "before" makes a picture of the moved inversion and ages that, so that the age encoder sees the change.
        """
        if when == "after":
            return direction(self.edit(faces, ages), amount, layers)
        if when != "before":
            raise InputError(f"A direction is applied before or after ageing, not {when!r}.")
        moved = self.synthesize(direction(self.encode(faces), amount, layers))
        size = faces[0].size
        return self.edit([picture.resize(size, Image.Resampling.BOX) for picture in moved], ages)

    def patch(
        self,
        faces: Faces,
        ages: Sequence[float],
        where: Where,
        *,
        feather: float = FEATHER,
        onto: Literal["input", "reconstruction"] = "input",
        blend: Literal["pixels", "features"] = "pixels",
    ) -> list[list[Image.Image]]:
        """Pictures aged in a part of the face alone, for each face one per age, at the generator's size.

        Args:
            where, feather: see `sam_age.editing.patches`.
            onto: what shows elsewhere: the input, or what the model makes of it without ageing.
            blend: "features" also blends inside of the generator, so that the part fits what the model would put
                around it.
        """
        if onto not in ("input", "reconstruction") or blend not in ("pixels", "features"):
            raise InputError(
                f"onto is input or reconstruction, blend is pixels or features, not {onto!r} and {blend!r}."
            )
        source = self.encode(faces)
        size = self.sam.decoder.size
        if onto == "input":
            bases = [face.convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for face in faces]
        else:
            bases = self.synthesize(source)
        made = []
        for base, start, aged in zip(bases, source, self.edit(faces, ages, source), strict=True):
            if blend == "features":
                place = self.sam.latent_avg.device
                pictures = [
                    picture
                    for codes in aged.to(place).split(self.batch_size)
                    for picture in to_images(
                        synthesize_patch(
                            self.sam.decoder, start.to(place).expand_as(codes), codes, where, feather
                        )
                    )
                ]  # fmt: skip
            else:
                pictures = self.synthesize(aged)
            made.append([patch_images(base, picture, where, feather) for picture in pictures])
        return made

    def _faces_of(self, given: str | Path | Faces) -> list[Image.Image]:
        """Aligned faces: those given, or the largest of each picture in a folder; what cannot be used is reported."""
        if not isinstance(given, str | Path):
            return list(given)
        source, faces = FolderFaces(given), []
        for index in range(len(source)):
            try:
                picture = read_image(source.read(index), name=source.name(index))
                faces.append(self.find_faces(picture, name=source.name(index))[0][0])
            except InputError as error:
                log.warning("Left out: %s", error)
        return faces
