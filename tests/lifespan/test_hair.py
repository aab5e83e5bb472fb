"""Hair: it grows from the head, outside it, and changes strand by strand."""

import pytest
import torch

from sam_age.lifespan import Person, Scene
from sam_age.lifespan.asset import SKIN, head_asset
from sam_age.lifespan.beard import beard_shadow, grow_beard
from sam_age.lifespan.brows import grow_brows, grow_lashes
from sam_age.lifespan.cast import Cast
from sam_age.lifespan.hair import STEPS, greyness, grow_hair, scalp_cover
from sam_age.lifespan.head import shape
from sam_age.lifespan.stack import stack


@pytest.fixture(scope="module")
def asset():
    return head_asset()


def _cast(people, ages):
    scene = Scene.draw("hair", 0)
    return Cast(stack(people), torch.tensor([float(age) for age in ages]), stack([scene] * len(people)))


def _woman(k=0):
    return Person.draw("hair", "woman", k, sex="female")


def _man(k=0):
    return Person.draw("hair", "man", k, sex="male")


def test_strands_are_rooted_in_the_skin(asset):
    """No point of a triangle is farther from its nearest corner than its longest side over the root of three."""
    cast = _cast([_woman(), _man()], [30, 30])
    heads = shape(cast, asset)
    corners = heads.vertices[:, asset.faces]
    longest = (corners - corners.roll(1, 2)).norm(dim=3).amax(2)[:, asset.kind == SKIN].amax(1) / 3**0.5
    for strands in (grow_hair(cast, heads, asset), grow_brows(cast, heads, asset), grow_beard(cast, heads, asset)):
        for row in range(2):
            roots = strands.points[strands.portrait == row, 0][::50]
            if len(roots):
                nearest = torch.cdist(roots, heads.vertices[row]).amin(1)
                assert nearest.max() < longest[row] + 0.0005  # short hair begins a little above the skin


def test_hair_is_longer_than_the_head_is_deep_only_where_the_cut_says_so(asset):
    cast = _cast([_woman(k) for k in range(6)] + [_man(k) for k in range(6)], [30] * 12)
    strands = grow_hair(cast, shape(cast, asset), asset)
    length = (strands.points[:, 1:] - strands.points[:, :-1]).norm(dim=2).sum(1)
    assert strands.points.shape[1] == STEPS + 1
    for row in range(12):
        longest = float(torch.maximum(cast.person.hair.cut.top, cast.person.hair.cut.back)[row])
        # kept off the head, a strand is stretched a little
        assert float(length[strands.portrait == row].quantile(0.99)) < 1.6 * longest + 0.01


def test_a_strand_is_the_same_a_moment_later_and_few_come_or_go(asset):
    """Between two ages 0.02 years apart, at ages where a rule by age would sit."""
    for person in (_woman(1), _man(1)):
        for age in (1.5, 4.0, 12.0, 18.0, 50.0, 62.0):
            cast = _cast([person, person], [age, age + 0.02])
            strands = grow_hair(cast, shape(cast, asset), asset)
            counts = torch.bincount(strands.portrait, minlength=2)
            assert abs(int(counts[0] - counts[1])) <= 0.01 * int(counts.max())


def test_only_men_have_beards_and_only_after_puberty(asset):
    people = [Person.draw("hair", k) for k in range(30)]
    for age, beards in ((11, False), (40, True)):
        cast = _cast(people, [age] * 30)
        grown = torch.bincount(grow_beard(cast, shape(cast, asset), asset).portrait, minlength=30) > 0
        men = torch.tensor([person.sex == "male" for person in people])
        assert not grown[~men].any()
        assert bool(grown.any()) == beards
        chin = torch.tensor([[0.0, -0.14, 0.80]]).expand(30, 3)
        shadow = beard_shadow(cast, chin, torch.arange(30))
        assert (shadow[~men] == 0).all()
        assert bool((shadow > 0).any()) == beards


def test_nobody_turns_less_grey_without_dye(asset):
    ages = list(range(0, 101, 5))
    for k in range(8):
        grey = greyness(_cast([_man(k)] * len(ages), ages))
        assert (grey.diff() >= 0).all()
        assert grey[0] == 0
        assert grey[-1] == 1


def test_the_crown_is_hairy_and_the_nose_is_not():
    cast = _cast([_woman()], [30])
    where = torch.tensor([[0.0, 0.0, 1.01], [0.0, -0.17, 0.87]])
    cover = scalp_cover(cast, where, torch.zeros(2, dtype=torch.long))
    assert cover[0] > 0.7
    assert cover[1] == 0


def test_lashes_stand_before_the_eyes(asset):
    cast = _cast([_woman()], [30])
    heads = shape(cast, asset)
    lashes = grow_lashes(cast, heads, asset)
    assert len(lashes.points) > 100
    assert lashes.points[:, -1, 1].median() < lashes.points[:, 0, 1].median()  # -y is to the front
    assert lashes.points[:, 0, 1].max() < float(heads.eyes[0, :, 1].max())
