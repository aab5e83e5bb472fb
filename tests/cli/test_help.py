"""--help says what each key means, in the words of conf/."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam_age.cli import help as help_
from sam_age.cli.app import _explain
from sam_age.cli.help import comments, explained
from sam_age.config import CONF_DIR
from tests.cli.test_train import run


def test_options_of_a_mode_are_explained_and_lists_are_short(tmp_path: Path) -> None:
    said = run(tmp_path, "infer", "mode=animate", "--help").stdout.splitlines()
    (seconds,) = [line.split() for line in said if line.startswith("  seconds:")]
    assert seconds == ["seconds:", "8", "#", "length"]
    assert sum("[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100] # years" in line for line in said) == 1
    assert any(line.startswith("output: ???") and "# folder for the results" in line for line in said)
    keys = next(n for n, line in enumerate(said) if line.startswith("mode: "))
    assert max(map(len, said[keys:])) <= 120


@pytest.mark.parametrize("name", ["infer", "train", "eval", "prepare", "render", "demo"])
def test_every_comment_of_a_commands_own_file_is_found(name: str) -> None:
    known = comments(name, {})
    for line in (CONF_DIR / f"{name}.yaml").read_text().partition("hydra:")[0].splitlines():
        key, colon, rest = line.partition(":")
        if colon and key.isidentifier() and " # " in rest:
            assert known[key,].startswith(rest.partition(" # ")[2].strip()), line


def test_comments_go_on_below_and_come_from_the_files_that_a_choice_builds_on(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part/base.yaml").write_text("# a file\na: 1 # one\nb:\n  c: 'x' # three, and\n         # on\n")
    (tmp_path / "part/mine.yaml").write_text("defaults:\n  - base\n  - _self_\na: 2 # two\n\n# of what follows\nd: 3\n")
    (tmp_path / "top.yaml").write_text("defaults:\n  - part: mine # which\ne: 4 # four\n# not of e\nf: 5\n")
    monkeypatch.setattr(help_, "CONF_DIR", tmp_path)
    known = comments("top", {"part": "mine", "hydra/launcher": "basic", "none": None})
    assert known == {
        ("part",): "which", ("part", "a"): "two", ("part", "b", "c"): "three, and on", ("e",): "four",
    }  # fmt: skip
    text = "sam-x: what it does\n\n  sam-x e=1\n\npart:\n  a: 2\n  l:\n  - 1\n  - 2\ne: 4\n"
    assert explained(text, known).splitlines()[4:] == [
        "part:                 # which", "  a: 2                # two", "  l: [1, 2]", "e: 4                  # four",
    ]  # fmt: skip


def test_a_key_of_another_option_is_sent_there_and_no_paths_are_said() -> None:
    said = _explain("Could not override 'mode.seconds'.\nTo append to your config use +mode.seconds=4", "infer")
    assert said == "Could not override 'mode.seconds': it is an option of mode=animate."
    missing = "In 'infer': Could not find 'mode/no'\nAvailable options in 'mode':\n\tages\nConfig search path:\n\t/a"
    assert _explain(missing, "infer") == "In 'infer': Could not find 'mode/no' Available options in 'mode': ages"
