"""What surrounds a face: the place behind, the clothes, the spectacles."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sam_age.lifespan import Person, Scene
from sam_age.lifespan.asset import head_asset
from sam_age.lifespan.background import backdrops, draw_backdrop, enlarge, through_lens
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.clothes import bulk, cloth, cover, draw_clothes
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.glasses import draw_glasses, frames
from sam_age.lifespan.head import shape
from sam_age.lifespan.noise import noise
from sam_age.lifespan.places import PAINTERS
from sam_age.lifespan.stack import stack

BACKDROPS = [draw_backdrop(Dice("backdrop", k)) for k in range(60)]
SEEDS = torch.tensor([Dice("place", k).number("seed") for k in range(60)])


def _places(rows=slice(None)):
    return Cast(None, SEEDS[rows].float(), SimpleNamespace(backdrop=stack(BACKDROPS[rows]), seed=SEEDS[rows]))


def _dressed(count):
    clothes = stack([draw_clothes(Dice("clothes", k)) for k in range(count)])
    return Cast(None, torch.zeros(count), SimpleNamespace(clothes=clothes))


def _spectacled(ages, worn=True, people=4):
    scene = replace(Scene.draw("specs", 0), glasses=replace(draw_glasses(Dice("specs", 0)), worn=worn))
    people = [Person.draw("specs", k % people) for k in range(len(ages))]
    cast = Cast(stack(people), torch.tensor(ages, dtype=torch.float32), stack([scene] * len(ages)))
    return cast, shape(cast, head_asset())


# ---- backdrops


def test_a_place_is_painted_by_the_painter_of_its_name():
    names = {traits.kind: traits.name for traits in BACKDROPS}
    assert {kind: paint.__name__.replace("_", " ") for kind, paint in enumerate(PAINTERS)} == names


def test_backdrops_are_light_within_range_and_none_is_blank():
    pictures = backdrops(_places(), 48)
    assert pictures.shape == (60, 48, 48, 3)
    assert pictures.isfinite().all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1.3
    assert (pictures.amax((1, 2, 3)) > 0.02).all()
    assert (pictures.std((1, 2)).amax(1) > 0.002).all()  # no surface is evenly lit


def test_backdrops_are_mostly_muted():
    pictures = backdrops(_places(), 48).mean((1, 2))
    saturation = (pictures.amax(1) - pictures.amin(1)) / pictures.amax(1)
    assert saturation.median() < 0.45


def test_a_backdrop_does_not_depend_on_its_neighbours():
    together, alone = backdrops(_places(slice(0, 8)), 48)[5], backdrops(_places(slice(5, 6)), 48)[0]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_the_same_kind_of_place_differs_between_scenes():
    traits = stack([BACKDROPS[0]] * 2)
    first, second = backdrops(Cast(None, torch.zeros(2), SimpleNamespace(backdrop=traits, seed=SEEDS[:2])), 48)
    assert (first - second).abs().mean() > 0.01


@pytest.mark.parametrize("radius", [4.0, 7.0])
def test_the_lens_spreads_a_point_to_a_disc_and_keeps_its_light(radius):
    point = torch.zeros(1, 1, 64, 64)
    point[..., 30, 20] = 7.0
    disc = through_lens(point, torch.tensor([radius]))[0, 0]
    assert math.isclose(disc.sum(), 7.0, rel_tol=1e-4)
    assert abs((disc > disc.max() / 2).sum() - math.pi * radius**2) < 0.25 * math.pi * radius**2
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    assert disc[((y - 30) ** 2 + (x - 20) ** 2).sqrt() > radius + 1.5].abs().max() < 1e-5


def test_enlarging_keeps_flat_and_sloping_light_and_makes_no_rings():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    expected = (torch.arange(64.0) + 0.5) / 4 - 0.5
    torch.testing.assert_close(enlarge(ramp, 64)[0, 0, 20, 12:-12], expected[12:-12])
    edge = (ramp > 7).float()
    assert enlarge(edge, 64).min() >= 0
    assert enlarge(edge, 64).max() <= 1 + 1e-6


# ---- clothes


def test_no_garment_reaches_the_chin_and_each_covers_the_chest():
    template, count = head_asset().template, 300
    _, y, z = template.unbind(1)
    chin = template[(z > 0.785) & (z < 0.83) & (y < -0.07)]
    chest = template[(z < 0.65) & (z > 0.60)]
    assert min(len(chin), len(chest)) > 50
    cast = _dressed(count)
    for points, covered in ((chin, 0.0), (chest, 1.0)):
        b = torch.arange(count).repeat_interleave(len(points))
        assert (cover(cast, points.repeat(count, 1), b) == covered).all()


def test_going_down_the_neck_skin_turns_to_cloth_once():
    count, steps = 100, 400
    z = torch.linspace(0.80, 0.62, steps)
    b = torch.arange(count).repeat_interleave(steps)
    for x, y in ((0.0, -0.075), (0.06, -0.02), (0.0, 0.04)):  # front, side and back of the neck
        line = torch.stack([torch.full_like(z, x), torch.full_like(z, y), z], 1)
        share = cover(_dressed(count), line.repeat(count, 1), b).view(count, steps)
        assert (share.diff(dim=1) >= 0).all()
        assert (share[:, 0] == 0).all()
        assert (share[:, -1] == 1).all()


def test_cloth_is_pushed_out_by_less_than_two_centimetres_and_the_head_not_at_all():
    asset = head_asset()
    pushed = bulk(_dressed(50), asset, SimpleNamespace(scale=torch.full((50,), 1.0)))
    assert pushed.min() >= 0
    assert 0.003 < pushed.max() < 0.02
    assert (pushed[:, asset.template[:, 2] > 0.82] == 0).all()


def test_cloth_has_albedo_below_white_and_little_relief():
    template = head_asset().template
    points = template[(template[:, 2] < 0.78) & (template[:, 2] > 0.6)]
    b = torch.arange(50).repeat_interleave(len(points))
    albedo, relief = cloth(_dressed(50), points.repeat(50, 1), b, noise)
    assert albedo.min() > 0
    assert albedo.max() < 1
    assert relief.abs().max() < 0.015


# ---- spectacles


def test_one_portrait_in_eight_wears_spectacles():
    worn = sum(draw_glasses(Dice(k)).worn for k in range(3000)) / 3000
    assert 0.09 < worn < 0.15


def test_rims_surround_the_eyes_and_stand_before_them_at_every_age():
    cast, heads = _spectacled([2, 6, 14, 30, 60, 90])
    vertices, normals, triangles = frames(cast, heads, head_asset())
    assert triangles.max() < vertices.shape[1]
    torch.testing.assert_close(normals.norm(dim=2), torch.ones_like(normals[..., 0]))
    ring = vertices.shape[1]
    rims = vertices[:, : ring * 80 // (80 + 8 + 2 * 9)]  # two rims of 40, a bridge of 8, two temples of 9
    for eye, rim in enumerate(rims.chunk(2, 1)):
        low, high, centre = rim.amin(1), rim.amax(1), heads.eyes[:, eye]
        for axis in (0, 2):
            assert (low[:, axis] < centre[:, axis]).all()
            assert (high[:, axis] > centre[:, axis]).all()
        assert (high[:, 1] < centre[:, 1] - heads.eye_radius).all()


def test_spectacles_grow_smoothly_with_the_head():
    cast, heads = _spectacled([20.0, 20.1, 4.0, 4.1], people=1)
    vertices, _, _ = frames(cast, heads, head_asset())
    for before, after in ((0, 1), (2, 3)):
        assert (vertices[before] - vertices[after]).norm(dim=1).max() < 0.001  # metres in five weeks
    assert vertices[0, :, 0].max() > vertices[2, :, 0].max()


def test_spectacles_that_are_not_worn_are_a_single_point():
    cast, heads = _spectacled([30.0], worn=False)
    vertices, _, _ = frames(cast, heads, head_asset())
    assert (vertices - vertices[:, :1]).abs().max() == 0
