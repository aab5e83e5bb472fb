"""sam-infer's modes, shards, several processes, and the plan."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from sam_age.cli.infer import infer
from sam_age.clips import encode
from sam_age.config import CONF_DIR
from sam_age.errors import InputError
from sam_age.inference.modes import MODES
from sam_age.inference.record import FOLDER
from sam_age.pipeline import AgingPipeline
from sam_age.weights import save
from tests.cli.test_infer import config
from tests.modules.test_aging import tiny_sam

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save(tiny_sam(), tmp_path_factory.mktemp("weights") / "sam.safetensors")


@pytest.fixture(scope="module")
def face(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("faces") / "one.png"
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def run(checkpoint: Path, source: object, output: Path, *more: str) -> list[str]:
    infer(config("infer", f"checkpoint={checkpoint}", f"input={source}", f"output={output}", "device=cpu", *more))
    return written(output)


def written(output: Path) -> list[str]:
    files = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in files if path.parts[0] != FOLDER)


ALIGNED = ["align=never", "target_ages=[20,70]"]


def test_sheet_mix_reference_and_edit(checkpoint: Path, face: Path, tmp_path: Path) -> None:
    assert run(checkpoint, face, tmp_path / "sheet", "mode=sheet", *ALIGNED) == ["one_sheet.png"]
    assert run(checkpoint, face, tmp_path / "mix", "mode=mix", "mode.styles=2", *ALIGNED) == [
        "one_020_style0.png", "one_020_style1.png", "one_070_style0.png", "one_070_style1.png", "one_sheet.png",
    ]  # fmt: skip
    made = run(
        checkpoint, face, tmp_path / "like", "mode=reference", f"mode.references={face}", "sheet=false", *ALIGNED
    )
    assert made == ["one_020_one.png", "one_070_one.png"]
    options = ["mode=edit", "mode.kind=dial", "mode.amount=0.5", *ALIGNED]
    assert run(checkpoint, face, tmp_path / "dial", *options) == ["one_020.png", "one_070.png", "one_sheet.png"]


def test_what_a_mode_writes_is_what_the_pipeline_makes(checkpoint: Path, face: Path, tmp_path: Path) -> None:
    run(checkpoint, face, tmp_path, "mode=edit", "mode.where=eyes", *ALIGNED)
    with Image.open(face) as image:
        ((young, old),) = AgingPipeline.from_pretrained(checkpoint, "cpu").patch([image.copy()], [20, 70], "eyes")
    for age, want in ((20, young), (70, old)):
        with Image.open(tmp_path / f"one_0{age}.png") as got:
            assert got.tobytes() == want.tobytes()


def test_a_direction_from_two_folders(checkpoint: Path, tmp_path: Path) -> None:
    sides = []
    for side, level in (("with", 200), ("without", 40)):
        (tmp_path / side).mkdir()
        sides.append([Image.new("RGB", (256, 256), (level, 40 * n, 0)) for n in range(5)])
        for n, face in enumerate(sides[-1]):
            face.save(tmp_path / side / f"{n}.png")
    options = ["mode=edit", "mode.kind=direction", "mode.amount=2", f"mode.having={tmp_path / 'with'}"]
    source = tmp_path / "with" / "0.png"
    run(checkpoint, source, tmp_path / "out", *options, f"mode.lacking={tmp_path / 'without'}", *ALIGNED)
    pipeline = AgingPipeline.from_pretrained(checkpoint, "cpu")
    codes = pipeline.move(sides[0][:1], [20, 70], pipeline.direction(*sides), 2, layers="all")
    with Image.open(tmp_path / "out/0_070.png") as got:
        assert got.tobytes() == pipeline.synthesize(codes[0])[1].tobytes()
    with pytest.raises(InputError, match=r"No usable face in mode\.lacking"):  # flat colours are none, unless aligned
        run(checkpoint, source, tmp_path / "no", *options, f"mode.lacking={tmp_path / 'without'}", "align=always",
            "target_ages=20", f"mode.having={face_of_her(tmp_path)}")  # fmt: skip


def face_of_her(folder: Path) -> Path:
    path = folder / "her.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


def test_photo_and_animation(checkpoint: Path, tmp_path: Path) -> None:
    made = run(checkpoint, face_of_her(tmp_path), tmp_path / "whole", "mode=photo", "target_ages=70")
    assert made == ["her_070.png", "her_sheet.png"]
    with Image.open(tmp_path / "whole/her_070.png") as photo:
        assert photo.size == (512, 512)
        assert (np.asarray(photo)[-50:, -50:] == data.astronaut()[-50:, -50:]).all()
    short = ["mode=animate", "mode.format=gif", "mode.seconds=0.5", "mode.fps=10", "target_ages=[20,70]"]
    assert run(checkpoint, tmp_path / "her.png", tmp_path / "film", *short) == ["her.gif"]


def test_a_photo_that_is_none_is_called_by_its_name(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no")
    with pytest.raises(InputError, match=r"bad\.jpg is not an image"):
        run(checkpoint, tmp_path / "bad.jpg", tmp_path / "out", "mode=photo")
    assert not (tmp_path / "out").exists()


def test_the_examples_of_help_are_understood() -> None:
    text = (CONF_DIR / "infer.yaml").read_text().partition("template: |")[2]
    examples = []
    for line in text.splitlines():
        if "sam-infer " in line and "output=" in line:
            examples.append(shlex.split(line.partition("sam-infer ")[2]))
        elif line.strip().startswith("mode.having="):  # the line before goes on
            examples[-1] += line.split()
    assert {f"mode={name}" for name in MODES if name != "ages"} < {word for words in examples for word in words}
    for words in examples:
        cfg = config("infer", *(word for word in words if "=" in word))
        assert cfg.output
        assert "{" not in str(cfg.input) or str(cfg.input) == "faces-{000..099}.tar"


def test_video_is_handed_on(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "clips/deep").mkdir(parents=True)
    (tmp_path / "clips/deep/a.mov").write_bytes(b"clip")
    calls = []

    def video(self, clip, path, ages, **options):
        calls.append((clip, path, ages, options))
        path.write_bytes(b"aged")

    monkeypatch.setattr(AgingPipeline, "video", video)
    made = run(checkpoint, tmp_path / "clips", tmp_path / "out", "mode=video", "target_ages=[20,80]", "sheet=false")
    assert made == ["deep/a.mp4"]
    ((clip, _, ages, options),) = calls
    assert (clip, ages, options["faces"]) == (tmp_path / "clips/deep/a.mov", [20, 80], "all")


@pytest.fixture
def shards(tmp_path: Path, face: Path) -> str:
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / f"shards/faces-{shard:03d}.tar", "w") as tar:
            for name in (f"{shard}/a.png", "../../b.png"):
                info = tarfile.TarInfo(name)
                info.size = face.stat().st_size
                tar.addfile(info, io.BytesIO(face.read_bytes()))
    return str(tmp_path / "shards")


def test_shards_are_mirrored_and_stay_below_the_output(checkpoint: Path, shards: str, tmp_path: Path) -> None:
    made = run(checkpoint, shards, tmp_path / "out", "align=never", "target_ages=20", "sheet=false", "workers=1")
    assert made == ["faces-000/0/a_020.png", "faces-000/b_020.png", "faces-001/1/a_020.png", "faces-001/b_020.png"]
    assert not list(tmp_path.glob("b_*"))


def test_the_plan_is_printed_and_nothing_written(checkpoint: Path, shards: str, tmp_path: Path, capsys) -> None:
    assert run(checkpoint, shards, tmp_path / "out", "dry_run=true", "devices=2", "num_nodes=2") == []
    said = capsys.readouterr().out
    assert "4 inputs, 0 done before, 4 to do" in said
    assert "2 shards" in said
    assert "rank 3 of 4: 1 inputs, faces-001/b.png to faces-001/b.png, in 1 shards" in said
    assert "48 files below" in said
    assert not (tmp_path / "out").exists()


def test_no_rank_is_without_work(checkpoint: Path, face: Path, tmp_path: Path, capsys) -> None:
    run(checkpoint, face, tmp_path / "out", "dry_run=true", "devices=2")
    assert "rank 0 of 1: 1 inputs" in capsys.readouterr().out
    with pytest.raises(InputError, match="num_nodes=1"):
        run(checkpoint, face, tmp_path / "out", "num_nodes=2")


@pytest.mark.slow  # starts two processes
def test_two_processes_make_what_one_makes_each_its_own(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for n in range(3):
        Image.new("RGB", (256, 256), (60 * n, 90, 0)).save(folder / f"{n}.png")
    (folder / "bad.png").write_text("not a picture")
    alone = run(checkpoint, folder, tmp_path / "one", *ALIGNED)
    command = [sys.executable, "-m", "sam_age.cli.infer", f"checkpoint={checkpoint}", f"input={folder}", "device=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, f"output={tmp_path / 'two'}", "devices=2", *ALIGNED],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert written(tmp_path / "two") == alone
    for name in alone:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    ranks = sorted((tmp_path / "two" / FOLDER).glob("*.jsonl"))
    assert len(ranks) == 2
    assert all('"done"' in path.read_text() for path in ranks)
    assert "3 of 4 written" in done.stderr
    assert "bad.png" in done.stderr


def test_a_film_of_a_whole_photo_ages_everybody_unless_told_otherwise(checkpoint: Path, tmp_path: Path) -> None:
    her = data.astronaut()
    Image.fromarray(np.hstack([her, her])).save(tmp_path / "two.png")
    short = ["mode=animate", "mode.whole=true", "mode.seconds=0.2", "mode.fps=10", "target_ages=[20,70]"]

    def halves(name: str, *more: str) -> list[float]:
        (made,) = run(checkpoint, tmp_path / "two.png", tmp_path / name, *short, *more)
        with Image.open(tmp_path / name / made) as film:
            change = np.abs(np.asarray(film.convert("RGB"), float) - np.hstack([her, her]))
        return [change[:200, half].mean() for half in (slice(512), slice(512, None))]

    assert min(halves("all")) > 5
    one, other = sorted(halves("one", "faces=largest"))
    assert one < 3 < other


def test_calibrated_ages_are_those_the_network_reads_and_are_told(checkpoint, face, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="needs an age network"):
        run(checkpoint, face, tmp_path / "without", "mode.calibrate=true", *ALIGNED)
    settings = []

    def read_age(self: AgingPipeline, faces: list) -> list[float]:  # ten years more than was set
        return [settings.pop(0) + 10 if settings else 40.0 for _ in faces]

    def edit(self: AgingPipeline, faces: list, ages: list, inversions=None) -> torch.Tensor:
        settings[:] = [age for row in ages for age in row]
        return plain(self, faces, ages, inversions)

    plain = AgingPipeline.edit
    monkeypatch.setattr(AgingPipeline, "edit", edit)
    monkeypatch.setattr(AgingPipeline, "read_age", read_age)
    monkeypatch.setattr(AgingPipeline, "age_net", torch.nn.Identity())
    made = run(checkpoint, face, tmp_path / "out", "mode.calibrate=true", *ALIGNED)
    assert made == ["one_020.png", "one_070.png", "one_calibration.json", "one_sheet.png"]
    told = json.loads((tmp_path / "out/one_calibration.json").read_text())
    assert [(row["asked"], row["read_uncalibrated"], row["reached"]) for row in told] == [
        (20, 30, True),
        (70, 80, True),
    ]
    assert [row["set"] for row in told] == pytest.approx([10, 60], abs=0.5)
    assert [row["read"] for row in told] == pytest.approx([20, 70], abs=0.5)


def test_a_clip_comes_with_a_sheet_of_who_is_in_it(checkpoint: Path, tmp_path: Path) -> None:
    her = Image.fromarray(data.astronaut()).resize((256, 256))
    still = np.asarray(Image.merge("RGB", her.split()))
    encode(tmp_path / "clip.mp4", [still] * 4, (256, 256), Fraction(10))
    made = run(checkpoint, tmp_path / "clip.mp4", tmp_path / "out", "mode=video", "target_ages=70")
    assert made == ["clip.mp4", "clip_cast.png"]
    with Image.open(tmp_path / "out/clip_cast.png") as sheet:
        assert sheet.size[0] == pytest.approx(160, abs=10)
