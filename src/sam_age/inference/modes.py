"""The modes of sam-infer: each a thin call of what the pipeline has."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sam_age.errors import InputError
from sam_age.inference.inputs import Inputs, open_inputs

if TYPE_CHECKING:
    from sam_age.editing.directions import LatentDirection
    from sam_age.pipeline import AgingPipeline
    from sam_age.sheets import Cell

log = logging.getLogger(__name__)


def age_label(age: float) -> str:
    """Ages that sort as names.

    >>> age_label(5), age_label(62.5)
    ('005', '062.5')
    """
    whole, fraction = f"{age:07.3f}".split(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


@dataclass
class Made:
    """Of one face: its pictures with the endings of their names, and all of them on one sheet."""

    pictures: list[tuple[str, Image.Image]]
    sheet: Image.Image | None = None
    row: list[Cell] = field(default_factory=list)  # for the overview of many
    more: list[tuple[str, bytes]] = field(default_factory=list)  # other files, by the endings of their names


@dataclass
class Mode:
    """What modes share.

    Args:
        name: of the mode; options: what is under `mode` in the configuration, less its name and ages.
        ages: target ages, years, checked. align, faces: as in `AgingPipeline.__call__`. sheet: write sheets, too.
    """

    name: str
    options: dict[str, Any]
    ages: list[float]
    align: str = "auto"
    faces: Any = "largest"
    sheet: bool = True

    takes = "bytes"
    """What it is given of a picture: "image", decoded, "bytes" of the file, or its "path"."""
    in_batches = False
    """Faces of several pictures go through the networks together."""

    def __post_init__(self) -> None:
        """Check the options: a wrong one is said at once, not of every picture in turn."""

    def prepare(self, pipeline: AgingPipeline) -> None:
        """What is needed once, before the first picture; the options that depend on the model are checked here."""

    def _number(self, key: str, low: float, high: float, *, whole: bool = False) -> None:
        value = self.options[key]
        kind = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise InputError(f"mode.{key} is a {'whole ' if whole else ''}number from {low} to {high}, not {value!r}.")

    def _one_of(self, key: str, *known: str | None) -> None:
        if self.options[key] not in known:
            raise InputError(f"mode.{key} is one of {', '.join(filter(None, known))}, not {self.options[key]!r}.")

    def _yes_or_no(self, key: str) -> None:
        if not isinstance(self.options[key], bool):  # Hydra reads `no` and `maybe` as words, and words count as true
            raise InputError(f"mode.{key} is true or false, not {self.options[key]!r}.")

    def _layers(self, pipeline: AgingPipeline) -> None:
        from sam_age.editing.mixing import layers_of

        layers_of(self.options["layers"], pipeline.sam.decoder.n_latent)

    def _pictures(self, key: str) -> Inputs:
        """Those that an option names."""
        try:
            return open_inputs(str(self.options[key]), Path())
        except InputError as error:
            raise InputError(f"mode.{key}: {error}".replace("give input=", f"give mode.{key}=")) from None

    def endings(self, key: str) -> list[str]:
        """Of the files made of a picture called so."""
        raise NotImplementedError

    def write(self, pipeline: AgingPipeline, what: Any, key: str, path: Callable[[str], Path]) -> None:
        """Make and write the results of one picture; `path` gives the file of an ending."""
        raise NotImplementedError


class FaceMode(Mode):
    """Modes that turn aligned faces into pictures."""

    takes, in_batches = "image", True

    def endings(self, key: str) -> list[str]:
        return [*(f"_{label}.png" for label in self.labels()), *(["_sheet.png"] if self.sheet else [])]

    def labels(self) -> list[str]:
        """The pictures of a face."""
        return [age_label(age) for age in self.ages]

    def make(self, pipeline: AgingPipeline, faces: Sequence[Image.Image]) -> list[Made]:
        """The results of aligned faces, one each."""
        raise NotImplementedError

    def _largest(self, pipeline: AgingPipeline, inputs: Inputs, index: int) -> Image.Image | None:
        """The largest face of a picture that belongs to the options; None, and a word of it, where there is none."""
        from sam_age.data.images import read_image

        name = inputs.source.name(index)
        try:
            picture = read_image(inputs.source.read(index), name=name)
            return pipeline.find_faces(picture, align=self.align, name=name)[0][0]
        except (InputError, OSError) as error:
            log.warning("Left out: %s", error)
            return None

    def _laid_out(self, face: Image.Image, images: Sequence[Image.Image], captions: Sequence[str]) -> Made:
        """Pictures of one face, age by age and caption by caption, with a sheet that has a row for each age."""
        from sam_age.sheets import sheet

        wide = len(captions)
        rows = []
        for number, age in enumerate(self.ages):
            some = images[number * wide : (number + 1) * wide]
            cells = [(image, f"age {age:g}\n{text}".strip()) for image, text in zip(some, captions, strict=True)]
            first = (Image.new("RGB", face.size, "white"), "") if rows else (face, "input")
            rows.append([first, *cells])
        if wide == 1:
            rows = [[rows[0][0], *(row[1] for row in rows)]]
        return Made(list(zip(self.labels(), images, strict=True)), sheet(rows) if self.sheet else None)


class Ages(FaceMode):
    """One picture for each age, and all side by side."""

    def __post_init__(self) -> None:
        self._yes_or_no("calibrate")

    def prepare(self, pipeline: AgingPipeline) -> None:
        if self.options["calibrate"] and pipeline.age_net is None:
            raise InputError("mode.calibrate=true needs an age network, and none came with this model: get DEX's file.")

    def endings(self, key: str) -> list[str]:
        return [*super().endings(key), *(["_calibration.json"] if self.options["calibrate"] else [])]

    def make(self, pipeline: AgingPipeline, faces: Sequence[Image.Image]) -> list[Made]:
        if self.options["calibrate"]:
            return self._calibrated(pipeline, faces)
        aged = pipeline.age_faces(faces, self.ages)
        return [
            Made(list(zip(self.labels(), face.images, strict=True)), face.sheet() if self.sheet else None, face.cells())
            for face in aged
        ]

    def _calibrated(self, pipeline: AgingPipeline, faces: Sequence[Image.Image]) -> list[Made]:
        """At the target ages at which the age network reads those asked for, which a file of each face tells."""
        from sam_age.sheets import sheet

        found, count = pipeline.calibrate(faces, self.ages), len(self.ages)
        rows = [found[start : start + count] for start in range(0, len(found), count)]
        pictures = pipeline.synthesize(pipeline.edit(faces, [[one.set for one in row] for row in rows]))
        made = []
        for number, (face, row, looks) in enumerate(zip(faces, rows, pipeline.read_age(faces), strict=True)):
            images = pictures[number * count : (number + 1) * count]
            captions = [f"age {one.asked:g}\nset {one.set:.0f}, looks {one.read:.0f}" for one in row]
            cells = [(face, f"input\nlooks {looks:.0f}"), *zip(images, captions, strict=True)]
            whole = sheet([cells[start : start + 6] for start in range(0, len(cells), 6)]) if self.sheet else None
            told = [
                {"asked": one.asked, "set": one.set, "read": one.read, "read_uncalibrated": one.plain,
                 "reached": one.reached} for one in row
            ]  # fmt: skip
            report = [("calibration.json", (json.dumps(told, indent=1) + "\n").encode())]
            made.append(Made(list(zip(self.labels(), images, strict=True)), whole, cells, report))
        return made


class Sheet(FaceMode):
    """All ages side by side, and nothing else."""

    def __post_init__(self) -> None:
        self._number("cell", 16, 4096, whole=True)

    def labels(self) -> list[str]:
        return ["sheet"]

    def endings(self, key: str) -> list[str]:
        return ["_sheet.png"]

    def make(self, pipeline: AgingPipeline, faces: Sequence[Image.Image]) -> list[Made]:
        aged = pipeline.age_faces(faces, self.ages)
        return [Made([("sheet", face.sheet(self.options["cell"]))], row=face.cells()) for face in aged]


class Mix(FaceMode):
    """Aged, in the colours and textures of random styles."""

    def __post_init__(self) -> None:
        self._number("styles", 1, 1000, whole=True)
        self._number("alpha", 0, 1)
        self._number("seed", 0, 2**63 - 1, whole=True)
        self._number("truncation", -10, 10)

    def prepare(self, pipeline: AgingPipeline) -> None:
        self._layers(pipeline)

    def labels(self) -> list[str]:
        return [f"{age_label(age)}_style{n}" for age in self.ages for n in range(self.options["styles"])]

    def make(self, pipeline: AgingPipeline, faces: Sequence[Image.Image]) -> list[Made]:
        codes = pipeline.mix(faces, self.ages, **self.options)
        captions = [f"style {n}" for n in range(self.options["styles"])]
        return [
            self._laid_out(face, pipeline.synthesize(rows), captions) for face, rows in zip(faces, codes, strict=True)
        ]


class Reference(FaceMode):
    """Aged, in the colours and textures of other faces."""

    names: list[str]

    def __post_init__(self) -> None:
        if not self.options["references"]:
            raise InputError("mode=reference needs mode.references=, a picture or a folder of faces to look like.")
        self._number("alpha", 0, 1)
        self.inputs = self._pictures("references")
        self.names = [stem.replace("/", "-") for stem in self.inputs.stems]

    def prepare(self, pipeline: AgingPipeline) -> None:
        self._layers(pipeline)
        found = [self._largest(pipeline, self.inputs, n) for n in range(len(self.inputs))]
        self.looks = [face for face in found if face is not None]
        if len(self.looks) < len(found):  # names were given out already
            raise InputError("mode.references has pictures without a usable face, see above: leave them out.")

    def labels(self) -> list[str]:
        return [f"{age_label(age)}_{name}" for age in self.ages for name in self.names]

    def make(self, pipeline: AgingPipeline, faces: Sequence[Image.Image]) -> list[Made]:
        options = {name: self.options[name] for name in ("layers", "alpha")}
        codes = pipeline.reference(faces, self.ages, self.looks, **options)
        return [
            self._laid_out(face, pipeline.synthesize(rows), self.names) for face, rows in zip(faces, codes, strict=True)
        ]


class Edit(FaceMode):
    """Aged in a part of the face, by a part of the way, or along a direction."""

    direction: LatentDirection

    def __post_init__(self) -> None:
        kind, options = self.options["kind"], self.options
        self._one_of("kind", "patch", "dial", "direction")
        if kind == "patch":
            from sam_age.editing.patches import mask_of

            self._number("feather", 0, 0.5)
            self._one_of("onto", "input", "reconstruction")
            self._one_of("blend", "pixels", "features")
            mask_of(str(options["where"]), 256, options["feather"])
        elif kind == "dial":
            self._number("amount", 0, 1)
        else:
            self._number("amount", -1000, 1000)
            self._one_of("when", "before", "after")
            if not (options["direction"] or (options["having"] and options["lacking"])):
                raise InputError(
                    "mode.kind=direction needs mode.direction=, a file that holds one, or two folders of faces: "
                    "mode.having= and mode.lacking=."
                )
            if not options["direction"]:
                self.sides = {side: self._pictures(side) for side in ("having", "lacking")}

    def prepare(self, pipeline: AgingPipeline) -> None:
        if self.options["kind"] != "direction":
            return
        from sam_age.editing.directions import LatentDirection
        from sam_age.weights import load

        self._layers(pipeline)
        if not self.options["direction"]:
            sides = []
            for side, inputs in self.sides.items():
                found = [self._largest(pipeline, inputs, n) for n in range(len(inputs))]
                sides.append([face for face in found if face is not None])
                if not sides[-1]:
                    raise InputError(f"No usable face in mode.{side}={self.options[side]}: give others.")
            self.direction = pipeline.direction(*sides)
            return
        found = load(str(self.options["direction"]))
        if not isinstance(found, LatentDirection):
            raise InputError(f"{self.options['direction']} holds {type(found).__name__}, not a direction.")
        self.direction = found

    def make(self, pipeline: AgingPipeline, faces: Sequence[Image.Image]) -> list[Made]:
        options = self.options
        if options["kind"] == "patch":
            how = {name: options[name] for name in ("feather", "onto", "blend")}
            images = pipeline.patch(faces, self.ages, options["where"], **how)
        else:
            if options["kind"] == "dial":
                codes = pipeline.dial(faces, self.ages, options["amount"])
            else:
                how = {name: options[name] for name in ("layers", "when")}
                codes = pipeline.move(faces, self.ages, self.direction, options["amount"], **how)
            images = [pipeline.synthesize(rows) for rows in codes]
        return [self._laid_out(face, row, [self.caption()]) for face, row in zip(faces, images, strict=True)]

    def caption(self) -> str:
        """What is done, for the sheets."""
        kind, amount = self.options["kind"], self.options["amount"]
        if kind == "patch":
            return f"{self.options['where']} alone"
        return f"{amount:.0%} of the way" if kind == "dial" else f"direction {amount:+g}"


class Animate(Mode):
    """A film of a face, or of the whole photo, going through its ages."""

    def __post_init__(self) -> None:
        from sam_age.animation import frames_of
        from sam_age.photos import REGIONS

        self._yes_or_no("whole")
        self._yes_or_no("caption")
        self._one_of("region", *REGIONS)
        film = Path(f"film.{self.options['format']}")
        frames_of(film, self.ages, *(self.options[key] for key in ("seconds", "fps", "loop")))

    def endings(self, key: str) -> list[str]:
        return [f".{self.options['format']}"]

    def write(self, pipeline: AgingPipeline, what: Any, key: str, path: Callable[[str], Path]) -> None:
        options = {name: value for name, value in self.options.items() if name != "format"}
        target = path(self.endings(key)[0])
        pipeline.animate(what, target, ages=self.ages, faces=self.faces, align=self.align, progress=False, **options)


class PhotoMode(Mode):
    """Whole photos, every face aged in its place."""

    def __post_init__(self) -> None:
        from sam_age.photos import REGIONS, SUFFIXES

        self._one_of("format", None, *(suffix[1:] for suffix in SUFFIXES))
        self._one_of("region", *REGIONS)
        self._yes_or_no("match_colours")

    def endings(self, key: str) -> list[str]:
        from sam_age.photos import SUFFIXES

        suffix = Path(key).suffix.lower()
        kind = f".{self.options['format']}" if self.options["format"] else suffix if suffix in SUFFIXES else ".png"
        return [*(f"_{age_label(age)}{kind}" for age in self.ages), *(["_sheet.png"] if self.sheet else [])]

    def write(self, pipeline: AgingPipeline, what: Any, key: str, path: Callable[[str], Path]) -> None:
        from sam_age.photos import save_photo

        options = {name: value for name, value in self.options.items() if name != "format"}
        aged = pipeline.photo(what, self.ages, faces=self.faces, **options)
        for number, ending in enumerate(self.endings(key)[: len(self.ages)]):
            aged.save(path(ending), number)
        if self.sheet:
            save_photo(aged.sheet(), path("_sheet.png"))


class Video(Mode):
    """Clips, faces followed from frame to frame, and a sheet of who was found, with the numbers that `faces=` takes."""

    takes = "path"

    def __post_init__(self) -> None:
        from sam_age.clips import SUFFIXES, ffmpeg
        from sam_age.photos import REGIONS

        self._one_of("format", *(suffix[1:] for suffix in SUFFIXES))
        self._one_of("region", *REGIONS)
        self._yes_or_no("match_colours")
        self._number("smoothing", 0, 10)
        ffmpeg()

    def endings(self, key: str) -> list[str]:
        return [f".{self.options['format']}", *(["_cast.png"] if self.sheet else [])]

    def write(self, pipeline: AgingPipeline, what: Any, key: str, path: Callable[[str], Path]) -> None:
        from sam_age.photos import save_photo
        from sam_age.video import cast_sheet

        options = {name: value for name, value in self.options.items() if name != "format"}
        done = pipeline.video(what, path(self.endings(key)[0]), self.ages, faces=self.faces, **options)
        if self.sheet:
            save_photo(cast_sheet(done.clip, done.cast), path("_cast.png"))


MODES: dict[str, type[Mode]] = {
    "ages": Ages, "sheet": Sheet, "animate": Animate, "mix": Mix, "reference": Reference, "edit": Edit,
    "photo": PhotoMode, "video": Video,
}  # fmt: skip
