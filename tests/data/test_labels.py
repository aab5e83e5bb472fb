"""FFHQ-Aging's CSV: its groups, and which line belongs to which picture."""

import math

import pytest

from sam_age.data.labels import AGE_BINS, Labelled, bin_of, picture_number, read_labels
from sam_age.errors import InputError

HEADER = (
    "image_number,age_group,age_group_confidence,gender,gender_confidence,head_pitch,head_roll,head_yaw,"
    "left_eye_occluded,right_eye_occluded,glasses"
)
LINE = "male,1,-9.1,0.8,-16.6,0.008,0.008,None"


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "ffhq_aging_labels.csv"
    path.write_text(f"{HEADER}\n0,0-2,1,{LINE}\n1,20-29,0.6,{LINE}\n7,70-120,0.95,{LINE}\n")
    return path


class Names:
    def __init__(self, *names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]

    def read(self, index):
        return b""


def test_the_groups_are_the_papers():
    names = ["0-2", "3-6", "7-9", "10-14", "15-19", "20-29", "30-39", "40-49", "50-69", "70-120"]
    assert [group.name for group in AGE_BINS] == names


def test_every_age_is_in_the_group_that_stands_for_it():
    assert [bin_of(group.years) for group in AGE_BINS] == list(range(10))
    assert all(
        bin_of(age) == n for n, group in enumerate(AGE_BINS) for age in (group.first, group.last, group.last + 0.9)
    )
    for bad in (-1, math.nan):
        with pytest.raises(InputError, match="no age"):
            bin_of(bad)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("images1024x1024/00000/00007.png", 7),
        ("ffhq.zip/00000/img00000007.png", 7),
        ("faces/00007_face0.png", 7),
        ("faces-000003.tar/000003_000012_00007.png", 7),
        ("C:\\faces\\00007.png".replace("\\", "/"), 7),
        ("images1024x1024/me.png", None),
    ],
)
def test_pictures_are_known_by_the_number_their_name_ends_in(name, number):
    assert picture_number(name) == number


def test_ages_are_the_middles_of_the_groups_and_nan_where_unknown(csv):
    source = Labelled(Names("a/00000.png", "a/00001.png", "a/00002.png", "a/00007.png", "a/x.png"), csv)
    ages = [source.age(index) for index in range(5)]
    assert ages[:2] + ages[3:4] == [1.0, 24.5, 85.0]
    assert math.isnan(ages[2])
    assert math.isnan(ages[4])


def test_labels_that_few_agreed_on_may_count_as_unknown(csv):
    assert sorted(read_labels(csv, min_confidence=0.9)) == [0, 7]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,age\na,3\n", "no column age_group or image_number"),
        ("", "no column"),
        (f"{HEADER}\n0,3-4,1,{LINE}\n", "3-4"),
        (f"{HEADER}\nzero,0-2,1,{LINE}\n", "zero"),
        (f"{HEADER}\n0\n", "not FFHQ-Aging's"),
    ],
)
def test_another_csv_is_refused_in_one_line(tmp_path, text, says):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=says) as error:
        read_labels(tmp_path / "x.csv")
    assert "\n" not in str(error.value)


def test_pictures_of_which_none_is_listed_are_refused(csv):
    with pytest.raises(InputError, match=r"None of the 1 pictures.*b/00099\.png"):
        Labelled(Names("b/00099.png"), csv)
    with pytest.raises(InputError, match="Cannot read"):
        read_labels(csv.parent / "absent.csv")
