"""The identity dial: one number between the source's code and the aged one, and what each setting costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sam_age.editing.plot import Curve, draw
from sam_age.errors import InputError
from sam_age.models.sam import face_pool

AMOUNTS = tuple(step / 10 for step in range(11))

FaceNet = Callable[[Tensor], Tensor]
"""Faces (N, 3, 256, 256) in [-1, 1] -> unit embeddings (N, D), or ages (N,) in years."""


def dial(source: Tensor, aged: Tensor, amount: float | Tensor) -> Tensor:
    """Codes between the source's (0: the inversion) and the aged (1: as the model ages), (..., n_styles, D).

    amount: a number, or one for each code (their leading dimensions).
    """
    amount = torch.as_tensor(amount, dtype=aged.dtype, device=aged.device)
    if not ((amount >= 0) & (amount <= 1)).all():  # NaN fails this too
        raise InputError(f"The dial goes from 0 (the source) to 1 (aged), not {amount.tolist()}.")
    return torch.lerp(source.to(aged), aged, amount[..., None, None])  # exact at both ends


@dataclass(frozen=True)
class DialCurve:
    """What the dial does to some faces: identity kept and age read, by amount."""

    amounts: list[float]  # A settings, 0 to 1
    identity: Tensor  # (N, A) cosine of each picture's embedding to the input face's, -1 to 1
    ages: Tensor | None  # (N, A) years read; None without an age network
    target_ages: list[float]  # (N,) years asked for

    def rows(self) -> list[dict[str, float]]:
        """One row per face and amount: plain numbers, for a table or a file."""
        rows = []
        for face, target in enumerate(self.target_ages):
            for at, amount in enumerate(self.amounts):
                row = {"face": face, "target_age": target, "amount": amount, "identity": self.identity[face, at].item()}
                if self.ages is not None:
                    row["age_read"] = self.ages[face, at].item()
                rows.append(row)
        return rows

    def largest(self, identity: float) -> list[float]:
        """For each face the largest amount up to which identity is never below a value; 0 where it always is.

        Between two settings the curve is taken as straight.
        """
        found = []
        for curve in self.identity.tolist():
            amount = 0.0 if curve[0] < identity else 1.0
            for at in range(1, len(curve)):
                if curve[0] >= identity > curve[at]:
                    before, after = self.amounts[at - 1], self.amounts[at]
                    amount = before + (after - before) * (curve[at - 1] - identity) / (curve[at - 1] - curve[at])
                    break
            found.append(min(amount, self.amounts[-1]))
        return found

    def plot(self, path: str | Path | None = None, size: tuple[int, int] = (640, 400)) -> Image.Image:
        """Identity over the age read, a line per face and a dot per amount; over the amount without an age network.

        path: also write it there.
        """
        across = self.ages.tolist() if self.ages is not None else [self.amounts] * len(self.identity)
        curves = [
            Curve(x, y, f"to age {target:g}")
            for x, y, target in zip(across, self.identity.tolist(), self.target_ages, strict=True)
        ]
        picture = draw(
            curves, "age read, years" if self.ages is not None else "amount of ageing", "identity kept (cosine)", size
        )
        if path is not None:
            picture.save(path)
        return picture


@torch.no_grad()
def dial_curve(
    synthesize: Callable[[Tensor], Tensor],
    faces: Tensor,
    source: Tensor,
    aged: Tensor,
    target_ages: Sequence[float],
    *,
    identity: FaceNet,
    age: FaceNet | None = None,
    amounts: Sequence[float] = AMOUNTS,
    batch_size: int = 8,
) -> DialCurve:
    """Turn the dial and measure. A judge that was in the model's losses flatters it: take another where there is one.

    Args:
        synthesize: w+ (N, n_styles, D) -> images (N, 3, S, S).
        faces: (N, 3, 256, 256) in [-1, 1], the inputs.
        source, aged: their codes, (N, n_styles, D).
        target_ages: (N,) years that `aged` was made for.
        identity, age: the judges.
        amounts: settings from 0 to 1, rising.
        batch_size: pictures at a time.
    """
    amounts = [float(amount) for amount in amounts]
    if not amounts or sorted(set(amounts)) != amounts:
        raise InputError(f"The dial's amounts have to rise, found {amounts}.")
    settings = torch.tensor(amounts, dtype=aged.dtype, device=aged.device)
    codes = dial(source[:, None], aged[:, None], settings).flatten(0, 1)  # (N A, n_styles, D), face by face
    who = torch.cat([identity(chunk) for chunk in faces.split(batch_size)]).repeat_interleave(len(amounts), 0)
    kept, read = [], []
    for chunk, reference in zip(codes.split(batch_size), who.split(batch_size), strict=True):
        images = face_pool(synthesize(chunk)).clamp(-1, 1)  # as a picture would hold them
        kept.append((identity(images) * reference).sum(1).float().cpu())
        if age is not None:
            read.append(age(images).float().cpu())
    shape = (len(faces), len(amounts))
    ages = torch.cat(read).view(shape) if read else None
    return DialCurve(amounts, torch.cat(kept).view(shape), ages, [float(target) for target in target_ages])
