"""notebooks/tour.ipynb runs from top to bottom: on made-up weights and, among the slow tests, on the package's own."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from types import ModuleType

import pytest
from skimage import data

from sam_age import pretrained
from sam_age.data.align import align
from sam_age.data.storing import encode
from tests.test_bundle import bundle, runs, tool  # noqa: F401 fixtures
from tests.tool import load_tool

pytest.importorskip("nbclient")
ROOT = Path(__file__).resolve().parents[1]
TOUR = ROOT / "notebooks" / "tour.ipynb"


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    return load_tool("run_notebook")


@pytest.fixture(scope="module")
def stand_in(bundle: Path, tmp_path_factory) -> Path:  # noqa: F811
    """The made-up bundle, with portraits in which there is a face."""
    from PIL import Image

    from sam_age.data.detect import FaceDetector

    folder = tmp_path_factory.mktemp("tour") / "lifespan"
    shutil.copytree(bundle, folder)
    astronaut = Image.fromarray(data.astronaut())
    face = align(astronaut, FaceDetector().detect(astronaut)[0].quad, 256)
    portrait = encode(face, "webp", 95)
    for path in folder.rglob("*.webp"):
        path.write_bytes(portrait)
    return folder


def said(notebook) -> str:
    """All that the cells printed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def check(notebook) -> None:
    pictures = [
        kind
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
        if kind.startswith("image/")
    ]
    assert pictures.count("image/jpeg") == 8
    assert pictures.count("image/gif") == 1
    assert "3 faces" in said(notebook)
    assert "asked   set  read" in said(notebook)
    assert "There and back" in said(notebook)


def test_the_tour_runs_on_a_made_up_model(
    runner: ModuleType, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "from pathlib import Path",
        "from sam_age import pretrained",
        f"pretrained.FOLDER = Path({str(stand_in)!r})",
    )
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))  # run by the kernel, and by what it starts, at once
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    check(runner.run(TOUR))


@pytest.mark.slow
@pytest.mark.skipif(not (pretrained.FOLDER / "sam.safetensors").is_file(), reason="no weights in this copy")
def test_the_tour_takes_less_than_two_minutes_and_has_its_outputs_saved(runner: ModuleType) -> None:
    import nbformat

    start = time.perf_counter()
    check(runner.run(TOUR))
    assert time.perf_counter() - start < 120
    check(nbformat.read(TOUR, as_version=4))
