"""A life as a curve in w+: codes at some ages, straight lines between them, in a file that numpy reads."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sam_age.data.storing import write_whole
from sam_age.errors import InputError

KEYS = ("ages", "codes", "latent_avg")


@dataclass(frozen=True)
class LifespanPath:
    """One person's codes from age to age.

    Attributes:
        ages: (A,) years, rising.
        codes: (A, n_styles, D), w+.
        latent_avg: (n_styles, D), where the model's codes start from.
    """

    ages: Tensor
    codes: Tensor
    latent_avg: Tensor

    def __post_init__(self) -> None:
        fits = self.ages.ndim == 1 and self.codes.ndim == 3 and self.codes.shape[0] == len(self.ages) > 0
        if not fits or self.codes.shape[1:] != self.latent_avg.shape:
            shapes = [list(part.shape) for part in (self.ages, self.codes, self.latent_avg)]
            raise InputError(
                f"A path is ages (A,), codes (A, styles, D) and latent_avg (styles, D), not {shapes[0]}, {shapes[1]} "
                f"and {shapes[2]}."
            )
        if not (self.ages.diff() > 0).all():
            raise InputError(f"The ages of a path have to rise, found {self.ages.tolist()}.")
        if not all(part.isfinite().all() for part in (self.ages, self.codes, self.latent_avg)):
            raise InputError("A path is made of finite numbers; here are others: make it anew.")

    def at(self, ages: float | Sequence[float] | Tensor) -> Tensor:
        """Codes (N, n_styles, D) at any ages; before the first and after the last, the code there."""
        wanted = torch.as_tensor(ages, dtype=torch.float64).reshape(-1)
        known = self.ages.double()
        if len(known) == 1:
            return self.codes.expand(len(wanted), -1, -1).clone()
        wanted = wanted.clamp(known[0], known[-1])
        after = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
        part = ((wanted - known[after - 1]) / (known[after] - known[after - 1])).to(self.codes.dtype)
        return torch.lerp(self.codes[after - 1], self.codes[after], part[:, None, None])

    def speed(self) -> Tensor:
        """How far the code moves in a year between the ages, (A - 1,): where a life changes fast."""
        return self.codes.diff(dim=0).flatten(1).norm(dim=1) / self.ages.diff()

    def save(self, path: str | Path) -> Path:
        """Write an .npz of `ages`, `codes` and `latent_avg`, float32, which `numpy.load` reads anywhere."""
        arrays = {key: getattr(self, key).detach().float().cpu().numpy() for key in KEYS}
        path = Path(path)
        if path.suffix != ".npz":
            raise InputError(f"A path is written as .npz, not {path.name}: call the file {path.stem}.npz.")
        whole = io.BytesIO()
        np.savez(whole, **arrays)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, whole.getvalue())
        except OSError as error:
            raise InputError(f"Cannot write {path}: {error.strerror or error}.") from None
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or something else in it.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = [torch.from_numpy(np.array(file[key], np.float32)) for key in KEYS]
        except FileNotFoundError:
            raise InputError(f"There is no path at {path}: AgingPipeline.path makes one.") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:150]
            raise InputError(f"{path} is no path of a life, an .npz of {', '.join(KEYS)} ({reason}).") from None
        return cls(*arrays)
