"""docs/inference.md runs, block after block, on a small network that was never trained."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sam_age.models.age import AgeClassifier
from tests.editing.test_docs import small_sam
from tests.moving import shot
from tests.test_video import film

GUIDE = Path(__file__).parents[1] / "docs" / "inference.md"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The photos and the clip that the blocks take for granted."""
    pytest.importorskip("imageio_ffmpeg")
    trunk = {"widths": (8, 8, 8, 8), "depths": (1, 1, 1, 1)}
    monkeypatch.setattr("sam_age.pipeline.load", lambda name, device: small_sam())
    monkeypatch.setattr("sam_age.pipeline._age_net_of", lambda name, sam: AgeClassifier(**trunk))
    monkeypatch.chdir(tmp_path)
    astronaut = Image.fromarray(data.astronaut())
    astronaut.save("photo.jpg")
    astronaut.crop((96, 0, 352, 256)).save("crop.png")
    group = Image.new("RGB", (824, 512), (90, 120, 60))
    group.paste(astronaut, (0, 0))
    group.paste(astronaut.resize((410, 410)), (414, 51))
    group.save("group.jpg")
    Image.new("RGB", (640, 480), "skyblue").save("landscape.png")
    film(tmp_path / "clip.mp4", [shot(number) for number in range(7)])
    return tmp_path


def test_every_block_of_the_guide_runs(here, capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 7
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    said = capsys.readouterr().out
    assert "7 of 7 frames, 1 faces" in said
    assert "No face found in landscape.png (640 x 480)" in said
    assert names["young"].size == (256, 256)
    assert names["other"].shape[:2] == (2, 2)
    outside = np.asarray(names["group"].mask) == 0
    before = np.asarray(Image.open("group.jpg").convert("RGB"))
    assert np.array_equal(np.asarray(names["group"].images[0])[outside], before[outside])
    for name in ("sheet.png", "aged.jpg", "overview.png", "who.png", "life.webp", "group.gif", "her.mp4", "cast.png"):
        assert (here / name).stat().st_size > 0, name
