"""Faces drawn with a few ellipses: something to run on where there are no photographs.

For smoke tests and demonstrations of the machinery; nothing can be learnt about ageing from them.
"""

from __future__ import annotations

import io
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from sam_age.errors import InputError


class DrawnFaces:
    """An image source of `count` pictures, each decided by (seed, index) alone.

    Args:
        count: how many pictures.
        size: side in pixels.
        seed: another seed draws other people.
    """

    def __init__(self, count: int = 64, size: int = 256, seed: int = 0) -> None:
        if count < 1 or size < 16:
            raise InputError(f"Drawn faces need count >= 1 and size >= 16, not {count} and {size}.")
        self.count, self.size, self.seed = count, size, seed

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"drawn face {index} of seed {self.seed}"

    def read(self, index: int) -> bytes:
        """The picture as the bytes of a PNG file."""
        buffer = io.BytesIO()
        self._draw(Random(f"{self.seed}/{index}")).save(buffer, format="PNG")
        return buffer.getvalue()

    def _draw(self, rng: Random) -> Image.Image:
        side = self.size
        backdrop = tuple(rng.randrange(60, 220) for _ in range(3))
        light = rng.uniform(0.35, 0.95)
        skin = tuple(int(255 * light * tone) for tone in (1.0, 0.8, 0.68))
        hair = tuple(int(rng.uniform(0, 200) * tone) for tone in (1.0, 0.9, 0.8))
        picture = Image.new("RGB", (side, side), backdrop)
        draw = ImageDraw.Draw(picture)

        def ellipse(x: float, y: float, width: float, height: float, colour: tuple[int, ...]) -> None:
            box = [side * (x - width), side * (y - height), side * (x + width), side * (y + height)]
            draw.ellipse(box, fill=colour)

        width = rng.uniform(0.24, 0.3)
        ellipse(0.5, 0.42, width + 0.05, 0.36, hair)
        ellipse(0.5, 0.52, width, 0.36, skin)
        iris = tuple(rng.randrange(20, 140) for _ in range(3))
        for x in (0.5 - 0.12, 0.5 + 0.12):  # eyes where FFHQ's alignment puts them
            ellipse(x, 0.47, 0.045, 0.022, (240, 240, 240))
            ellipse(x, 0.47, 0.02, 0.02, iris)
        ellipse(0.5, 0.58, 0.025, 0.05, tuple(int(c * 0.85) for c in skin))
        ellipse(0.5, 0.7, rng.uniform(0.06, 0.11), rng.uniform(0.012, 0.03), (150, 60, 60))
        return picture.filter(ImageFilter.GaussianBlur(side / 200))
