"""A rendered portrait before a camera that trembles, turns and zooms: a clip whose every place is known."""

from __future__ import annotations

import subprocess
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sam_age.lifespan import Person, Scene
from sam_age.lifespan.portrait import render

FPS = 25


@cache
def portrait() -> Image.Image:
    """Somebody at 34, 256 pixels; nobody was photographed."""
    (pixels,) = render([Person.draw(1, "clip", 2)], [34], [Scene.draw(1, "clip", 2)], size=256)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def camera(frame: int) -> np.ndarray:
    """(2, 3): pixels of the portrait -> pixels of the frame; a sway of 2 s, a slow zoom and turn."""
    sway, slow = 2 * np.pi * frame / 50, 2 * np.pi * frame / 120
    zoom, angle = 0.62 + 0.08 * np.sin(slow), 0.08 * np.sin(slow + 1)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([160 + 14 * np.sin(sway), 120 + 6 * np.cos(1.3 * sway)])
    return np.column_stack([turn, middle - turn @ [128, 128]])


def true_quad(frame: int) -> np.ndarray:
    """Where the portrait's own square lies."""
    square = np.array([[0, 0], [0, 256], [256, 256], [256, 0]]) - 0.5
    move = camera(frame)
    return square @ move[:, :2].T + move[:, 2]


def shot(frame: int, noise: float = 5.0, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """A frame, (height, width, 3) uint8; noise: standard deviation, levels."""
    move = camera(frame)
    back = np.linalg.inv(move[:, :2])
    affine = np.column_stack([back, -back @ move[:, 2]])
    affine[:, 2] += affine[:, :2] @ [-0.5, -0.5] + 0.5  # Pillow measures from pixels' corners
    y, x = np.mgrid[: size[1], : size[0]]
    wall = np.stack([90 + x / 8, 120 + 20 * np.sin(x / 40), 150 - y / 8], -1)
    half = dict(size=size, method=Image.Transform.AFFINE, data=affine.ravel().tolist())
    person = portrait().transform(resample=Image.Resampling.BICUBIC, **half)
    there = Image.new("L", (256, 256), 255).transform(resample=Image.Resampling.BILINEAR, **half)
    share = np.asarray(there, float)[..., None] / 255
    pixels = np.asarray(person) * share + wall * (1 - share)
    pixels += np.random.default_rng(frame).normal(0, noise, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def wall(size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """A frame with nobody in it."""
    y, x = np.mgrid[: size[1], : size[0]]
    return np.stack([200 - y / 3, 60 + x / 4, 60 + 0 * x], -1).astype(np.uint8)


class Stamp(nn.Module):
    """A stand-in for SAM that has the weaknesses of a generator: what it draws sits where the crop's middle is, in the
    finest detail, and everything else follows each noisy pixel that it sees.

    Codes are the face at 32 x 32, (N, 32, 96); a year makes it `shift` levels brighter; drawn on top: fine waves.
    """

    def __init__(self, shift: float = 0.5, waves: float = 24.0) -> None:
        super().__init__()
        self.register_buffer("latent_avg", torch.zeros(32, 96))
        y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
        self.register_buffer("detail", torch.sin(x / 2) * torch.sin(y / 2) * waves / 127.5)
        self.shift = shift
        self.encoder = self.pretrained_encoder = None  # what a pipeline looks at of a SAM
        self.decoder = SimpleNamespace(size=256, input=None)

    def encode(self, faces: Tensor) -> Tensor:
        return F.interpolate(faces, (32, 32), mode="nearest").permute(0, 2, 3, 1).flatten(2)

    def edit(self, faces: Tensor, target_age: Tensor, inversion: Tensor) -> Tensor:
        nervous = 0.5 * F.interpolate(faces.flip(3), (32, 32), mode="nearest").permute(0, 2, 3, 1).flatten(2)
        return inversion * 0.5 + nervous + (target_age * self.shift / 127.5)[:, None, None]

    def synthesize(self, w_plus: Tensor, *, resize: bool = True) -> Tensor:
        faces = w_plus.unflatten(2, (32, 3)).permute(0, 3, 1, 2)
        return F.interpolate(faces, (256, 256), mode="bicubic") + self.detail


def run(*options: str) -> bytes:
    """ffmpeg, that of imageio-ffmpeg; what it writes to its output."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *options]
    return subprocess.run(command, check=True, capture_output=True).stdout
