"""From the head's own frame to pixels: the turn of head and camera, and FFHQ's framing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_age.data.align import quad_from_points
from sam_age.lifespan.asset import HeadAsset
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.curves import step, unit
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.head import Heads
from sam_age.lifespan.rows import at, turned


@dataclass(frozen=True)
class PoseTraits:
    """How the head is held, and from where it is seen."""

    yaw: float  # degrees, to the person's left
    pitch: float  # degrees, down
    tilt: float  # degrees, of the head on the neck towards the shoulder, which the framing takes out of the face
    distance: float  # metres from the camera, for an adult-sized head
    gaze: tuple[float, float]  # radians that the eyes look past the camera, sideways and up


def draw_pose(dice: Dice) -> PoseTraits:
    return PoseTraits(
        yaw=dice.normal("yaw", 0, 13, 2.3),
        pitch=dice.normal("pitch", -1, 5, 2.2),
        tilt=dice.normal("tilt", 0, 4),
        distance=dice.uniform("distance", 0.9, 2.2),
        gaze=(dice.normal("gaze x", 0, 0.07), dice.normal("gaze y", 0, 0.05)),
    )


class View(NamedTuple):
    """Where heads and cameras are; every field has a row for each portrait."""

    turn: Tensor  # (B, 3, 3) rotation of the head
    pivot: Tensor  # (B, 3) that it turns about
    camera: Tensor  # (B, 3) position
    right: Tensor  # (B, 3) the camera's axes
    up: Tensor
    forward: Tensor
    origin: Tensor  # (B, 2) the picture's upper left corner, on the plane at distance 1
    axes: Tensor  # (B, 2, 2) from that plane to the unit square of the picture

    def pose(self, points: Tensor, b: Tensor) -> Tensor:
        """Turn points (P, ..., 3) of the head with it; `b` (P,) is the portrait of each."""
        pivot = _spread(at(self.pivot, b), points)
        return turned(self.turn, points - pivot, b) + pivot

    def project(self, points: Tensor, b: Tensor, size: int) -> Tensor:
        """(P, ..., 3) world -> x, y in pixels of a picture of side `size`, and depth in metres."""
        rotation = torch.stack([self.right, -self.up, self.forward], 1)
        seen = turned(rotation, points - _spread(at(self.camera, b), points), b)
        plane = seen[..., :2] / seen[..., 2:] - _spread(at(self.origin, b), points)
        return torch.cat([turned(self.axes, plane, b) * size, seen[..., 2:]], -1)


def view(cast: Cast, heads: Heads, asset: HeadAsset) -> View:
    """Head, camera and framing of each portrait.

    The head turns by two thirds of the yaw and the camera walks round it by the rest. The square is FFHQ's, from
    the projected eyes and mouth, by the code that aligns photographs.
    """
    pose = cast.scene.pose
    yaw, pitch, tilt = (torch.deg2rad(angle) for angle in (pose.yaw, pose.pitch, pose.tilt))
    scale = heads.scale[:, None]
    turn = _about_z(yaw * 0.65) @ _about_x(pitch * 0.8) @ _about_y(tilt)
    pivot = heads.centre + scale * scale.new_tensor([0.0, 0.02, -0.13])

    walk = _about_z(-yaw * 0.35) @ _about_x(-pitch * 0.2)
    forward, right = walk[:, :, 1], walk[:, :, 0]
    up = torch.linalg.cross(right, forward)
    centre = torch.einsum("bij,bj->bi", turn, heads.centre - pivot) + pivot
    target = centre + scale * scale.new_tensor([0.0, 0.0, -0.03])
    camera = target - forward * (pose.distance[:, None] * scale)

    every = torch.arange(len(cast), device=scale.device)
    landmarks = torch.cat([heads.eyes, heads.vertices[:, asset.mouth_corners]], 1)
    unframed = View(
        turn, pivot, camera, right, up, forward, torch.zeros_like(scale).expand(-1, 2),
        torch.eye(2, device=scale.device).expand(len(cast), 2, 2),
    )  # fmt: skip
    seen = unframed.project(unframed.pose(landmarks, every), every, 1)[..., :2]
    quads = torch.from_numpy(np.stack([_quad(points) for points in seen.double().cpu().numpy()])).to(scale)
    sides = torch.stack([quads[:, 3] - quads[:, 0], quads[:, 1] - quads[:, 0]], 2)
    return unframed._replace(origin=quads[:, 0], axes=torch.linalg.inv(sides))


def _quad(points: np.ndarray) -> np.ndarray:
    """FFHQ's square for (left eye, right eye, left and right corner of the mouth) of the person, (4, 2)."""
    return quad_from_points(points[1], points[0], (points[2] + points[3]) / 2)


def posed_body(vertices: Tensor, view: View, asset: HeadAsset) -> Tensor:
    """Turn the head on a body that stays: (B, V, 3); the neck twists smoothly between them."""
    every = torch.arange(len(vertices), device=vertices.device)
    height = asset.template[:, 2] + 0.25 * (asset.template[:, 1] + 0.06)
    share = step(0.735, 0.80, height)[None, :, None]
    return vertices + share * (view.pose(vertices, every) - vertices)


def towards(camera: Tensor, points: Tensor, b: Tensor) -> Tensor:
    """Unit vectors from points (P, 3) to their portrait's camera."""
    return unit(at(camera, b) - points)


def _spread(per_portrait: Tensor, points: Tensor) -> Tensor:
    """(P, k) against points (P, ..., k)."""
    return per_portrait.view(len(per_portrait), *[1] * (points.ndim - 2), per_portrait.shape[1])


def _rotation(angle: Tensor, first: int, second: int) -> Tensor:
    """(B, 3, 3): turns axis `first` towards axis `second`."""
    out = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    out[:, first, first] = out[:, second, second] = angle.cos()
    out[:, first, second], out[:, second, first] = -angle.sin(), angle.sin()
    return out


def _about_z(angle: Tensor) -> Tensor:
    return _rotation(angle, 0, 1)


def _about_x(angle: Tensor) -> Tensor:
    return _rotation(angle, 1, 2)


def _about_y(angle: Tensor) -> Tensor:
    return _rotation(angle, 2, 0)
