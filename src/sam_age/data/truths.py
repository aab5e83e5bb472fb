"""What ageing should have given: another portrait of the same person, in the same scene, at another age.

Photographs never come with it, which is why SAM learns without. Rendered portraits do, and so may a set of one's own:
its source then has a method `others(index)` beside `age(index)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sam_age.data.draws import chances
from sam_age.data.sources import ImageSource
from sam_age.errors import InputError

STREAM = 1 << 32  # added to the seed: the draws for mirroring are others


class Truths:
    """Chooses for each face which portrait of the same person its ageing is compared with.

    Args:
        source: pictures, with `age(index)` and `others(index) -> list[int]`: those of the same person in the same
            scene, at other ages. What is of unknown age is nobody's truth.
    Raises:
        InputError: the source knows of none.
    """

    def __init__(self, source: ImageSource) -> None:
        usable = hasattr(source, "others") and hasattr(source, "age") and not getattr(source, "endless", False)
        aged = [not math.isnan(source.age(index)) for index in range(len(source))] if usable else []
        self.others = [[other for other in source.others(index) if aged[other]] for index in range(len(aged))]
        if alone := sum(not (there or others) for there, others in zip(aged, self.others, strict=True)):
            raise InputError(
                f"data.truths=true: {alone} training faces of unknown age have nobody to be compared with."
            )
        if not any(self.others):
            raise InputError(
                "data.truths=true asks for the same person at several ages in one scene, and the training faces have "
                "none. sam-render output=datasets/lives split=train ages=6 scenes=1 makes some: data=lifespan_lives."
            )

    def choose(self, seed: int, epochs: Sequence[int], indices: Sequence[int]) -> list[int]:
        """The portrait for each face, drawn evenly, a function of (seed, epoch, index) alone; where there is no other,
        the face itself."""
        drawn = chances(seed + STREAM, epochs, np.asarray(indices))
        return [
            others[int(chance * len(others))] if (others := self.others[index]) else index
            for index, chance in zip(indices, drawn.tolist(), strict=True)
        ]
