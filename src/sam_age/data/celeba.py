"""CelebA-HQ and its split into training, validation and test faces.

CelebA-HQ's 30,000 faces are re-made pictures of CelebA, and belong to the part that CelebA's own picture belongs to
(Liu et al. 2015; Lee et al. 2020, CelebAMask-HQ, whose archive has the mapping).
"""

from __future__ import annotations

from pathlib import Path

from sam_age.data.labels import picture_number
from sam_age.data.sources import FolderFaces, ImageSource, Subset
from sam_age.errors import InputError

SPLITS = ("train", "val", "test")
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITION = "list_eval_partition.txt"
IMAGES = "CelebA-HQ-img"

# CelebA's pictures 000001.jpg to 162770.jpg are for training, to 182637.jpg for validation, the rest for testing.
# CelebAMask-HQ's own script compares these limits with numbers from 0, and so is off by one picture.
_LAST_TRAIN, _LAST_VAL = 162770, 182637


class CelebAHQ(Subset):
    """One split of CelebA-HQ, from whichever layout there is.

    * `root` has folders train/ and test/ or val/: those. Where one of val and test is missing, the other stands in.
    * CelebAMask-HQ's layout: CelebA-HQ-img/ (or `root` itself) holds 0.jpg to 29999.jpg, with
      CelebA-HQ-to-CelebA-mapping.txt beside it and, if there, CelebA's list_eval_partition.txt.

    Args:
        root: the data set's folder.
        split: train, val, test, or all.

    Raises:
        InputError: no such folder or split, or nothing that says which face belongs where.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        if split not in (*SPLITS, "all"):
            raise InputError(f"split is one of {', '.join(SPLITS)}, all, not {split!r}.")
        super().__init__(*_faces_of(Path(root), split))
        if not self.indices:
            raise InputError(f"{root} holds no faces of the split {split}: check that it is the whole of CelebA-HQ.")


def _faces_of(root: Path, split: str) -> tuple[ImageSource, list[int]]:
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: give CelebA-HQ's, with {IMAGES} or train and test in it.")
    if split != "all" and (root / "train").is_dir():
        other = {"val": "test", "test": "val"}.get(split, split)
        folder = next((root / name for name in (split, other) if (root / name).is_dir()), None)
        if folder is None:
            raise InputError(f"{root} has train but neither val nor test in it: give one of them.")
        faces = FolderFaces(folder)
        return faces, list(range(len(faces)))
    faces = FolderFaces(root / IMAGES if (root / IMAGES).is_dir() else root)
    numbers = [picture_number(faces.name(index)) for index in range(len(faces))]
    in_order = sorted(range(len(faces)), key=lambda index: (numbers[index] is None, numbers[index] or 0, index))
    if split == "all":
        return faces, in_order
    part = read_splits(root)
    return faces, [index for index in in_order if part.get(numbers[index]) == split]


def read_splits(root: Path) -> dict[int | None, str]:
    """Number of a face in CelebA-HQ -> its split.

    Raises:
        InputError: the lists are missing or damaged.
    """
    path = next((p for p in (root / MAPPING, root.parent / MAPPING) if p.is_file()), None)
    if path is None:
        raise InputError(
            f"Nothing in {root} says which faces are for training: put {MAPPING} there (it comes with CelebAMask-HQ), "
            "or sort the faces into folders train and test, or take split=all."
        )
    partition = next((p for p in (path.parent / PARTITION, root / PARTITION) if p.is_file()), None)
    of_file = None if partition is None else {row[0]: SPLITS[int(row[1])] for row in _table(partition, 2)}
    splits: dict[int | None, str] = {}
    for number, _, file in _table(path, 3):
        original = int(Path(file).stem)
        if of_file is None:
            part = "train" if original <= _LAST_TRAIN else "val" if original <= _LAST_VAL else "test"
        elif file in of_file:
            part = of_file[file]
        else:
            raise InputError(f"{partition} does not list {file}: copy CelebA's file again, or take it away.")
        splits[int(number)] = part
    return splits


def _table(path: Path, columns: int) -> list[list[str]]:
    """Rows of a text table, without a heading; the first column's and the last one's numbers are checked."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = rows[1:] if rows and rows[0][0] == "idx" else rows
    for row in rows:
        number = Path(row[-1]).stem if columns == 3 else row[-1]
        known = number.isdigit() and (columns == 3 or int(number) < len(SPLITS))
        if len(row) != columns or not Path(row[0]).stem.isdigit() or not known:
            raise InputError(f"{path} has a line that it should not have ({' '.join(row)[:60]}): copy it again.")
    return rows
