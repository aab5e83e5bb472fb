"""Pictures of a source as training samples: decoded, 256 pixels, perhaps flipped, with what is known of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sam_age.data.images import read_image
from sam_age.data.sampler import Key
from sam_age.data.sources import ImageSource, labels_of
from sam_age.data.truths import Truths
from sam_age.errors import InputError

if TYPE_CHECKING:
    from sam_age.data.source_cache import SourceCache

log = logging.getLogger("sam_age")

ON_ERROR = ("skip", "stop")


class FacesDataset(Dataset[dict[str, Any]]):
    """Aligned faces by (epoch, index), or by index alone for epoch 0.

    A sample is {"faces": uint8 (3, size, size), "index": its number in the source, "age": float years, NaN
    where unknown, "skipped": pictures that could not be read on the way to it} and the source's `labels`, if it has
    any; "skipped" alone where there is no picture (see `replace`, and `collate`). Whether it is mirrored depends on
    (seed, epoch, index) alone.

    Args:
        source: where the pictures are.
        size: side in pixels; others are resized bilinearly, whatever their shape, as the authors do.
        flip: probability of mirroring.
        on_error: "skip" reports a picture that cannot be read and goes on without it; "stop" raises.
        cache: what frozen networks say of the faces, added to each sample, see `SourceCache`.
        truths: add to each sample "truth", the same person at another age, and "truth_age", see `Truths`.
        replace: take the next picture in the place of a skipped one, as training wants; scores would count that
            one twice, so evaluation leaves the place empty.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        size: int = 256,
        flip: float = 0.0,
        seed: int = 0,
        on_error: str = "skip",
        replace: bool = True,
        cache: SourceCache | None = None,
        truths: bool = False,
    ) -> None:
        if on_error not in ON_ERROR:
            raise InputError(f"on_error is skip or stop, not {on_error!r}.")
        if not 0 <= flip <= 1:
            raise InputError(f"flip is a probability from 0 to 1, not {flip}.")
        self.source, self.size, self.flip, self.seed, self.on_error = source, size, flip, seed, on_error
        self.replace, self.cache = replace, cache
        self.truths = Truths(source) if truths else None
        self.skipped: dict[str, str] = {}  # name -> reason, of this process

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample = self.upright(index)
        if "faces" not in sample:
            return sample
        mirrored = self.mirrored(epoch, sample["index"])
        if self.cache is not None:
            name = self.source.name(sample["index"])
            sample |= self.cache.row(sample["index"], sample["faces"], mirrored, name)
        if self.truths is not None:
            sample |= self._truth(epoch, sample)
        if mirrored:
            sample |= {name: sample[name].flip(2) for name in ("faces", "truth") if name in sample}
        return sample

    def _truth(self, epoch: int, sample: dict[str, Any]) -> dict[str, Any]:
        """The portrait that ageing is to lead to; where it cannot be read the face itself, which is one, too."""
        (other,) = self.truths.choose(self.seed, [epoch], [sample["index"]])
        found = self.upright(other)
        if "faces" not in found or found["index"] != other:
            found = sample
        return {"truth": found["faces"], "truth_age": found["age"]}

    def upright(self, index: int) -> dict[str, Any]:
        """A sample that is not mirrored."""
        index, image, skipped = self._readable(index)
        if image is None:
            return {"skipped": skipped}
        pixels = to_pixels(resize(image, self.size))
        age = self.source.age(index) if hasattr(self.source, "age") else math.nan
        age = torch.tensor(age, dtype=torch.float32)
        return {"faces": pixels, "index": index, "age": age, "skipped": skipped} | labels_of(self.source, index)

    def mirrored(self, epoch: int, index: int) -> bool:
        return self.flip > 0 and bool(np.random.default_rng([self.seed, epoch, index]).random() < self.flip)

    def _readable(self, index: int) -> tuple[int, Image.Image | None, int]:
        """The picture at index, or the next one that can be read, and how many could not."""
        for step in range(len(self.source) if self.replace else 1):
            candidate = (index + step) % len(self.source)
            name = self.source.name(candidate)
            try:
                return candidate, read_image(self.source.read(candidate), name=name), step
            except (InputError, OSError) as error:
                if self.on_error == "stop":
                    raise InputError(f"{error} (data.on_error=skip goes on without it)") from error
                if name not in self.skipped:
                    self.skipped[name] = str(error)
                    log.warning("Skipped, %d so far in this process: %s", len(self.skipped), error)
        if not self.replace:
            return index, None, 1
        raise InputError(f"None of the {len(self.source)} pictures can be read; the last: {name}.")


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples -> a batch; those without a picture are left out, and "skipped" is their sum. It may be empty."""
    skipped = sum(sample["skipped"] for sample in samples)
    kept = [{k: v for k, v in sample.items() if k != "skipped"} for sample in samples if "faces" in sample]
    if kept:
        return {**default_collate(kept), "skipped": skipped}
    empty = {"faces": torch.empty(0, 3, 1, 1, dtype=torch.uint8), "index": torch.empty(0, dtype=torch.long)}
    return {**empty, "age": torch.empty(0), "skipped": skipped}


def resize(image: Image.Image, size: int) -> Image.Image:
    """To a square of `size` pixels, bilinear with antialiasing, as torchvision's Resize on a PIL image."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def to_pixels(image: Image.Image) -> Tensor:
    """RGB picture -> uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]; done on the device, so that a quarter of the bytes travel."""
    return pixels.float() / 127.5 - 1
