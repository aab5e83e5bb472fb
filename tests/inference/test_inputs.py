"""Names of results, shares of ranks, and what a record calls its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam_age.errors import InputError
from sam_age.inference.inputs import inside, open_inputs, shares, stems_of
from sam_age.inference.record import Record, check_free


def test_names_are_all_different_and_stay_inside() -> None:
    assert stems_of(["x/a.png", "x/A.jpg", "b.c.png", "d.png", "d.png"]) == [
        "x/a.png", "x/A.jpg", "b.c", "d.png", "d.png~2",
    ]  # fmt: skip
    assert stems_of(["a.b/c"]) == ["a.b/c"]
    for name in ("/etc/passwd.png", "../../x.png", "..\\..\\x.png", "c:/x.png", ".."):
        parts = inside(name).split("/")
        assert ".." not in parts
        assert all(part and "\\" not in part and ":" not in part for part in parts), name


@pytest.mark.parametrize(("count", "ranks"), [(10, 3), (2, 5), (0, 2), (1_000_003, 64)])
def test_ranks_take_everything_once(count: int, ranks: int) -> None:
    parts = shares(range(count), ranks)
    assert [index for part in parts for index in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_torn_record_loses_its_last_line_alone(tmp_path: Path) -> None:
    record = Record(tmp_path, {"ages": [5]})
    (tmp_path / "a.png").touch()
    record.add("a", "begun", files=["a.png"])
    record.add("a", "done", files=["a.png"])
    with record.path.open("a") as file:
        file.write('{"picture": "b", "sta')
    again = Record(tmp_path, {"ages": [5]})
    assert set(again.done()) == {"a"}
    again.add("c", "done", files=[])
    assert set(Record(tmp_path, {"ages": [5]}, rank=3).done()) == {"a", "c"}
    assert Record(tmp_path, {"ages": [6]}).done() == {}


def test_files_of_others_are_seen_with_and_without_a_face(tmp_path: Path) -> None:
    for name in ("my_face1_005.png", "you_face2_005.png"):
        (tmp_path / name).touch()
    check_free(tmp_path, [("else", ["_005.png"]), ("you", ["_006.png"])], set())
    for stem in ("my_face1", "you"):
        with pytest.raises(InputError, match=rf"{stem}\w*_005\.png is already there"):
            check_free(tmp_path, [(stem, ["_005.png"])], set())
    check_free(tmp_path, [("you", ["_005.png"])], {"you_face2_005.png"})


def test_several_files_and_globs_keep_the_folders_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("p/a.jpg", "p/deep/b.png", "p/notes.txt", "q/c.JPG", "q/[d].jpg", "clip.mp4"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()

    def found(given: object, **more: bool) -> list[str]:
        return open_inputs(given, tmp_path / "out", **more).keys

    assert found(["p/a.jpg", "q/c.JPG", "p/../p/a.jpg"]) == ["p/a.jpg", "q/c.JPG"]
    assert found(["p/deep/b.png"]) == ["b.png"]
    assert found("p/*") == ["a.jpg"]
    assert found("p/**/*.*") == ["a.jpg", "deep/b.png"]
    assert found("[pq]/*.[jJ]*") == ["p/a.jpg", "q/[d].jpg", "q/c.JPG"]
    assert found("q/[d].jpg") == ["[d].jpg"]  # a file that is there is no pattern
    assert found("*.mp4", clips=True) == ["clip.mp4"]
    for given, said in ((["p/a.jpg", "q"], "q is a folder"), (["p/a.jpg", "no.jpg"], "is not there"), ([], "names no")):
        with pytest.raises(InputError, match=said):
            found(given)
    with pytest.raises(InputError, match="No tar shards match"):
        found("no*.jpg")
