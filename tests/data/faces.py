"""Small pictures for the tests of the data: each of one colour, by which it is known again."""

import io

import numpy as np
from PIL import Image


def colour(number: int) -> tuple[int, int, int]:
    return (number * 40 % 256, number * 90 % 256, 200)


def picture(number: int = 0, size: int = 16) -> Image.Image:
    return Image.new("RGB", (size, size), colour(number))


def png(number: int = 0, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    picture(number, size).save(buffer, format="PNG")
    return buffer.getvalue()


def known_again(data: bytes, number: int) -> bool:
    return np.asarray(Image.open(io.BytesIO(data)))[0, 0].tolist() == list(colour(number))


class Colours:
    """A source of `count` one-coloured pictures; those in `broken` are not pictures."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"colour {index}"

    def read(self, index: int) -> bytes:
        if index in self.broken:
            return b"this is text"
        half = Image.new("RGB", (16, 16), colour(index))
        half.paste((0, 0, 0), (0, 0, 8, 16))  # black on the left, so that mirroring shows
        buffer = io.BytesIO()
        half.save(buffer, format="PNG")
        return buffer.getvalue()


class Aged(Colours):
    """The same with ages: ten years times the number."""

    def age(self, index: int) -> float:
        return 10.0 * index


class Lives(Aged):
    """The same, of whom every three in a row are one person: 0, 1 and 2, and so on; an odd one out is alone."""

    def others(self, index: int) -> list[int]:
        first = index - index % 3
        return [i for i in range(first, min(first + 3, self.count)) if i != index]
