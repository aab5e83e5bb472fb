"""Portraits: alike on every run, each factor on its own, smooth in age, framed as photographs are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sam_age.data.align import is_aligned
from sam_age.data.detect import FaceDetector
from sam_age.errors import InputError
from sam_age.lifespan import Person, Scene, render
from sam_age.lifespan.background import backdrops
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.portrait import SUPERSAMPLING, develop
from sam_age.lifespan.stack import stack

SIZE = 96
PEOPLE = [Person.draw("test", k) for k in range(4)]
SCENES = [Scene.draw("test", k) for k in range(4)]


def _grey(pictures):
    return pictures.float().mean(1)


def test_the_same_arguments_give_the_same_pixels():
    first, second = (render(PEOPLE[:2], [7, 71], SCENES[:2], size=SIZE) for _ in range(2))
    assert torch.equal(first, second)


def test_drawing_again_gives_the_same_person_and_scene():
    assert Person.draw("test", 2) == PEOPLE[2]
    assert Scene.draw("test", 2) == SCENES[2]
    assert Person.draw("test", 2) != PEOPLE[3]


def test_a_portrait_does_not_depend_on_its_neighbours_in_the_batch():
    together = render(PEOPLE, [3, 30, 60, 90], SCENES, size=SIZE).float()
    alone = torch.cat(
        [render([p], [a], [s], size=SIZE) for p, a, s in zip(PEOPLE, [3, 30, 60, 90], SCENES, strict=True)]
    )
    off = (together - alone.float()).abs()
    assert off.mean() < 0.05  # grey levels: sums run in another order
    assert (off > 8).float().mean() < 1e-3


def _backdrop(scene):
    """The picture that nobody is in."""
    cast = Cast(stack(PEOPLE[:1]), torch.tensor([30.0]), stack([scene]))
    return develop(backdrops(cast, SIZE * SUPERSAMPLING).permute(0, 3, 1, 2), cast)


@pytest.mark.parametrize("scene", SCENES[:3])
def test_age_leaves_the_background_alone(scene):
    empty = _backdrop(scene)[0].int()
    for person in PEOPLE[:2]:
        life = render([person] * 4, [1, 20, 50, 90], [scene] * 4, size=SIZE).int()
        behind = (life - empty).abs().amax(1) <= 1
        assert behind.float().mean(dim=(1, 2)).min() > 0.05  # a corner of it is seen beside any head
        common = behind.all(0)
        assert common.any()
        # wherever one age shows the background, another shows it too or shows the person, who stands in one piece
        assert (life[:, :, common] - life[:1, :, common]).abs().max() <= 2


def test_another_scene_is_the_same_person_and_another_person_is_not_in_the_scene():
    person, other = PEOPLE[:2]
    here, there = SCENES[:2]
    mixed = replace(there, pose=here.pose, expression=here.expression)  # the same outline, in other light
    a, b, c = render([person, person, other], [40, 40, 40], [here, mixed, here], size=SIZE).float()
    assert (a - b).abs().mean() > 3
    assert (a - c).abs().mean() > 3

    def outline(picture, scene):
        return ((picture - _backdrop(scene)[0].float()).abs().amax(0) > 12).float()

    same = (outline(a, here) * outline(b, mixed)).sum() / torch.maximum(outline(a, here), outline(b, mixed)).sum()
    assert same > 0.85


def test_a_year_changes_little_and_a_life_much():
    person, scene = PEOPLE[1], SCENES[1]
    ages = [0.0, 0.5, 1, 1.5, 2, 3, 11.5, 12, 15.5, 16, 17, 17.5, 39.5, 40, 61.5, 62, 62.5, 99.5, 100]
    life = _grey(render([person] * len(ages), ages, [scene] * len(ages), size=SIZE))
    per_year = [float((life[k + 1] - life[k]).abs().mean()) for k in range(len(ages) - 1) if ages[k + 1] - ages[k] <= 1]
    assert max(per_year) < 9
    assert float((life[0] - life[-1]).abs().mean()) > 2 * max(per_year[3:])


def test_a_hundredth_of_a_year_is_hardly_seen():
    """No style is chosen by an age: whatever the age, a little later looks the same."""
    person, scene = PEOPLE[0], SCENES[0]
    for age in (1.0, 1.5, 2.0, 4.0, 6.0, 11.0, 12.0, 16.0, 18.0, 22.0, 50.0, 62.0):
        before, after = _grey(render([person] * 2, [age - 0.005, age + 0.005], [scene] * 2, size=SIZE))
        assert float((after - before).abs().mean()) < 0.6


@pytest.mark.slow
def test_faces_are_framed_as_the_alignment_of_photographs_frames_them():
    people, scenes = ([kind.draw("framing", k) for k in range(24)] for kind in (Person, Scene))
    ages = np.linspace(0, 100, 24).tolist()
    detector, aligned = FaceDetector(), 0
    for person, age, scene in zip(people, ages, scenes, strict=True):
        picture = render([person], [age], [scene])[0].permute(1, 2, 0).numpy()
        found = detector.detect(Image.fromarray(picture))
        assert len(found) == 1
        aligned += is_aligned((256, 256), found[0].quad, 0.12)
    assert aligned >= 22


def test_portraits_of_any_size_are_one_picture():
    small, large = (render(PEOPLE[:1], [33], SCENES[:1], size=size).float() for size in (64, 128))
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert float((shrunk - small).abs().mean()) < 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(ages=[101]), "101"),
        (dict(ages=[-1]), "-1"),
        (dict(ages=[float("nan")]), "nan"),
        (dict(ages=[1, 2]), "2"),
        (dict(size=8), "8"),
        (dict(size=5000), "5000"),
    ],
)
def test_what_cannot_be_rendered_is_said(arguments, said):
    given = dict(ages=[30], size=SIZE) | arguments
    with pytest.raises(InputError, match=said):
        render(PEOPLE[:1], given["ages"], SCENES[:1], size=given["size"])


def test_nobody_at_all_is_an_empty_batch():
    assert render([], [], [], size=SIZE).shape == (0, 3, SIZE, SIZE)


def test_sexes_and_ancestries_are_even_and_can_be_asked_for():
    drawn = [Person.draw("even", k) for k in range(300)]
    assert 120 < sum(person.sex == "female" for person in drawn) < 180
    leading = [max(range(3), key=person.ancestry.__getitem__) for person in drawn]
    assert min(leading.count(k) for k in range(3)) > 70
    asked = Person.draw("even", 1, sex="male", ancestry="asian")
    assert asked.sex == "male"
    assert asked.ancestry[1] >= 0.65
    with pytest.raises(InputError, match="female, male"):
        Person.draw("even", 1, sex="other")


@pytest.mark.gpu
def test_a_gpu_draws_the_same_picture():
    cpu = render(PEOPLE, [3, 30, 60, 90], SCENES, size=256).float()
    gpu = render(PEOPLE, [3, 30, 60, 90], SCENES, size=256, device="cuda").cpu().float()
    off = (cpu - gpu).abs()
    assert off.mean() < 0.2
    assert (off > 8).float().mean() < 5e-3
