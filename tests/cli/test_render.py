"""sam-render as a command: what it writes and says, and what it refuses in one line."""

from __future__ import annotations

import functools
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sam_age.cli.render import render
from sam_age.config import CONF_DIR
from sam_age.errors import InputError
from sam_age.lifespan import making
from tests.cli.inside import inside


@pytest.fixture(autouse=True)
def no_time_to_render(monkeypatch):
    fake = functools.partial(making.render_split, renderer="tests.lifespan.fake")
    monkeypatch.setattr(making, "render_split", fake)


def run(*overrides: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        render(compose("render", overrides=[*overrides, "size=32", "workers=1"]))


def test_a_split_comes_with_lists_report_and_sheets(tmp_path: Path, capsys, caplog) -> None:
    with caplog.at_level(logging.INFO):
        run(f"output={tmp_path}", "split=test", "people=2", "ages=[0,20.5]")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "sheets/test_people.jpg",
        "sheets/test_random.jpg",
        "test/00000/00000_a000.0_s0.webp",
        "test/00000/00000_a020.5_s0.webp",
        "test/00001/00001_a000.0_s0.webp",
        "test/00001/00001_a020.5_s0.webp",
        "test/people.jsonl",
        "test/portraits.jsonl",
        "test/render.json",
        "test/report.json",
    ]
    assert "4 portraits of 2 people" in capsys.readouterr().out
    assert f"4 portraits into {tmp_path / 'test'}" in caplog.text
    assert json.loads((tmp_path / "test/render.json").read_text())["ages"] == [0, 20.5]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(f"output={tmp_path}", "split=test", "people=2", "ages=[0,20.5]")
    assert f"0 portraits into {tmp_path / 'test'}; 4 were there already" in caplog.text


def test_another_command_is_refused_and_overwrites_when_told(tmp_path: Path) -> None:
    run(f"output={tmp_path}", "people=1", "sheets=false")
    assert not (tmp_path / "sheets").exists()
    with pytest.raises(InputError, match=r"seed was 0, is 1.*overwrite=true"):
        run(f"output={tmp_path}", "people=1", "seed=1")
    run(f"output={tmp_path}", "people=1", "seed=1", "overwrite=true")
    assert json.loads((tmp_path / "train/render.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("split=everyone", "no split 'everyone'; known: train"),
        ("people=0", "people is a whole number"),
        ("ages=[120]", "years from 0 to 100, not 120"),
        ("ages=30", "list of years"),
        ("scenes=-1", "scenes is a whole number"),
        ("overwrite=perhaps", "overwrite is true or false"),
        ("device=banana", "Device 'banana' cannot be used"),
        ("format=gif", "format is one of"),
        ("batch_size=0", "batch_size"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path: Path, wrong: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("[", r"\[")):
        run(f"output={tmp_path / 'out'}", wrong)
    assert not (tmp_path / "out").exists()


def test_the_command_teaches_and_leaves_with_code_2_and_one_line(tmp_path: Path) -> None:
    taught = subprocess.run(
        [sys.executable, "-m", "sam_age.cli.render", "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert taught.returncode == 0
    assert "sam-render output=datasets/lifespan split=train" in taught.stdout
    bad = inside(tmp_path, "render", "output=out", "split=nobody")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("sam-render: There is no split 'nobody'; known: train, judges")
    assert bad.stderr.count("\n") == 1
    missing = inside(tmp_path, "render")
    assert missing.returncode == 2
    assert "output is needed" in missing.stderr
    assert list(tmp_path.iterdir()) == []
