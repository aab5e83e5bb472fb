"""sam-render: portraits come out whole, and any interruption is made good."""

import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sam_age.data.sources import open_source
from sam_age.errors import InputError
from sam_age.lifespan import making
from sam_age.lifespan.folder import Settings
from sam_age.lifespan.making import render_split
from sam_age.lifespan.report import at_random, by_age, distribution, save_report, save_sheets, table
from sam_age.lifespan.sources import LifespanFaces
from sam_age.lifespan.studio import RENDERER, Studio

FAKE = "tests.lifespan.fake"


def render(output, *, workers=1, overwrite=False, device="cpu", batch_size=None, **settings):
    settings = Settings(**{"people": 4, "size": 32, "format": "png"} | settings)
    options = {"workers": workers, "overwrite": overwrite, "device": device, "batch_size": batch_size}
    return render_split(output, settings, renderer=FAKE, **options)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_portrait_is_rendered_as_the_plan_says_and_listed(tmp_path):
    assert render(tmp_path, split="test", ages=[5, 60], people=2) == (4, 0)
    listed = rows(tmp_path / "test/portraits.jsonl")
    assert [row["file"] for row in listed] == [
        "00000/00000_a005.0_s0.png", "00000/00000_a060.0_s0.png",
        "00001/00001_a005.0_s0.png", "00001/00001_a060.0_s0.png",
    ]  # fmt: skip
    assert [(row["person"], row["age"], row["sex"], row["split"]) for row in listed[1:3]] == [
        ("test-0-00000", 60, "female", "test"),
        ("test-0-00001", 5, "male", "test"),
    ]
    portraits = Settings(split="test", people=2, ages=(5, 60)).plan()
    expected = Studio(32, renderer=FAKE).shoot(portraits)
    for row, pixels in zip(listed, expected, strict=True):
        stored = np.asarray(Image.open(tmp_path / "test" / row["file"]))
        assert np.array_equal(stored, pixels.permute(1, 2, 0).numpy())
    people = rows(tmp_path / "test/people.jsonl")
    assert [person["person"] for person in people] == ["test-0-00000", "test-0-00001"]
    assert people[0]["parameters"]["skin"]["melanin"] > 0
    assert listed[0]["scene_parameters"] == listed[1]["scene_parameters"] != listed[2]["scene_parameters"]


@pytest.mark.parametrize("more", [{"workers": 2}, {"batch_size": 1}, {"batch_size": 5, "device": "cpu:0"}])
def test_neither_workers_nor_batches_change_a_byte(tmp_path, more):
    render(tmp_path / "one")
    render(tmp_path / "other", **more)
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_batches_on_a_device_hold_several_people_and_give_the_same_files(tmp_path, monkeypatch):
    render(tmp_path / "one")
    sizes = []
    shoot = Studio.shoot
    monkeypatch.setattr(Studio, "shoot", lambda self, p: sizes.append(len(p)) or shoot(self._on_cpu(), p))
    monkeypatch.setattr(Studio, "_on_cpu", lambda self: Studio(self.size, "cpu", self.renderer), raising=False)
    render(tmp_path / "other", device="cuda", batch_size=5)
    assert sizes == [5, 5, 2]
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_several_devices_share_the_batches_and_give_the_same_files(tmp_path, monkeypatch):
    render(tmp_path / "one")
    monkeypatch.setattr(making, "_gpus", lambda device: ["cpu", "cpu:0"])
    render(tmp_path / "other", workers=2, batch_size=5, device="cpu:0")
    assert files(tmp_path / "one") == files(tmp_path / "other")


@pytest.mark.parametrize(("gigabytes", "processes"), [(80, 6), (24, 2), (8, 2)])
def test_a_gpu_gets_as_many_processes_as_its_memory_holds(gigabytes, processes, monkeypatch):
    """A batch of 128 takes 12.6 GB; where not one fits into three quarters, there is still a process per GPU."""
    card = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert making.gpu_workers("cuda", 256, 128) == processes
    assert making.gpu_workers("cuda:1", 256, 128) == processes // 2
    assert making.gpu_workers("cpu", 256, 128) == 1


def test_a_second_run_does_nothing(tmp_path):
    render(tmp_path)
    before = files(tmp_path)
    assert render(tmp_path) == (0, 12)
    assert files(tmp_path) == before


def test_a_lost_file_and_a_torn_line_are_made_good(tmp_path):
    render(tmp_path)
    before = files(tmp_path)
    listing = tmp_path / "train/portraits.jsonl"
    (tmp_path / "train" / rows(listing)[4]["file"]).unlink()
    listing.write_bytes(listing.read_bytes()[:-20])
    assert render(tmp_path) == (2, 10)
    assert files(tmp_path) == before


def test_who_is_rendered_together_does_not_depend_on_what_is_there(tmp_path, monkeypatch):
    """Rounding may depend on it: so a resumed run renders a person's whole batch, and stores what was missing."""
    render(tmp_path, batch_size=3)
    lost = rows(tmp_path / "train/portraits.jsonl")[4]["file"]
    before = files(tmp_path)
    (tmp_path / "train" / lost).unlink()
    together = []
    shoot = Studio.shoot
    monkeypatch.setattr(Studio, "shoot", lambda self, p: together.append([x.stem for x in p]) or shoot(self, p))
    assert render(tmp_path, batch_size=3) == (1, 11)
    assert [len(batch) for batch in together] == [3]
    assert lost.removesuffix(".png") == together[0][1]
    assert files(tmp_path) == before


def test_shards_hold_every_portrait_and_its_line_and_are_resumed(tmp_path):
    shards = {"format": "shards", "shard_images": "png", "shard_size": 5}
    render(tmp_path, **shards)
    render(tmp_path / "single")
    before = files(tmp_path / "train")
    assert sum(name.endswith(".tar") for name in before) == 3
    with tarfile.open(tmp_path / "train/portraits-000001.tar") as tar:
        names = tar.getnames()
        assert len(names) == 10
        assert all(name.count(".") == 1 for name in names)
        row = json.load(tar.extractfile(names[1]))
        picture = tar.extractfile(names[0]).read()
    assert row["file"] == f"portraits-000001.tar/{names[0]}"
    same = next(r for r in rows(tmp_path / "single/train/portraits.jsonl") if r["number"] == 1 and r["scene"] == 2)
    assert (row["number"], row["scene"], row["age"]) == (1, 2, same["age"])
    assert picture == (tmp_path / "single/train" / same["file"]).read_bytes()
    (tmp_path / "train/portraits-000000.tar").unlink()
    assert render(tmp_path, **shards) == (5, 7)
    assert files(tmp_path / "train") == before
    listing = tmp_path / "train/portraits.jsonl"
    listing.write_bytes(b"".join(listing.read_bytes().splitlines(keepends=True)[:7])[:-20])
    assert render(tmp_path, **shards) == (7, 5)  # half a shard's lines are none
    assert files(tmp_path / "train") == before


def test_other_settings_or_files_of_others_are_not_overwritten_unless_asked(tmp_path):
    render(tmp_path)
    (tmp_path / "train/mine.txt").write_text("keep")
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"people was 4, is 2.*overwrite=true starts over"):
        render(tmp_path, people=2)
    assert files(tmp_path) == before
    assert render(tmp_path, people=2, ages=[5], overwrite=True) == (2, 0)
    left = {name for name in files(tmp_path) if "/0" in name or name.endswith("txt")}
    assert left == {"train/00000/00000_a005.0_s0.png", "train/00001/00001_a005.0_s0.png", "train/mine.txt"}
    assert sorted(p.name for p in (tmp_path / "train").iterdir() if p.is_dir()) == ["00000", "00001"]
    (tmp_path / "photos/train").mkdir(parents=True)
    (tmp_path / "photos/train/a.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds files that sam-render did not make"):
        render(tmp_path / "photos")
    assert render(tmp_path, split="test", people=1, ages=[1]) == (1, 0)  # another split goes beside it


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"train cannot be written \(Not a directory\)"):
        render(tmp_path / "file")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"format": "gif"}, "format is one of png, webp, jpg, shards, not 'gif'"),
        ({"size": 8}, "size is a whole number from 32 to 1024, not 8"),
        ({"quality": 0}, "quality is a whole number from 1 to 100, not 0"),
        ({"shard_size": 0}, "shard_size"),
        ({"split": "all"}, "no split 'all'"),
        ({"ages": [200]}, "from 0 to 100, not 200"),
        ({"workers": -1}, "workers is a whole number from 0"),
        ({"workers": "two"}, "workers is a whole number from 0"),
        ({"batch_size": 0}, "batch_size is a whole number from 1"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(tmp_path, wrong, says):
    with pytest.raises(InputError, match=re.escape(says)) as error:
        render(tmp_path, **wrong)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_batch_that_does_not_fit_is_one_line_and_goes_on_with_less(tmp_path, monkeypatch):
    shoot = Studio.shoot

    def of_little_memory(self, portraits):
        if len(portraits) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return shoot(Studio(self.size, "cpu", self.renderer), portraits)

    monkeypatch.setattr(Studio, "shoot", of_little_memory)
    with pytest.raises(InputError, match=r"10 portraits at once do not fit.*cuda.*batch_size=5, or workers=1; it"):
        render(tmp_path, device="cuda", batch_size=10)
    assert render(tmp_path, device="cuda", batch_size=5) == (12, 0)


@pytest.mark.parametrize("renderer", [FAKE, RENDERER])
def test_rendering_needs_no_network(tmp_path, monkeypatch, renderer):
    def refused(*_, **__):
        raise AssertionError("the network was asked")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refused)
    settings = Settings(split="test", people=1, ages=(30,), size=64)
    assert render_split(tmp_path, settings, workers=1, renderer=renderer) == (1, 0)
    assert len(LifespanFaces(tmp_path, "test")) == 1


ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from sam_age.lifespan import making
from sam_age.lifespan.folder import Settings
from sam_age.lifespan.making import render_split
if __name__ == "__main__":
    settings = Settings(people=20, size=32, format=sys.argv[3], shard_size=7)
    render_split(sys.argv[1], settings, workers=int(sys.argv[2]), renderer="tests.lifespan.fake")
"""


@pytest.mark.parametrize(("workers", "kind"), [(1, "webp"), (2, "webp"), (1, "shards")])
def test_a_killed_run_is_completed_by_the_next_to_the_same_bytes(tmp_path, workers, kind):
    (tmp_path / "program.py").write_text(PROGRAM)
    out, listing = tmp_path / "killed", tmp_path / "killed/train/portraits.jsonl"
    command = [sys.executable, tmp_path / "program.py", out, str(workers), kind]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FAKE_SECONDS": "0.2", "PYTHONPATH": path}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 240
    while not (listing.exists() and listing.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = listing.read_bytes().count(b"\n")
    assert 5 <= done < 60

    settings = {"people": 20, "format": kind, "shard_size": 7}
    made, already = render(out, **settings)
    assert made + already == 60
    assert already >= done - 1  # the last line may be torn
    render(tmp_path / "whole", **settings)
    whole, killed = files(tmp_path / "whole"), files(out)
    left = {name for name in killed if name not in whole}
    assert all(name.endswith(".part") for name in left)  # what was being written when the end came
    assert {name: killed[name] for name in whole} == whole


def test_the_report_counts_people_and_portraits(tmp_path):
    render(tmp_path, people=6, ages=[0, 9.9, 100])
    report = save_report(tmp_path, Settings(people=6, size=32, format="png"))
    assert report["sex"] == {"female": 3, "male": 3}
    assert report["ancestry"] == {"african": 2, "asian": 2, "european": 2}
    assert report["age"] == {"00-": 12, "90-": 6}
    assert sum(report["melanin"].values()) == 6
    assert json.loads((tmp_path / "train/report.json").read_text()) == {"split": "train"} | report
    assert "female 50.0 %" in table(report)


def test_tones_are_counted_from_fair_to_dark():
    people = [
        {"sex": "male", "ancestry": "asian", "parameters": {"skin": {"melanin": melanin}}}
        for melanin in (0.1, 0.3, 0.3, 1.84)
    ]
    report = distribution(people, [{"age": 5}])
    assert list(report["melanin"].values()) == [1, 2, 0, 0, 0, 0, 1]


def test_sheets_show_lives_in_order_and_portraits_that_nobody_chose(tmp_path):
    render(tmp_path, split="test_scenes", people=8)
    faces = LifespanFaces(tmp_path, "test_scenes")
    captions = [[caption for _, caption in row] for row in by_age(faces, people=2)]
    assert captions[1] == ["10 years, male"] * 3 + ["40 years, male"] * 3 + ["70 years, male"] * 3
    assert len(captions) == 2
    drawn = at_random(faces, seed=0)
    assert [len(row) for row in drawn] == [6] * 6
    made = list(save_sheets(tmp_path, Settings(split="test_scenes", people=8, size=32)))
    assert [path.relative_to(tmp_path).as_posix() for path in made] == [
        "sheets/test_scenes_people.jpg",
        "sheets/test_scenes_random.jpg",
    ]
    assert len(open_source(tmp_path / "test_scenes")) == 72  # the sheets do not lie among the faces
