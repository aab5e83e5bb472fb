"""tools/training_curves.py: what was logged is what is drawn."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from tests.tool import load_tool


@pytest.fixture(scope="module")
def tool():
    return load_tool("training_curves")


def log(folder: Path, rows: list[dict[str, float]]) -> Path:
    folder.mkdir(parents=True)
    names = sorted({name for row in rows for name in row})
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_medians_and_quartiles_are_those_of_the_parts(tool) -> None:
    values = np.random.default_rng(0).normal(size=400)
    line, band = tool.thinned([(float(step), float(value)) for step, value in enumerate(values)])
    parts = values.reshape(tool.PARTS, -1)
    np.testing.assert_allclose([value for _, value in line], np.median(parts, axis=1))
    for place, quantile in ((1, 0.25), (2, 0.75)):
        want = np.quantile(parts, quantile, axis=1, method="weibull")
        np.testing.assert_allclose([row[place] for row in band], want)


def test_a_resumed_run_is_one_curve_and_the_later_log_counts(tool, tmp_path: Path) -> None:
    log(tmp_path / "run/csv/version_0", [{"step": step, "val/age_mae": 30.0 - step} for step in (0, 10, 20)])
    log(tmp_path / "run/csv/version_1", [{"step": step, "val/age_mae": 5.0} for step in (20, 30)])
    points = tool.read(tmp_path / "run")["val/age_mae"]
    assert points == [(0, 30.0), (10, 20.0), (20, 5.0), (30, 5.0)]


def test_the_drawing_has_a_panel_for_each_column_and_a_curve_for_each_run(tool, tmp_path: Path) -> None:
    for name, low in (("one", 0.0), ("two", 1.0)):
        rows = [{"step": step, "val/kid": low + step, "train/total": 1.0, "train/unasked": 2.0} for step in range(5)]
        log(tmp_path / name, rows)
    target = tmp_path / "docs/curves.svg"
    tool.main([str(tmp_path / "one"), str(tmp_path / "two"), str(target), "val/kid", "train/total"])
    drawn = target.read_text()
    assert re.findall(r'class="name"[^>]*>([^<]*)', drawn) == ["val/kid", "train/total"]
    assert drawn.count('stroke-width="2"') == 4
    first, second = re.findall(r'stroke-width="2" d="M([^"]*)"', drawn)[:2]
    assert float(first.split("L")[0].split()[1]) > float(second.split("L")[0].split()[1])  # lower on the page, less


@pytest.mark.parametrize(
    ("arguments", "words"), [(["nowhere", "a.svg"], "no metrics.csv"), (["a", "b"], "curves of a")]
)
def test_what_is_missing_is_said(tool, arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        tool.main(arguments)
