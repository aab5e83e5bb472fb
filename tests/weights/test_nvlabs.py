"""NVlabs' pickles: the same images as their arithmetic gives, and nothing in the file is run."""

import os
import pickle
from collections import OrderedDict

import pytest
import torch

from sam_age import weights
from sam_age.errors import InputError
from tests.weights.nvlabs_model import Generator, pickled


@pytest.fixture
def theirs() -> Generator:
    torch.manual_seed(0)
    return Generator()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_images_and_codes_agree_with_nvlabs_arithmetic_in_float64(tmp_path, theirs, protocol):
    """1e-7: their 1e-8 in demodulation stands beside an unscaled sum, ours beside a scaled one."""
    ours = weights.load(pickled(theirs, tmp_path / "network.pkl", protocol)).double()
    exact = theirs.double()
    z, ws = torch.randn(2, 24, dtype=torch.float64), torch.randn(2, 8, 24, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.mapping(z), exact.mapping(z), rtol=1e-9, atol=1e-9)
        images = exact.synthesis(ws)
        torch.testing.assert_close(ours.synthesize(ws), images, rtol=0, atol=1e-7 * images.abs().max().item())
    assert torch.equal(ours.latent_avg, exact.mapping.w_avg)


def test_the_mappings_learning_rate_multiplier_is_read_from_the_file(tmp_path):
    torch.manual_seed(1)
    theirs = Generator(layers=2, lr_multiplier=0.1)
    ours = weights.load(pickled(theirs, tmp_path / "network.pkl"))
    z = torch.randn(3, 24)
    with torch.no_grad():
        torch.testing.assert_close(ours.mapping(z), theirs.mapping(z), rtol=1e-4, atol=1e-5)


def test_the_converted_file_gives_the_same_images(tmp_path, theirs):
    ours = weights.load(pickled(theirs, tmp_path / "network.pkl"))
    again = weights.load(weights.save(ours, tmp_path / "x.safetensors"))
    ws = torch.randn(1, 8, 24)
    with torch.no_grad():
        assert torch.equal(ours.synthesize(ws), again.synthesize(ws))
    assert torch.equal(ours.latent_avg, again.latent_avg)


class Attack:
    """Runs a shell command when unpickled freely."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, theirs):
    target = tmp_path / "made-by-the-pickle"
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Attack(str(target))}))
    with pytest.raises(InputError, match=r"needs (posix|nt)\.mkdir.*would run code.*refused") as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    pickled(theirs, path, augment_pipe=Attack(str(target)))  # hidden beside a good generator
    with pytest.raises(InputError, match="would run code"):
        weights.load(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Attack(str(target))))
    assert target.exists()  # the attack is a real one


@pytest.mark.parametrize("name", [b"builtins\neval", b"builtins\ngetattr", b"os\nsystem", b"torch\nload"])
def test_dangerous_names_are_refused(tmp_path, name):
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"\x80\x03c" + name + b"\n.")
    with pytest.raises(InputError, match="would run code"):
        weights.load(path)


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"\x80\x03", "damaged pickle"),
        (b"\x80\x03}q\x00.", "without a G_ema"),
        (b"\x80\x03K\x01.", "without a G_ema"),
        (b"\x80\x03cdnnlib.tflib.network\nNetwork\n.", "TensorFlow pickle"),
        (
            b"\x80\x03}X\x05\x00\x00\x00G_emactorch_utils.persistence\n_reconstruct_persistent_obj\n)\x81s.",
            "not a",
        ),
        (b"\x80\x03ctorch.storage\n_load_from_bytes\nC\x03abc\x85R.", "without a G_ema"),
        (b"\x80\x03X\x01\x00\x00\x00aQ.", "persistent id"),
    ],
)
def test_other_pickles_end_in_one_line(tmp_path, stream, why):
    path = tmp_path / "bad.pkl"
    path.write_bytes(stream)
    with pytest.raises(InputError, match=why) as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_pickle_is_called_damaged(tmp_path, theirs):
    path = pickled(theirs, tmp_path / "network.pkl")
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match="damaged pickle"):
            weights.load(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda g: setattr(g, "c_dim", 10), "class-conditional"),
        (lambda g: setattr(g.synthesis.b4, "architecture", "resnet"), "architecture 'resnet'"),
        (lambda g: setattr(g.synthesis.b4, "img_channels", 1), "img_channels 1"),
        (lambda g: g.mapping.add_module("embed", torch.nn.Identity()), None),
        (lambda g: g.synthesis.b8.register_buffer("odd", torch.ones(1)), "synthesis.b8.odd"),
        (lambda g: g.synthesis._modules.pop("b32"), None),
        (lambda g: g.synthesis.b8._modules.pop("conv1"), "convs.1.conv.weight"),
        (lambda g: setattr(g.synthesis, "_modules", OrderedDict(L0_36_512=g.mapping)), "StyleGAN3"),
    ],
)
def test_generators_that_ours_cannot_be_are_named(tmp_path, theirs, change, why):
    change(theirs)
    path = pickled(theirs, tmp_path / "network.pkl")
    if why is None:  # an inert addition, or a smaller generator: fine
        assert weights.load(path).size in (16, 32)
        return
    with pytest.raises(InputError, match=why):
        weights.load(path)


def test_activation_clamps_are_mentioned(tmp_path, theirs, caplog):
    theirs.synthesis.b4.conv1.conv_clamp = 256
    with caplog.at_level("INFO", "sam_age"):
        weights.load(pickled(theirs, tmp_path / "network.pkl"))
    assert "clamped to +-256" in caplog.text
