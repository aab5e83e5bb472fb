"""Faces to look at: those that came nearest to the truth, those in the middle, and those farthest off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from sam_age.evaluation.methods import SAM_ITSELF, Request
from sam_age.models.ops import at_least_float32
from sam_age.sheets import to_images

if TYPE_CHECKING:
    from sam_age.evaluation.protocol import AgingEvaluation
    from sam_age.evaluation.results import Scored

Strip = list[Image.Image | None]
"""A picture for each target age; None where there is none."""


@dataclass(frozen=True)
class Example:
    """An input and what became of it."""

    kind: str  # best, median or worst
    face: Image.Image
    age: float  # years, NaN where not known
    error: float  # what it was chosen by, see `error_of_faces`
    rows: dict[str, Strip]  # SAM_ITSELF; where there are true portraits "truth" and "ceiling"; the other methods


def error_of_faces(scored: Scored) -> tuple[Tensor, Tensor]:
    """The inputs (N,) and the mean error (N,) of SAM's outputs for each: the LPIPS-style distance to the true portrait,
    or, where there is none, that of the age read, in years."""
    columns = scored.columns[SAM_ITSELF]
    error = columns.get("truth_lpips")
    if error is None or error.isnan().all():
        error = (columns["age"] - scored.target_age).abs()
    faces, place = scored.face.unique(return_inverse=True)
    known = ~error.isnan()
    total = torch.zeros(len(faces), dtype=torch.float64).index_add(0, place, error.nan_to_num().double())
    count = torch.zeros(len(faces), dtype=torch.float64).index_add(0, place, known.double())
    return faces, total / count


def choose(error: Tensor, person: Tensor, each: int) -> list[tuple[str, int]]:
    """(kind, place) of `each` best, median and worst of errors (N,), nobody twice.

    Args:
        person: (N,); negative numbers are nobody in particular.
    >>> choose(torch.tensor([0.4, 0.1, 0.2, 0.9, 0.8]), torch.tensor([0, 1, 1, 2, 3]), 1)
    [('best', 1), ('median', 0), ('worst', 3)]
    """
    rising = [place for place in error.argsort().tolist() if not error[place].isnan()]
    half = len(rising) // 2
    from_the_middle = sorted(range(len(rising)), key=lambda rank: abs(rank - half))
    orders = {"best": rising, "worst": rising[::-1], "median": [rising[rank] for rank in from_the_middle]}
    chosen: list[tuple[str, int]] = []
    seen: set[int] = set()
    for kind, order in orders.items():
        count = 0
        for place in order:
            who = int(person[place]) if person[place] >= 0 else -1 - place
            if who not in seen and count < each:
                seen.add(who)
                chosen.append((kind, place))
                count += 1
    return sorted(chosen, key=lambda pair: ("best", "median", "worst").index(pair[0]))


@torch.inference_mode()
def examples(evaluation: AgingEvaluation, each: int = 2) -> list[Example]:
    """`each` of the best, median and worst inputs of the last run, aged once more."""
    scored, album, known = evaluation.scored, evaluation.album, evaluation.known
    faces, error = error_of_faces(scored)
    return [
        _example(evaluation, kind, int(faces[place]), error[place].item())
        for kind, place in choose(error, known.person[faces], each)
        if len(album.index)
    ]


def _example(evaluation: AgingEvaluation, kind: str, number: int, error: float) -> Example:
    scored, album, sam = evaluation.scored, evaluation.album, evaluation.sam
    mine = scored.face == number
    target, truth = scored.target_age[mine], scored.truth[mine]
    face = evaluation.faces(album, album.places(torch.tensor([number])))
    with evaluation.precision():
        code = sam.encode(face)
    read = at_least_float32(evaluation.instruments.source_age(face))
    strips: dict[str, list[Image.Image]] = {method: [] for method in evaluation.methods}
    for ages in target.split(evaluation.batch_size):
        count = len(ages)
        request = Request(face.expand(count, -1, -1, -1), code.expand(count, -1, -1), read.expand(count), ages.to(face))
        for method, make in evaluation.methods.items():
            with evaluation.precision():
                images, _ = make(request)
            strips[method] += to_images(images)
    rows: dict[str, Strip] = {SAM_ITSELF: list(strips.pop(SAM_ITSELF))}
    there = (truth >= 0).nonzero().flatten().tolist()
    if there:
        portraits = evaluation.faces(album, album.places(truth[there]))
        with evaluation.precision():
            inverted = sam.synthesize(sam.encode(portraits))
        for name, images in (("truth", to_images(portraits)), ("ceiling", to_images(inverted))):
            strip: Strip = [None] * len(target)
            for place, image in zip(there, images, strict=True):
                strip[place] = image
            rows[name] = strip
    rows |= {method: list(strip) for method, strip in strips.items()}
    return Example(kind, to_images(face)[0], evaluation.known.age[number].item(), error, rows)
