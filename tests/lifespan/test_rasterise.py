"""Triangles to pixels, against an exhaustive search in float64."""

import numpy as np
import pytest
import torch

from sam_age.lifespan.rasterise import FAR, depth_map, rasterise


def _scene(seed, triangles=60, size=40):
    rng = np.random.default_rng(seed)
    middle = rng.uniform(0, size, (triangles, 1, 2))
    corners = middle + rng.normal(0, 6, (triangles, 3, 2))
    depth = rng.uniform(1, 2, (triangles, 3, 1))
    points = np.concatenate([corners, depth], 2).reshape(1, -1, 3).astype(np.float32)
    return torch.from_numpy(points), torch.arange(3 * triangles).view(-1, 3)


def _exhaustive(points, faces, size, cull):
    """Nearest depth at the middle of every pixel, (size, size), inf where nothing is, by solving for the weights."""
    nearest = np.full((size, size), np.inf)
    owner = np.full((size, size), -1)
    for number, face in enumerate(faces.numpy()):
        (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = points[face].double().numpy()
        matrix = np.array([[x0, x1, x2], [y0, y1, y2], [1, 1, 1]])
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9 or (cull and area > 0):
            continue
        for row in range(size):
            for column in range(size):
                weights = np.linalg.solve(matrix, [column + 0.5, row + 0.5, 1])
                if weights.min() >= 0:
                    depth = weights @ [z0, z1, z2]
                    if depth < nearest[row, column]:
                        nearest[row, column], owner[row, column] = depth, number
    return nearest, owner


@pytest.mark.parametrize("cull", [True, False])
def test_every_pixel_sees_the_nearest_triangle(cull):
    points, faces = _scene(1)
    nearest, owner = _exhaustive(points[0], faces, 40, cull)
    seen = rasterise(points, faces, 40, 40, cull=cull)
    triangle = torch.full((1600,), -1)
    triangle[seen.pixel] = seen.triangle
    # on an edge itself float32 may decide otherwise, and edges overlap by a thousandth of a pixel
    assert (triangle.view(40, 40).numpy() == owner).mean() > 0.998
    both = (triangle.view(40, 40).numpy() == owner) & (owner >= 0)
    np.testing.assert_allclose(seen.depth.view(40, 40).numpy()[both], nearest[both], atol=2e-5)


def test_weights_give_back_the_middle_of_the_pixel():
    points, faces = _scene(2)
    seen = rasterise(points, faces, 40, 40)
    where = (points[0, faces[seen.triangle], :2] * seen.weights[..., None]).sum(1)
    middle = torch.stack([seen.pixel % 40, seen.pixel // 40], 1) + 0.5
    assert (where - middle).abs().max() < 1e-3


def test_a_batch_is_its_pictures_one_by_one():
    (a, faces), (b, _) = _scene(3), _scene(4)
    both = depth_map(torch.cat([a, b]), faces, 40)
    assert torch.equal(both, torch.cat([depth_map(a, faces, 40), depth_map(b, faces, 40)]))


def test_a_closed_surface_has_no_cracks():
    steps = 30
    t = torch.linspace(-15, 55, steps)
    y, x = torch.meshgrid(t, t, indexing="ij")
    points = torch.stack([x + 0.31 * y, y - 0.17 * x, torch.ones_like(x)], -1).view(1, -1, 3)
    k = torch.arange(steps * steps).view(steps, steps)
    a, b, c, d = k[:-1, :-1], k[:-1, 1:], k[1:, :-1], k[1:, 1:]
    faces = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([b, d, c], -1).view(-1, 3)])
    assert (depth_map(points, faces, 24) < FAR).all()


def test_what_is_outside_or_behind_the_camera_is_not_seen():
    points = torch.tensor([[[-9.0, -9, 1], [-5, -9, 1], [-9, -5, 1], [2, 2, -1], [2, 8, -1], [8, 2, -1]]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    assert (depth_map(points, faces, 10) == FAR).all()
