"""Heads: they grow, they are whole, and the framing of their portraits is the alignment code's own."""

import numpy as np
import pytest
import torch

from sam_age.data.align import quad_from_points
from sam_age.lifespan import Person, Scene
from sam_age.lifespan.asset import head_asset
from sam_age.lifespan.camera import view
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.head import shape, vertex_normals
from sam_age.lifespan.stack import stack

PEOPLE = [Person.draw("heads", k) for k in range(3)]
SCENES = [Scene.draw("heads", k) for k in range(3)]


def _cast(ages, people=None, scenes=None):
    people, scenes = people or [PEOPLE[0]] * len(ages), scenes or [SCENES[0]] * len(ages)
    return Cast(stack(people), torch.tensor([float(age) for age in ages]), stack(scenes))


@pytest.fixture(scope="module")
def asset():
    return head_asset()


def test_the_pupils_are_as_far_apart_as_people_measure_them(asset):
    """Means of published interpupillary distances: 5 years 50 mm, 15 years 59 mm, adults 63 mm (Pryor 1969; Dodgson
    2004). Adults of the sample lie within 52-78 mm."""
    for person in PEOPLE:
        apart = shape(_cast([5, 15, 30], [person] * 3), asset).scale * 62.6
        assert apart[0] < apart[1] < apart[2]
        assert 40 < apart[0] < 60
        assert 52 < apart[2] < 78


def test_normals_point_out_of_a_sphere():
    steps = 24
    theta, phi = torch.meshgrid(
        torch.linspace(0.05, np.pi - 0.05, steps), torch.linspace(0, 2 * np.pi, steps + 1)[:-1], indexing="ij"
    )
    ball = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1).view(-1, 3)
    k = torch.arange(steps * steps).view(steps, steps)
    a, b, c, d = k[:-1], k[:-1].roll(-1, 1), k[1:], k[1:].roll(-1, 1)
    faces = torch.cat([torch.stack([a, c, b], -1).view(-1, 3), torch.stack([b, c, d], -1).view(-1, 3)])
    normals = vertex_normals(ball[None], faces)[0]
    inner = slice(steps, -steps)  # the rims have triangles on one side only
    assert (normals[inner] * ball[inner]).sum(1).min() > 0.995


@pytest.mark.parametrize("age", [0, 9, 40, 95])
def test_the_picture_is_the_square_that_alignment_cuts_out(asset, age):
    cast = _cast([age] * 3, PEOPLE, SCENES)
    heads = shape(cast, asset)
    frame = view(cast, heads, asset)
    every = torch.arange(3)
    landmarks = torch.cat([heads.eyes, heads.vertices[:, asset.mouth_corners]], 1)
    seen = frame.project(frame.pose(landmarks, every), every, 256)[..., :2].double().numpy()
    for left, right, one, other in seen:
        quad = quad_from_points(right, left, (one + other) / 2)  # the person's right eye is on the left
        np.testing.assert_allclose(quad, [[0, 0], [0, 256], [256, 256], [256, 0]], atol=0.02)


def test_turning_keeps_lengths_and_a_batch_is_its_portraits(asset):
    cast = _cast([30] * 3, PEOPLE, SCENES)
    heads = shape(cast, asset)
    frame = view(cast, heads, asset)
    posed = frame.pose(heads.vertices, torch.arange(3))
    before = (heads.vertices[:, 1:50] - heads.vertices[:, :1]).norm(dim=2)
    torch.testing.assert_close((posed[:, 1:50] - posed[:, :1]).norm(dim=2), before, atol=1e-6, rtol=1e-4)
    alone = shape(_cast([30], PEOPLE[1:2], SCENES[1:2]), asset)
    torch.testing.assert_close(alone.vertices[0], heads.vertices[1], atol=1e-6, rtol=1e-5)
