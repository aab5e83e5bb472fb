"""What `import sam_age` costs, and what using it brings along."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sam_age

FOREIGN = {
    "hydra", "omegaconf", "pytorch_lightning", "lightning", "lightning_fabric", "wandb", "matplotlib", "kornia",
    "torchmetrics", "tensorboard", "pytorch_optimizer",
}  # fmt: skip
"""Of training, evaluation and configuration: nothing that ageing a face needs."""

USE = """
from pathlib import Path
import numpy as np, torch
from PIL import Image
import sam_age
from sam_age import AgingPipeline
from sam_age.models.age import AgeClassifier
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.identity import FaceEmbedder
from sam_age.models.stylegan2 import Generator

numbers = {"style_dim": 16, "widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "tower_width": 8}
decoder = Generator(32, style_dim=16, n_mlp=2, channel_multiplier=0.0625, channel_max=16)
sam = sam_age.SAM(GradualStyleEncoder(4, 8, **numbers), GradualStyleEncoder(3, 8, **numbers), decoder)
sam_age.save(sam, "sam.safetensors")
age_net = AgeClassifier((8, 8, 8, 8), (1, 1, 1, 1))
pipeline = AgingPipeline.from_pretrained("sam.safetensors", device="cpu", age_net=age_net)
Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save("photo.jpg")
assert not pipeline.detector.detect(Image.open("photo.jpg"))
(aged,) = pipeline("photo.jpg", ages=[5, 80], align="never")
aged.sheet().save("sheet.png")
faces = [aged.face]
pipeline.synthesize(pipeline.mix(faces, [70], 2))
pipeline.reference(faces, [70], faces)
pipeline.dial_curve(faces, 70, FaceEmbedder((8, 8, 8, 8), (1, 1, 1, 1)), amounts=[0, 1]).plot("dial.png")
pipeline.calibrate(faces, [50], rounds=2)
pipeline.patch(faces, [70], "hair", blend="features")
pipeline.path(faces[0], [0, 50]).save("life.npz")
line = sam_age.fit_direction(pipeline.encode(faces * 10) + torch.randn(10, 8, 16), torch.arange(10.0))
sam_age.save(line, "line.safetensors")
pipeline.move(faces, [70], sam_age.load("line.safetensors"), when="before")
for name in sam_age.__all__:
    getattr(sam_age, name)
"""


def modules_after(code: str, folder) -> set[str]:
    """Top-level names of all that a fresh interpreter has imported after running `code`."""
    code += "\nimport sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_no_other(tmp_path):
    after = modules_after("import sam_age", tmp_path)
    assert not after & (FOREIGN | {"torch", "numpy", "PIL", "scipy", "torchvision", "facenet_pytorch", "safetensors"})


def test_ageing_a_photo_imports_nothing_of_training_or_evaluation(tmp_path):
    after = modules_after(USE, tmp_path)
    assert {"torch", "facenet_pytorch"} <= after
    assert not after & FOREIGN


def test_importing_the_package_takes_less_than_three_tenths_of_a_second(tmp_path):
    code = "import time; start = time.perf_counter(); import sam_age; print(time.perf_counter() - start)"
    took = []
    for _ in range(3):  # the fastest: machines that test are busy
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        took.append(float(done.stdout))
    assert min(took) < 0.3


@pytest.mark.parametrize("name", sam_age.__all__)
def test_every_name_resolves_and_is_listed(name):
    assert name in dir(sam_age)
    assert getattr(sam_age, name).__name__ == name


def test_type_checkers_see_the_names_that_resolve():
    lines = Path(sam_age.__file__).read_text("utf-8").partition("if TYPE_CHECKING:")[2].partition("_HOMES")[0]
    seen = {}
    for line in lines.strip().splitlines():
        _, home, _, names = line.split(maxsplit=3)
        seen |= dict.fromkeys(names.split(", "), home)
    assert seen == sam_age._HOMES
    assert sorted(seen) == sorted(sam_age.__all__)


def test_other_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'sam_age' has no attribute 'Gan'"):
        _ = sam_age.Gan
    with pytest.raises(ImportError):
        from sam_age import Gan  # noqa: F401
