"""What the page does, without a page: opens what was uploaded, keeps a visitor's codes, draws pictures of them."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam_age.animation import ANCHORS, frame_ages, write_film
from sam_age.data.images import IMAGE_SUFFIXES, read_image
from sam_age.editing import LifespanPath, dial, mix
from sam_age.errors import InputError
from sam_age.photos import Paster
from sam_age.pipeline import AgingPipeline
from sam_age.sheets import sheet

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""What is decoded, by content: Pillow knows fifty more formats, each more code that a stranger's bytes would reach."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
"""The names that go with them, for the browser's dialogue."""

MOST_FACES = 8  # of a photo that can be chosen on the page, the largest
THUMBNAIL = 192  # pixels
SWIFT = 1.0  # seconds a picture may take for the strip to be drawn without being asked for
_KEPT_AGES = 128  # codes of one visitor, 14 kB each


@dataclass(frozen=True)
class Limits:
    """What an upload may be.

    Attributes:
        megabytes: of the file.
        megapixels: that it unpacks to.
        photo_side: pixels; larger photos are reduced to this, which is kept for as long as the visitor stays.
    """

    megabytes: float = 20
    megapixels: float = 50
    photo_side: int = 2048


@dataclass
class Sitting:
    """One visitor's face. Lives in memory, and goes with the visitor."""

    photo: Image.Image  # upright RGB, reduced
    crops: list[Image.Image]  # aligned, 256 pixels, largest first
    quads: list[np.ndarray | None]  # where they are in the photo; None: the photo is the aligned face
    chosen: int = 0
    inversion: Tensor | None = None  # (n_styles, D)
    age_read: float | None = None
    aged: dict[float, Tensor] = field(default_factory=dict)  # years -> (n_styles, D)

    @property
    def face(self) -> Image.Image:
        return self.crops[self.chosen]


@dataclass(frozen=True)
class Look:
    """How a face is to be drawn: by how much of the change, and in whose colours.

    Attributes:
        amount: the identity dial, 0 (as they are) to 1 (as the model ages).
        reference: (n_styles, D), a code to take colours and textures from.
        share: how much of it, 0 to 1.
    """

    amount: float = 1.0
    reference: Tensor | None = None
    share: float = 0.0


def open_upload(data: bytes, limits: Limits) -> Image.Image:
    """A stranger's bytes -> an upright RGB picture, or an error that can be shown to the stranger.

    The size is read from the file's head, and too large a one is refused before a pixel is unpacked.
    """
    if len(data) > limits.megabytes * 1e6:
        raise InputError(f"This file has {len(data) / 1e6:.0f} MB; at most {limits.megabytes:g} are taken.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures: they are measured here
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise InputError(_too_many(limits)) from None
    except Exception:
        raise InputError("This is not a picture that can be read here: take a JPEG, PNG or WebP.") from None
    if image.width * image.height > limits.megapixels * 1e6:
        raise InputError(_too_many(limits))
    if min(image.size) < 64:
        raise InputError(f"This picture has {image.width} x {image.height} pixels: too few to see a face in.")
    try:
        picture = read_image(image, name="This picture")
    except InputError:
        raise InputError("This picture is damaged, or only a part of it arrived.") from None
    picture = picture.copy()  # its own pixels and nothing of the file's: no EXIF, no place where it was taken
    picture.info.clear()
    picture.thumbnail((limits.photo_side, limits.photo_side), Image.Resampling.LANCZOS)
    return picture


def _too_many(limits: Limits) -> str:
    return f"This picture unpacks to more than {limits.megapixels:g} megapixels, which is the most that is taken here."


class Studio:
    """The model and the pictures to try it on.

    Args:
        pipeline: loaded.
        samples: aligned faces.
        limits: of uploads.
    """

    def __init__(
        self, pipeline: AgingPipeline, samples: Sequence[Image.Image] = (), limits: Limits | None = None
    ) -> None:
        self.pipeline = pipeline
        self.samples = list(samples)
        self.limits = limits or Limits()
        self.seconds = 0.0  # that a picture takes

    def warm_up(self) -> float:
        """Load what is loaded late, and see how long a picture takes: seconds."""
        grey = Image.new("RGB", (256, 256), (128, 128, 128))
        sitting, taken = self.sit(grey), []
        for age in (50, 60, 70, 80):
            start = time.perf_counter()
            self.draw(sitting, age)
            taken.append(time.perf_counter() - start)
        self.seconds = min(taken)  # the first one loads, and others may have met a busy machine
        _ = self.pipeline.detector
        return self.seconds

    # ---- whose face --------------------------------------------------------------------------------------------------

    def upload(self, data: bytes) -> Sitting:
        """Find and encode the faces of an uploaded photo."""
        photo = open_upload(data, self.limits)
        try:
            found = self.pipeline.find_faces(photo, faces="all")
        except InputError:
            raise InputError(
                "No face was found in this picture: take one where a face is larger, upright and unobstructed."
            ) from None
        crops, quads = zip(*found[:MOST_FACES], strict=True)
        return self.choose(Sitting(photo, list(crops), list(quads)), 0)

    def sample(self, number: int) -> Sitting:
        """One of the samples sits."""
        if not (isinstance(number, int) and 0 <= number < len(self.samples)):
            raise InputError("There is no such sample.")
        return self.sit(self.samples[number])

    def sit(self, face: Image.Image) -> Sitting:
        """An aligned face sits."""
        return self.choose(Sitting(face, [face], [None]), 0)

    def choose(self, sitting: Sitting, number: int) -> Sitting:
        """Turn to another face of the photo: encoded here, once."""
        if not (isinstance(number, int) and 0 <= number < len(sitting.crops)):
            raise InputError("There is no such face in the photo.")
        face = sitting.crops[number]
        read = self.pipeline.read_age([face])
        return Sitting(
            sitting.photo, sitting.crops, sitting.quads, number, self.pipeline.encode([face])[0],
            None if read is None else read[0],
        )  # fmt: skip

    def reference(self, given: bytes | int) -> tuple[Image.Image, Tensor]:
        """A face to take colours and textures from, a file's bytes or a sample's number, and its code."""
        sitting = self.sample(given) if isinstance(given, int) else self.upload(given)
        return sitting.face, sitting.inversion

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def codes(self, sitting: Sitting, ages: Sequence[float], look: Look) -> Tensor:
        """w+ (ages, n_styles, D). The model is asked once for each age of a face."""
        new = [age for age in dict.fromkeys(ages) if age not in sitting.aged]
        if new:
            made = self.pipeline.edit([sitting.face], new, sitting.inversion[None])[0]
            if len(sitting.aged) > _KEPT_AGES:
                sitting.aged.clear()
                return self.codes(sitting, ages, look)
            sitting.aged.update(zip(new, made, strict=True))
        codes = torch.stack([sitting.aged[age] for age in ages])
        codes = dial(sitting.inversion[None], codes, look.amount)
        if look.reference is not None and look.share > 0:
            codes = mix(codes, look.reference[None], "fine", look.share)
        return codes

    def draw(self, sitting: Sitting, age: float, look: Look | None = None) -> tuple[Image.Image, float | None]:
        """The face at an age, and the age that is read in it."""
        (picture,) = self.pipeline.synthesize(self.codes(sitting, [age], look or Look()))
        read = self.pipeline.read_age([picture])
        return picture, None if read is None else read[0]

    def strip(
        self, sitting: Sitting, look: Look, ages: Sequence[float] = ANCHORS
    ) -> Iterator[tuple[float, Image.Image, float | None]]:
        """The face through the ages, one after the other as they are made."""
        for age in ages:
            yield (age, *self.draw(sitting, age, look))

    def film(
        self, sitting: Sitting, look: Look, kind: str = "webp", *, seconds: float = 4.0, fps: float = 12.5
    ) -> Iterator[float | bytes]:
        """The face growing older and younger: shares done, then the file's bytes. kind: "webp" or "gif"."""
        if kind not in ("webp", "gif"):
            raise InputError("A film is a WebP or a GIF here.")
        years = frame_ages(ANCHORS, round(seconds * fps))
        path = LifespanPath(torch.tensor(ANCHORS).float(), self.codes(sitting, ANCHORS, look), sitting.inversion)
        drawn: dict[float, Image.Image] = {}
        for age in dict.fromkeys(years):  # there and back: most are shown twice
            (drawn[age],) = self.pipeline.synthesize(path.at([age]))
            drawn[age].thumbnail((512, 512), Image.Resampling.LANCZOS)
            yield len(drawn) / len(set(years))
        with TemporaryDirectory(prefix="sam-demo-") as folder:
            file = Path(folder) / f"film.{kind}"
            write_film(file, (drawn[age] for age in years), fps=fps, count=len(years), repeat=True, progress=False)
            yield file.read_bytes()

    def in_photo(self, sitting: Sitting, age: float, look: Look) -> Image.Image:
        """The photo with the chosen face aged in its place."""
        quad = sitting.quads[sitting.chosen]
        picture, _ = self.draw(sitting, age, look)
        if quad is None:
            return picture
        others = [q for n, q in enumerate(sitting.quads) if n != sitting.chosen and q is not None]
        return Paster(sitting.photo, [quad], others=others).paste([picture])


def contact_sheet(drawn: Sequence[tuple[float, Image.Image, float | None]]) -> Image.Image:
    """Ages side by side, six in a row, to be saved."""
    cells = [
        (picture, f"age {age:g}" + ("" if read is None else f"\nlooks {read:.0f}")) for age, picture, read in drawn
    ]
    return sheet([cells[start : start + 6] for start in range(0, len(cells), 6)])


def samples_of(folder: str | Path | None) -> list[Image.Image]:
    """Aligned faces to try: those of a folder, at most twelve; None: the package's own, if this copy has them."""
    if folder is None:
        from sam_age.pretrained import portraits

        try:
            return [read_image(path) for path in portraits.inputs()]
        except InputError:
            return []
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"samples={folder} is no folder: give one of aligned faces, or leave it out.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)[:12]
    return [read_image(path).resize((256, 256), Image.Resampling.LANCZOS) for path in files]
