"""Side-by-side sheets: rows of faces with a caption under each, as pictures people look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Cell = tuple[Image.Image, str]
"""A picture and its caption; the caption may hold line breaks."""

_MARGIN = 4  # pixels
SMALLEST = 12  # of captions: smaller ones lose the space between words


def to_images(faces: Tensor) -> list[Image.Image]:
    """(N, 3, H, W) in [-1, 1], clipped -> N RGB pictures. Rounds to the nearest of the 256 levels."""
    return [Image.fromarray(level) for level in to_levels(faces).cpu().numpy()]


def to_levels(faces: Tensor) -> Tensor:
    """(N, 3, H, W) in [-1, 1], clipped -> (N, H, W, 3), uint8, where they are: the pixels of `to_images`."""
    levels = ((faces.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()


class Coming:
    """Pictures (N, 3, H, W) on their way from the device, as bytes: eight of 1024 pixels are 100 MB as floats, and 25
    so. From a GPU they come while it works on what it is given next."""

    def __init__(self, faces: Tensor) -> None:
        levels = to_levels(faces)
        self.arrived: torch.cuda.Event | None = None
        if levels.is_cuda:
            self.levels = torch.empty(levels.shape, dtype=levels.dtype, pin_memory=True)
            self.levels.copy_(levels, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record(torch.cuda.current_stream(levels.device))
        else:
            self.levels = levels.cpu()

    def images(self) -> list[Image.Image]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return [Image.fromarray(level) for level in self.levels.numpy()]


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size -> (N, 3, H, W) in [-1, 1], float32."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def sheet(rows: Sequence[Sequence[Cell]], cell: int = 256) -> Image.Image:
    """Lay rows of captioned pictures out on white.

    Args:
        rows: each a sequence of (picture, caption); rows may differ in length.
        cell: side of each picture on the sheet, pixels; of one that is no square the longer side.
    """
    if not rows or not any(rows):
        raise ValueError("A sheet needs at least one picture.")
    font = ImageFont.load_default(size=max(SMALLEST, cell // 16))
    lines = max(caption.count("\n") + 1 if caption else 0 for row in rows for _, caption in row)
    line_height = sum(font.getmetrics()) + 1
    fitted = [[(_fit(picture, cell), caption) for picture, caption in row] for row in rows]
    width = max(picture.width for row in fitted for picture, _ in row)
    height = max(picture.height for row in fitted for picture, _ in row)
    row_height = height + lines * line_height + _MARGIN
    columns = max(len(row) for row in rows)
    size = (columns * (width + _MARGIN) + _MARGIN, len(rows) * (row_height + _MARGIN) + _MARGIN)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for r, row in enumerate(fitted):
        top = _MARGIN + r * (row_height + _MARGIN)
        for c, (picture, caption) in enumerate(row):
            left = _MARGIN + c * (width + _MARGIN)
            canvas.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            for number, line in enumerate(caption.split("\n")):
                y = top + height + 2 + number * line_height
                draw.text((left + width / 2, y), line, fill="black", font=font, anchor="ma")
    return canvas


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    """RGB, transparent parts on white, its longer side `cell` pixels."""
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    longer = max(picture.size)
    size = (max(1, round(picture.width * cell / longer)), max(1, round(picture.height * cell / longer)))
    picture = picture.convert("RGB")
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
