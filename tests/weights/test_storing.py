"""Our own files: they rebuild the network by themselves, and are written whole or not at all."""

import json

import pytest
import torch
from safetensors import safe_open

from sam_age import weights
from sam_age.errors import InputError
from sam_age.models.age import AgeClassifier
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.identity import FaceEmbedder
from sam_age.models.stylegan2 import Discriminator
from tests.weights import files


def stored(path):
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "make",
    [
        files.tiny_sam,
        files.tiny_psp,
        files.tiny_generator,
        lambda: files.tiny_encoder(3),
        lambda: Discriminator(32, 0.0625, 16),
        lambda: FaceEmbedder(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), embedding_dim=8),
        lambda: AgeClassifier(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
    ],
)
def test_a_file_alone_rebuilds_its_network(tmp_path, make):
    torch.manual_seed(0)
    network = make()
    if hasattr(network, "latent_avg"):
        network.latent_avg.normal_()
    loaded = weights.load(weights.save(network, tmp_path / "x.safetensors"))
    assert type(loaded) is type(network)
    assert loaded.config == network.config
    assert not loaded.training
    own = network.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, own[name]) or name.endswith("num_batches_tracked"), name
    if hasattr(network, "latent_avg"):
        assert torch.equal(loaded.latent_avg, network.latent_avg)


def test_two_trunk_blocks_of_one_width_are_rebuilt_from_the_metadata(tmp_path):
    """Shapes alone cannot tell where such a block ends."""
    encoder = GradualStyleEncoder(3, 8, 16, widths=(8, 8, 16, 16), depths=(1, 2, 3, 1), tower_width=16)
    assert weights.load(weights.save(encoder, tmp_path / "x.safetensors")).config == encoder.config


def test_the_metadata_say_what_the_file_is(tmp_path):
    model = files.tiny_sam()
    metadata, tensors = stored(weights.save(model, tmp_path / "x.safetensors", facts={"converted_from": "a.pt"}))
    assert metadata["format"] == "sam-age/1"
    assert metadata["kind"] == "SAM"
    assert json.loads(metadata["config"]) == model.config
    assert metadata["converted_from"] == "a.pt"
    assert not any(name.endswith((".kernel", "num_batches_tracked")) for name in tensors)


def test_half_precision_narrows_matrices_and_keeps_vectors(tmp_path):
    model = files.tiny_sam()
    path = weights.save(model, tmp_path / "x.safetensors", half=True)
    _, tensors = stored(path)
    exact = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert exact == {name for name, tensor in tensors.items() if tensor.ndim < 2} | {"latent_avg"}
    loaded = weights.load(path)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} <= {torch.float32, torch.int64}
    faces = torch.rand(1, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        images, narrowed = (m(faces, torch.tensor([40.0]), resize=False) for m in (model, loaded))
    assert 0 < (narrowed - images).abs().max() < 0.01 * images.abs().max()


def test_numbers_beyond_half_precision_stay_as_they_are(tmp_path):
    generator = files.tiny_generator()
    with torch.no_grad():
        generator.style[1].weight[0, 0] = 1e6
    loaded = weights.load(weights.save(generator, tmp_path / "x.safetensors", half=True))
    assert torch.equal(loaded.style[1].weight, generator.style[1].weight)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = weights.save(files.tiny_generator(), tmp_path / "x.safetensors")
    before = path.read_bytes()

    def full_disk(tensors, filename, metadata):
        filename.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sam_age.weights.storing.save_file", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        weights.save(files.tiny_generator(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_network_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match="Linear has no config"):
        weights.save(torch.nn.Linear(2, 2), tmp_path / "x.safetensors")
