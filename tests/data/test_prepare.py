"""sam-prepare: faces come out, bad pictures are reported, and any interruption is made good."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from sam_age.data.align import align
from sam_age.data.detect import FaceDetector
from sam_age.data.prepare import Settings, prepare_faces
from sam_age.data.sources import open_source
from sam_age.errors import InputError
from tests.cli.inside import inside

SMALL = {"size": 64, "supersample": 1}


@pytest.fixture(scope="module")
def astronaut():
    return Image.fromarray(pictures.astronaut()).crop((100, 0, 356, 256))


@pytest.fixture
def photos(tmp_path, astronaut):
    """Three faces, of which two differ in their suffix alone; a blank picture and a text file."""
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    astronaut.save(root / "a.jpg", quality=95)
    astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "a.png")
    astronaut.save(root / "deep" / "b.v2.png")
    Image.new("RGB", (200, 200), (120, 120, 120)).save(root / "blank.png")
    (root / "text.jpg").write_text("hello")
    return root


@pytest.fixture(scope="module", autouse=True)
def one_detector():
    """Loading the networks takes longer than using them."""
    with pytest.MonkeyPatch.context() as patch:
        detector = FaceDetector()
        patch.setattr("sam_age.data.prepare._detector", lambda settings, device: detector)
        yield


def prepare(source, output, *, workers=1, overwrite=False, **settings):
    return prepare_faces(source, output, Settings(**SMALL | settings), workers=workers, overwrite=overwrite)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_face_is_cut_out_and_listed_and_the_rest_reported(photos, tmp_path, astronaut):
    out = tmp_path / "faces"
    assert prepare(photos, out, size=128) == (3, 3, 0, 2)
    listed = {row["source"]: row for row in rows(out / "manifest.jsonl")}
    assert {row["source"]: row["file"] for row in listed.values()} == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "deep/b.v2.png": "deep/b.v2.png",
    }
    row = listed["deep/b.v2.png"]
    assert (row["face"], row["faces"], row["width"], row["height"], row["orientation"]) == (0, 1, 256, 256, 1)
    assert row["score"] > 0.99
    crop = Image.open(out / row["file"])
    again = align(astronaut, np.array(row["quad"]), 128, supersample=1)
    assert np.abs(np.asarray(crop, int) - np.asarray(again)).mean() < 0.1  # the quad is written to 0.001 pixels
    reasons = {row["source"]: row["reason"] for row in rows(out / "failures.jsonl")}
    assert "No face found" in reasons["blank.png"]
    assert "not an image" in reasons["text.jpg"]
    assert set(files(out)) == {r["file"] for r in listed.values()} | {
        "manifest.jsonl",
        "failures.jsonl",
        "prepare.json",
    }
    assert len(open_source(out)) == 3  # what sam-train reads


def test_a_second_run_does_nothing_but_try_the_failures(photos, tmp_path, astronaut):
    out = tmp_path / "faces"
    prepare(photos, out)
    before = files(out)
    assert prepare(photos, out) == (0, 0, 3, 2)
    assert files(out) == before
    astronaut.save(photos / "text.jpg")
    (photos / "blank.png").unlink()
    assert prepare(photos, out) == (1, 1, 3, 0)
    assert not (out / "failures.jsonl").exists()
    assert len(rows(out / "manifest.jsonl")) == 4


def test_a_lost_file_and_a_torn_line_are_made_good(photos, tmp_path):
    out = tmp_path / "faces"
    prepare(photos, out)
    whole = files(out)
    (out / "a.jpg.png").unlink()
    text = (out / "manifest.jsonl").read_text()
    (out / "manifest.jsonl").write_text(text[:-40])
    assert prepare(photos, out) == (2, 2, 1, 2)
    now = files(out)
    assert sorted(now.pop("manifest.jsonl").splitlines()) == sorted(whole.pop("manifest.jsonl").splitlines())
    assert now == whole


def test_two_workers_write_the_files_of_one(photos, tmp_path):
    prepare(photos, tmp_path / "one")
    assert prepare(photos, tmp_path / "two", workers=2) == (3, 3, 0, 2)
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_all_faces_of_a_group_are_numbered_from_the_largest(tmp_path, astronaut):
    group = Image.new("RGB", (620, 360), (90, 90, 90))
    group.paste(astronaut, (0, 50))
    group.paste(astronaut.resize((340, 340)), (270, 10))
    group.save(tmp_path / "group.png")
    assert prepare(tmp_path / "group.png", tmp_path / "all", faces="all") == (2, 1, 0, 0)
    listed = rows(tmp_path / "all" / "manifest.jsonl")
    assert [row["file"] for row in listed] == ["group_face0.png", "group_face1.png"]
    assert [row["faces"] for row in listed] == [2, 2]
    assert listed[0]["box"][0] > 270 > listed[1]["box"][0]
    assert prepare(tmp_path / "group.png", tmp_path / "one") == (1, 1, 0, 0)
    (tmp_path / "all" / "group_face1.png").unlink()
    assert prepare(tmp_path / "group.png", tmp_path / "all", faces="all") == (2, 1, 0, 0)
    assert len(rows(tmp_path / "all" / "manifest.jsonl")) == 2


def test_shards_hold_every_face_and_its_line_and_are_resumed(photos, tmp_path):
    out = tmp_path / "shards"
    assert prepare(photos, out, format="shards", shard_size=2) == (3, 3, 0, 2)
    assert sorted(p.name for p in out.glob("*.tar")) == ["faces-000000.tar", "faces-000001.tar"]
    listed = rows(out / "manifest.jsonl")
    for row in listed:
        shard, member = row["file"].split("/")
        with tarfile.open(out / shard) as tar:
            assert json.load(tar.extractfile(member.removesuffix(".png") + ".json")) == row
            assert Image.open(io.BytesIO(tar.extractfile(member).read())).size == (64, 64)
    source = open_source(out)
    assert [source.name(i).rsplit("/", 2)[-2:] for i in range(3)] == [row["file"].split("/") for row in listed]
    whole = files(out)
    (out / "faces-000000.tar").unlink()  # as if killed before the first was done
    assert prepare(photos, out, format="shards", shard_size=2) == (2, 2, 1, 2)
    now = files(out)
    assert {name for name in now if now[name] != whole.get(name)} == {"manifest.jsonl"}  # another order of lines


@pytest.mark.parametrize(("kind", "suffix"), [("jpg", ".jpg"), ("webp", ".webp")])
def test_other_formats_look_the_same(photos, tmp_path, kind, suffix):
    prepare(photos / "a.png", tmp_path / "png")
    prepare(photos / "a.png", tmp_path / kind, format=kind)
    one, other = (np.asarray(Image.open(tmp_path / p), float) for p in ("png/a.png", f"{kind}/a{suffix}"))
    assert 0 < np.abs(one - other).mean() < 4


def test_other_settings_or_files_of_others_are_not_overwritten_unless_asked(photos, tmp_path):
    out = tmp_path / "faces"
    prepare(photos, out)
    before = files(out)
    for change in ({"size": 32}, {"faces": "all"}, {"format": "webp"}, {"format": "shards"}):
        with pytest.raises(InputError, match=rf"{next(iter(change))} was .*overwrite=true"):
            prepare(photos, out, **change)
    assert files(out) == before
    assert prepare(photos, out, size=32, overwrite=True) == (3, 3, 0, 2)
    assert Image.open(out / "a.png.png").size == (32, 32)
    assert prepare(photos, out, format="shards", overwrite=True).faces == 3
    assert not list(out.rglob("*.png"))  # of the earlier run nothing is left

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_text("precious")
    with pytest.raises(InputError, match="did not make"):
        prepare(photos, tmp_path / "mine")
    assert files(tmp_path / "mine") == {"a.png": b"precious"}


def test_another_picture_of_the_same_name_is_not_taken_for_the_old_one(photos, tmp_path, astronaut):
    prepare(photos / "a.png", tmp_path / "out")
    astronaut.resize((300, 300)).save(photos / "a.png")
    with pytest.raises(InputError, match=r"another a\.png"):
        prepare(photos / "a.png", tmp_path / "out")


def test_an_output_inside_the_input_is_not_read_again(photos):
    out = photos / "faces"
    assert prepare(photos, out).faces == 3
    assert prepare(photos, out) == (0, 0, 3, 2)
    with pytest.raises(InputError, match="both"):
        prepare(photos, photos)


def test_names_that_only_case_tells_apart_do_not_collide(tmp_path, astronaut):
    for name in ("x.png", "X.jpg"):
        astronaut.save(tmp_path / name)
    prepare(tmp_path, tmp_path / "out")
    assert sorted(row["file"] for row in rows(tmp_path / "out" / "manifest.jsonl")) == ["X.jpg.png", "x.png.png"]


def test_nothing_usable_is_one_line_and_leaves_nothing(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (photos / "blank.png").rename(tmp_path / "bad" / "blank.png")
    (photos / "text.jpg").rename(tmp_path / "bad" / "text.jpg")
    out = tmp_path / "out"
    for source, says in {
        tmp_path / "absent": "nothing at",
        tmp_path / "empty": "No pictures",
        tmp_path / "bad": "None of the 2 pictures could be used; the first: No face",
        tmp_path / "bad" / "text.jpg": "not an image",
    }.items():
        with pytest.raises(InputError, match=says) as error:
            prepare(source, out)
        assert "\n" not in str(error.value)
        assert not out.exists()
    for out in (photos / "a.png", photos / "a.png" / "deeper"):
        with pytest.raises(InputError, match=r"a\.png is a file"):
            prepare(photos, out)


def test_a_folder_that_cannot_be_written_is_one_line(photos, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sam_age.data.storing.write_whole", refused)  # root may write anywhere
    with pytest.raises(InputError, match=r"out cannot be written \(Permission denied\)"):
        prepare(photos / "a.png", tmp_path / "out")


@pytest.mark.parametrize(
    "bad",
    [
        {"size": "big"},
        {"size": 0},
        {"faces": "two"},
        {"format": "bmp"},
        {"min_score": 2},
        {"quality": 0},
        {"shard_size": 0},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Settings(**bad)


def command(*arguments):
    return [sys.executable, "-m", "sam_age.cli.prepare", *arguments, "size=64"]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_completed_by_the_next(tmp_path, astronaut, workers):
    root, out = tmp_path / "photos", tmp_path / "faces"
    root.mkdir()
    for number in range(24):
        astronaut.save(root / f"{number:03d}.png", compress_level=0)
    arguments = command(f"input={root}", f"output={out}", f"workers={workers}")
    process = subprocess.Popen(arguments, env=ONE_THREAD, stderr=subprocess.DEVNULL)
    manifest, patience = out / "manifest.jsonl", time.monotonic() + 240
    while not (manifest.exists() and manifest.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = manifest.read_bytes().count(b"\n")
    assert 3 <= done < 24

    assert prepare_faces(root, out, Settings(size=64), workers=1) == (24 - done, 24 - done, done, 0)
    listed = rows(manifest)
    assert [row["source"] for row in listed] == [f"{number:03d}.png" for number in range(24)]
    images = [(out / row["file"]).read_bytes() for row in listed]
    assert len(set(images)) == 1  # the same photo every time: whole files, all alike
    assert not [p for p in out.iterdir() if p.suffix == ".part" and p.name.removesuffix(".part")[1:] in files(out)]


def test_the_command_ends_with_counts_or_one_line(photos, tmp_path):
    good = subprocess.run(
        command(f"input={photos}", "output=faces", "workers=1"),
        env=ONE_THREAD, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert good.returncode == 0
    assert good.stderr.splitlines()[-1].startswith("3 faces from 3 pictures into faces; 2 could not be used")
    assert good.stdout == ""
    assert good.stderr.count("Skipped: ") == 2
    for arguments, says in {
        ("input=absent", "output=other"): "There is nothing at absent",
        ("input=photos/blank.png", "output=other", "workers=1"): "No face found in",
        ("input=photos", "output=other", "device=banana", "workers=2"): "Device 'banana' cannot be used",
    }.items():
        bad = inside(tmp_path, "prepare", *arguments, "size=64")
        assert bad.returncode == 2
        assert bad.stdout == ""
        assert bad.stderr.count("\n") == 1
        assert bad.stderr.startswith(f"sam-prepare: {says}")
    (photos / "a.png").rename(tmp_path / "7")
    named = inside(tmp_path, "prepare", "input=7", "output=3", "size=64", "workers=1")
    assert named.returncode == 0  # Hydra reads these names as numbers
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "7", "faces", "photos"]
