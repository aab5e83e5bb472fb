"""Which portraits there are: whose, how old, where."""

import re
from collections import Counter

import pytest

from sam_age.errors import InputError
from sam_age.lifespan.splits import SPLITS, draw_ages, plan


def test_the_splits_have_the_documented_numbers():
    counts = {split: (len({p.person for p in plan(split)}), len(plan(split))) for split in SPLITS}
    assert counts == {
        "train": (6000, 18000),
        "judges": (3000, 9000),
        "val": (64, 192),
        "test": (128, 1408),
        "test_scenes": (128, 1152),
    }


def test_no_person_is_in_two_splits_whatever_the_seeds():
    keys = {(split, seed): {p.person_key for p in plan(split, seed=seed)} for split in SPLITS for seed in (0, 1)}
    for one in keys:
        for other in keys:
            if one < other and {one[0], other[0]} != {"test", "test_scenes"}:
                assert not keys[one] & keys[other], (one, other)
    for seed in (0, 1):
        assert keys["test", seed] == keys["test_scenes", seed]


def test_the_same_seed_is_the_same_plan_and_another_is_not():
    assert plan("train", people=50) == plan("train", people=50)
    ages = [{p.age for p in plan("train", people=50, seed=seed)} for seed in (0, 1)]
    assert ages[0] != ages[1]


def test_fewer_people_are_the_first_ones():
    assert plan("judges", people=10) == plan("judges")[:30]


def test_training_ages_are_in_three_thirds_and_three_scenes():
    portraits = plan("train")
    for first in range(0, len(portraits), 3):
        three = portraits[first : first + 3]
        assert len({p.person for p in three}) == 1
        assert len({p.scene_key for p in three}) == 3
        assert 0 <= three[0].age <= 33.4 <= three[1].age + 0.1
        assert three[1].age <= 66.7 <= three[2].age + 0.1 <= 100.1


def test_training_ages_are_spread_evenly_over_the_years():
    decades = Counter(min(int(p.age // 10), 9) for p in plan("train"))
    assert sorted(decades) == list(range(10))
    assert all(abs(count - 1800) < 4 * 1800**0.5 for count in decades.values())


def test_sexes_and_ancestries_are_even_and_crossed():
    people = {p.person: (p.sex, p.ancestry) for p in plan("train")}
    assert set(Counter(people.values()).values()) == {1000}
    assert len(set(people.values())) == 6
    assert Counter(sex for sex, _ in {p.person: (p.sex, 0) for p in plan("test")}.values()) == {
        "male": 64,
        "female": 64,
    }


def test_counterfactuals_differ_in_nothing_but_the_age():
    portraits = plan("test")
    for first in range(0, len(portraits), 11):
        life = portraits[first : first + 11]
        assert [p.age for p in life] == list(range(0, 101, 10))
        assert len({(p.person_key, p.scene_key) for p in life}) == 1


def test_other_scenes_are_other_than_the_counterfactuals_and_crossed_with_ages():
    known = {p.scene_key for p in plan("test")}
    mine = [p for p in plan("test_scenes") if p.number == 5]
    assert not known & {p.scene_key for p in mine}
    assert {(p.age, p.scene) for p in mine} == {(age, scene) for age in (10, 40, 70) for scene in (1, 2, 3)}


def test_every_portrait_has_a_file_of_its_own_that_sorts_like_the_plan():
    for split in SPLITS:
        stems = [p.stem for p in plan(split)]
        assert len(set(stems)) == len(stems)
        people = [stem.split("/")[0] for stem in stems]
        assert people == sorted(people)
    assert max(Counter(p.stem.split("/")[0] for p in plan("test")).values()) == 11


def test_ages_and_scenes_can_be_chosen():
    portraits = plan("train", people=2, ages=[50, 0, 7.5], scenes=2)
    assert [(p.number, p.scene, p.age) for p in portraits[:6]] == [
        (0, 0, 0), (0, 0, 7.5), (0, 0, 50), (0, 1, 0), (0, 1, 7.5), (0, 1, 50),
    ]  # fmt: skip
    assert len(portraits) == 12
    assert [p.scene for p in plan("test", people=1, ages=[1, 2], scenes="new")] == [0, 1]
    drawn = plan("train", people=2, ages=6)
    assert [(p.number, p.scene, int(p.age * 6 / 100)) for p in drawn] == [(n, i, i) for n in (0, 1) for i in range(6)]


@pytest.mark.parametrize("count", [1, 3, 10])
def test_drawn_ages_are_one_in_each_part(count):
    for person in range(100):
        ages = draw_ages(count, "somebody", person)
        assert all(100 * i / count - 0.05 <= age <= 100 * (i + 1) / count + 0.05 for i, age in enumerate(ages))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"split": "tests"}, "no split 'tests'; known: train, judges, val, test, test_scenes"),
        ({"people": 0}, "people is a whole number from 1 to 100000, not 0"),
        ({"people": 2.5}, "not 2.5"),
        ({"people": True}, "not True"),
        ({"people": "many"}, "not 'many'"),
        ({"seed": -1}, "seed is a whole number"),
        ({"ages": [101]}, "from 0 to 100, not 101"),
        ({"ages": [-1]}, "from 0 to 100, not -1"),
        ({"ages": [float("nan")]}, "from 0 to 100, not nan"),
        ({"ages": ["old"]}, "from 0 to 100, not 'old'"),
        ({"ages": [30.25]}, "to a tenth at most, not 30.25"),
        ({"ages": [30, 30.0]}, "twice"),
        ({"ages": []}, "list of years, such as [0,50,100], not []"),
        ({"ages": 50}, "from 1 to 20 that are drawn, or a list of years such as [50], not 50"),
        ({"ages": "[5]"}, "list of years"),
        ({"scenes": 0}, 'or "new" for another scene at each age, not 0'),
        ({"scenes": "old"}, "not 'old'"),
    ],
)
def test_nonsense_is_refused_in_one_line(wrong, says):
    with pytest.raises(InputError, match=re.escape(says)) as error:
        plan(**{"split": "train"} | wrong)
    assert "\n" not in str(error.value)
