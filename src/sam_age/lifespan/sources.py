"""Where the portraits are: a folder or shards that sam-render wrote, or nowhere until they are asked for."""

from __future__ import annotations

import io
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sam_age.data.sources import TarShards
from sam_age.data.storing import read_lines
from sam_age.errors import InputError
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.folder import COMMAND, PORTRAITS, SETTINGS, Settings
from sam_age.lifespan.person import ANCESTRIES, SEXES
from sam_age.lifespan.splits import OLDEST, SPLITS, Portrait, plan
from sam_age.lifespan.studio import RENDERER, Studio

log = logging.getLogger("sam_age")


class LifespanFaces:
    """The portraits of a split, as sam-render wrote them: an image source that knows ages, people and sexes.

    Args:
        root: what was sam-render's output=.
        split: one of `sam_age.lifespan.splits.SPLITS`.

    Raises:
        InputError: nothing there, with the command that makes it.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        if split not in SPLITS:
            raise InputError(f"There is no split {split!r}; known: {', '.join(SPLITS)}.")
        self.folder = Path(root) / split
        self.rows = read_lines(self.folder / PORTRAITS, {"file", "person", "age", "sex", "ancestry"}, command=COMMAND)
        command = f"{COMMAND} output={root} split={split}"
        if not self.rows:
            raise InputError(f"There are no portraits in {self.folder}: {command} renders them.")
        missing = _planned(self.folder) - len(self.rows)
        if missing > 0:
            log.warning("%s lacks %d of its portraits: the command that made it goes on.", self.folder, missing)
        self._tars: TarShards | None = None
        if self.rows[0]["file"].split("/")[0].endswith(".tar"):
            self._tars = TarShards(self.folder)
            by_file = {row["file"]: row for row in self.rows}
            names = [Path(self._tars.name(i)).relative_to(self.folder).as_posix() for i in range(len(self._tars))]
            if set(names) != set(by_file):
                raise InputError(f"The shards in {self.folder} are not those of {PORTRAITS}: {command} renders them.")
            self.rows = [by_file[name] for name in names]
        people = sorted({row["person"] for row in self.rows})
        self._numbers = {person: number for number, person in enumerate(people)}
        self.people = len(people)

    @property
    def blocks(self) -> list[int] | None:
        """Portraits in each shard; None where every portrait is a file."""
        return self._tars.blocks if self._tars else None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return str(self.folder / self.rows[index]["file"])

    def read(self, index: int) -> bytes:
        return self._tars.read(index) if self._tars else Path(self.name(index)).read_bytes()

    def age(self, index: int) -> float:
        """Years."""
        return self.rows[index]["age"]

    def labels(self, index: int) -> dict[str, int]:
        """`person`: counted from 0 in this folder; `kin`: sex and leading ancestry."""
        row = self.rows[index]
        return {"person": self._numbers[row["person"]], "kin": kin(row["sex"], row["ancestry"])}

    def others(self, index: int) -> list[int]:
        """The portraits of the same person in the same scene at other ages."""
        row = self.rows[index]
        return [i for i in self._lives[row["person"], row["scene"]] if self.rows[i]["age"] != row["age"]]

    @cached_property
    def _lives(self) -> dict[tuple[str, int], list[int]]:
        """Portraits by person and scene."""
        lives: dict[tuple[str, int], list[int]] = defaultdict(list)
        for index, row in enumerate(self.rows):
            lives[row["person"], row["scene"]].append(index)
        return lives

    def row(self, index: int) -> dict[str, Any]:
        """All that is known of the portrait: file, person, age, sex, split, ancestry, scene, ..."""
        return self.rows[index]


def kin(sex: str, ancestry: str) -> int:
    """0 to 5, the same for people of one sex and leading ancestry.

    >>> kin("female", "asian") != kin("male", "asian") != kin("male", "african")
    True
    """
    return SEXES.index(sex) * len(ANCESTRIES) + ANCESTRIES.index(ancestry)


def _planned(folder: Path) -> int:
    """How many portraits the run that made the folder was to make; 0 if it does not say."""
    try:
        return len(Settings(**json.loads((folder / SETTINGS).read_text(encoding="utf-8"))).plan())
    except (OSError, ValueError, TypeError):
        return 0


class Endless(Sequence[Portrait]):
    """A new person in a new scene, at an age drawn evenly from 0-100 years, for every number; for training.

    They are drawn for a split of their own, so that they are in none of those on disk.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return 10**12  # a length is wanted in places; nobody gets there

    def __getitem__(self, index: int) -> Portrait:
        age = round(Dice(self.seed, "live", index).uniform("age", 0, OLDEST), 1)
        return Portrait("live", "live", self.seed, int(index), 0, age)


class LifespanLive:
    """Portraits that are rendered when they are read: an image source without files.

    Args:
        split: "live" never ends and is taken in its own order; or one of `sam_age.lifespan.splits.SPLITS`.
        seed: of the people and scenes. Portrait i is a function of (split, seed, i) alone.
        people: of a split that ends, instead of its own number.
        size: side, pixels.
        renderer: module, see `Studio`.
    """

    def __init__(
        self,
        split: str = "live",
        *,
        seed: int = 0,
        people: int | None = None,
        size: int = 256,
        renderer: str = RENDERER,
    ) -> None:
        self.endless = split == "live"
        if self.endless and people is not None:
            raise InputError("The split live has no end: people= is for the others.")
        self.portraits = Endless(seed) if self.endless else plan(split, seed=seed, people=people)
        self.people = len(self.portraits if self.endless else {portrait.number for portrait in self.portraits})
        self.studio = Studio(size, renderer=renderer)

    def __len__(self) -> int:
        return len(self.portraits)

    def name(self, index: int) -> str:
        portrait = self.portraits[index]
        return f"{portrait.person} at {portrait.age} years"

    def age(self, index: int) -> float:
        """Years."""
        return self.portraits[index].age

    def labels(self, index: int) -> dict[str, int]:
        """`person`: its number in the split; `kin`: sex and leading ancestry."""
        portrait = self.portraits[index]
        return {"person": portrait.number, "kin": kin(portrait.sex, portrait.ancestry)}

    def row(self, index: int) -> dict[str, Any]:
        """What sam-render would write of the portrait."""
        portrait = self.portraits[index]
        return self.studio.portrait_row(portrait, self.name(index))

    def read(self, index: int) -> bytes:
        """The picture as the bytes of a PNG file."""
        (pixels,) = self.render([index])
        buffer = io.BytesIO()
        # rendering takes a hundred times longer: bytes that every data set can read cost nothing
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    def render(self, indices: Sequence[int], device: str | torch.device = "cpu") -> Tensor:
        """Many at once: uint8 (N, 3, size, size), on the device."""
        studio = Studio(self.studio.size, device, self.studio.renderer)
        return studio.shoot([self.portraits[index] for index in indices])
