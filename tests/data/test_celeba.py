"""CelebA-HQ's faces go where CelebA's own pictures go."""

from pathlib import Path

import pytest

from sam_age.data.celeba import CelebAHQ
from sam_age.errors import InputError
from tests.data.faces import png

# CelebA-HQ's number, CelebA's number from 0, CelebA's file; the last and first pictures of each part of CelebA
MAPPING = """idx          orig_idx     orig_file
0          162769     162770.jpg
1          162770     162771.jpg
2          182636     182637.jpg
3          182637     182638.jpg
10          0     000001.jpg
"""
SPLITS = {"train": [0, 10], "val": [1, 2], "test": [3]}


def numbers(faces):
    return [int(Path(faces.name(index)).stem) for index in range(len(faces))]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "CelebA-HQ-img").mkdir()
    for number in (0, 1, 2, 3, 10):
        (tmp_path / "CelebA-HQ-img" / f"{number}.jpg").write_bytes(png(number))
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text(MAPPING)
    return tmp_path


@pytest.mark.parametrize("split", SPLITS)
def test_the_split_is_that_of_celeba(root, split):
    assert numbers(CelebAHQ(root, split)) == SPLITS[split]
    assert numbers(CelebAHQ(root / "CelebA-HQ-img", split)) == SPLITS[split]  # the lists lie one folder up


def test_celebas_own_list_is_followed_where_there_is_one(root):
    parts = {"162770.jpg": 2, "162771.jpg": 2, "182637.jpg": 0, "182638.jpg": 1, "000001.jpg": 2}
    (root / "list_eval_partition.txt").write_text("".join(f"{file} {part}\n" for file, part in parts.items()))
    assert [numbers(CelebAHQ(root, split)) for split in SPLITS] == [[2], [3], [0, 1, 10]]


def test_all_are_in_the_order_of_their_numbers(root):
    assert numbers(CelebAHQ(root, "all")) == [0, 1, 2, 3, 10]


def test_folders_of_splits_are_taken_as_they_are(tmp_path):
    for split, number in (("train", 5), ("test", 6)):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"{number}.png").write_bytes(png(number))
    assert [numbers(CelebAHQ(tmp_path, split)) for split in SPLITS] == [[5], [6], [6]]


def test_what_is_missing_is_said(root, tmp_path):
    def complaint(*arguments):
        with pytest.raises(InputError) as error:
            CelebAHQ(*arguments)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "split is one of" in complaint(root, "validation")
    assert "no folder" in complaint(tmp_path / "absent")
    (root / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    assert "does not list 162770.jpg" in complaint(root)
    (root / "list_eval_partition.txt").write_text("000001.jpg 7\n")
    assert "should not have (000001.jpg 7)" in complaint(root)
    (root / "list_eval_partition.txt").unlink()
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("0 one\n")
    assert "should not have (0 one)" in complaint(root)
    (root / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    assert "put CelebA-HQ-to-CelebA-mapping.txt there" in complaint(root)
