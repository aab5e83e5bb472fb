"""ONNX graphs: the same numbers in onnxruntime, for any batch, without this package."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch

from sam_age import weights
from sam_age.cli.weights import main
from sam_age.errors import InputError
from sam_age.export import TOLERANCE, export_onnx
from sam_age.models.sam import SAM
from tests.modules.test_aging import tiny_sam

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def sam() -> SAM:
    sam = tiny_sam().eval()
    with torch.no_grad():
        for name, parameter in sam.decoder.named_parameters():
            if name.endswith("noise.weight"):
                parameter.fill_(0.3)  # drawn as 0, which would hide the noise
    return sam


@pytest.fixture(scope="module")
def file(sam, tmp_path_factory):
    return weights.save(sam, tmp_path_factory.mktemp("onnx") / "sam.safetensors")


@pytest.fixture(scope="module")
def folder(file):
    """Both graphs, by the command line: tracing the encoder takes ten seconds."""
    folder, made = file.parent / "new", {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sam_age.export.export_onnx", lambda *given: made.update(export_onnx(*given)))
        assert main(["onnx", str(file), str(folder)]) == 0
    assert {name: each.path for name, each in made.items()} == {
        name: folder / f"{name}.onnx" for name in ("encoder", "generator")
    }
    assert all(each.difference <= TOLERANCE for each in made.values())
    assert all(each.bytes == each.path.stat().st_size for each in made.values())
    return folder


def run(path, **inputs):
    return onnxruntime.InferenceSession(str(path)).run(None, inputs)[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_face_and_an_age_give_the_picture_that_the_model_gives(sam, folder, count):
    rng = np.random.default_rng(count)
    faces = rng.uniform(-1, 1, (count, 3, 256, 256)).astype(np.float32)
    ages = rng.uniform(0, 100, count).astype(np.float32)
    codes = run(folder / "encoder.onnx", faces=faces, age=ages)
    image = run(folder / "generator.onnx", w_plus=codes)
    with torch.no_grad():
        wanted, w_plus = sam(torch.from_numpy(faces), torch.from_numpy(ages), resize=False, return_latents=True)
    np.testing.assert_allclose(codes, w_plus, atol=1e-3)
    np.testing.assert_allclose(image, wanted, atol=1e-3)


def test_the_graph_says_what_it_takes_and_nothing_of_this_machine(folder):
    for name in ("encoder", "generator"):
        model = onnx.load(folder / f"{name}.onnx")
        onnx.checker.check_model(model)
        assert model.producer_name == "sam-age"
        assert "[-1, 1]" in model.doc_string
        assert all(put.type.tensor_type.shape.dim[0].dim_param for put in (*model.graph.input, *model.graph.output))
        assert b"site-packages" not in model.SerializeToString()


def test_the_command_writes_both_graphs_and_replaces_none_unasked(sam, file, folder, tmp_path, capsys):
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.onnx", "generator.onnx"]
    assert main(["onnx", str(file), str(folder)]) == 2
    assert "encoder.onnx exists: add --overwrite" in capsys.readouterr().err
    weights.save(sam.decoder, tmp_path / "generator.safetensors")
    assert main(["onnx", str(tmp_path / "generator.safetensors"), str(tmp_path / "other")]) == 2
    assert "holds Generator" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_large_weights_lie_beside_the_graph(sam, tmp_path, monkeypatch):
    monkeypatch.setattr("sam_age.export.LARGEST_WHOLE", 0)
    made = export_onnx(sam, tmp_path, parts=["generator"])
    assert set(made) == {"generator"}
    assert made["generator"].path == tmp_path / "generator.onnx"
    assert made["generator"].difference <= TOLERANCE
    names = ["generator.onnx", "generator.onnx.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert made["generator"].bytes == sum((tmp_path / name).stat().st_size for name in names)
    codes = torch.randn(2, 8, 16)
    with torch.no_grad():
        wanted = sam.decoder.synthesize(codes)
    np.testing.assert_allclose(run(tmp_path / "generator.onnx", w_plus=codes.numpy()), wanted, atol=1e-3)


def test_a_graph_that_differs_is_not_left_behind(sam, folder, tmp_path, monkeypatch):
    def traced(network, inputs, output, path, said):
        shutil.copy(folder / path.name, path)

    monkeypatch.setattr("sam_age.export._trace", traced)
    monkeypatch.setattr("sam_age.export.TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="differs from PyTorch"):
        export_onnx(sam, tmp_path, parts=["generator"])
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_what_to_install(sam, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else found(name, *a))
    with pytest.raises(InputError, match=r"needs onnxscript: pip install 'sam-age\[onnx\]'"):
        export_onnx(sam, tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(sam, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        export_onnx(sam, tmp_path / "file" / "folder")
