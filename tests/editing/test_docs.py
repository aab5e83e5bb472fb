"""docs/editing.md runs, block after block, on small networks that were never trained."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import sam_age
from sam_age.models.age import AgeClassifier
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.identity import FaceEmbedder
from sam_age.models.sam import SAM
from sam_age.models.stylegan2 import Generator

GUIDE = Path(__file__).parents[2] / "docs" / "editing.md"


def small_sam() -> SAM:
    """Of 256 pixels, as `lifespan` is: 14 styles."""
    torch.manual_seed(0)
    numbers = {"style_dim": 256, "widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "tower_width": 8}
    decoder = Generator(256, style_dim=256, n_mlp=2, channel_multiplier=0.0625, channel_max=16)
    return SAM(GradualStyleEncoder(4, 14, **numbers), GradualStyleEncoder(3, 14, **numbers), decoder).eval()


@pytest.fixture
def names(tmp_path, monkeypatch) -> dict:
    """What the blocks take for granted: networks by name, a photo, folders, faces and labels."""
    torch.manual_seed(0)
    trunk = {"widths": (8, 8, 8, 8), "depths": (1, 1, 1, 1)}
    named = {"lifespan": small_sam(), "lifespan/eval_identity": FaceEmbedder(**trunk)}
    real = sam_age.load
    monkeypatch.setattr(sam_age, "load", lambda name: named[name] if name in named else real(name))
    monkeypatch.setattr("sam_age.editing.methods.load", lambda name: named[name])
    monkeypatch.setattr("sam_age.pipeline.load", lambda name, device: named[name])
    monkeypatch.setattr("sam_age.pipeline._age_net_of", lambda name, sam: AgeClassifier(**trunk))
    monkeypatch.chdir(tmp_path)

    Image.fromarray(data.astronaut()).save("photo.jpg")
    draws = np.random.default_rng(0)
    portrait = data.astronaut()[0:256, 96:352]
    for folder in ("with_glasses", "without"):
        (tmp_path / "faces" / folder).mkdir(parents=True)
        for number in range(5):
            varied = portrait + draws.normal(0, 8, portrait.shape)
            picture = Image.fromarray(np.clip(varied, 0, 255).astype(np.uint8))
            picture.save(tmp_path / "faces" / folder / f"{number}.png")
    faces = [Image.fromarray(draws.integers(0, 256, (256, 256, 3), np.uint8)) for _ in range(12)]
    return {"other_face": faces[0], "young": faces[0], "old": faces[1], "faces": faces, "labels": torch.arange(12.0)}


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


def test_every_block_of_the_guide_runs(names, tmp_path):
    editing = [block for block in blocks() if "onnx" not in block]
    assert len(editing) == 7
    for block in editing:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} >= {"dial.png", "life.npz", "years.safetensors"}
    assert np.asarray(names["grey"]).shape == np.asarray(names["both"]).shape == (256, 256, 3)
    assert names["frames"][0].size == (256, 256)


@pytest.mark.slow
def test_the_guides_onnx_gives_the_pipelines_codes(names):
    for extra in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(extra)
    for block in blocks():
        if "onnx" in block or "from_pretrained" in block:
            exec(compile(block, str(GUIDE), "exec"), names)
    wanted = names["sam"].edit([names["face"]], [70])[0]
    np.testing.assert_allclose(names["codes"], wanted, atol=1e-3)
    assert names["image"].shape == (1, 3, 256, 256)
