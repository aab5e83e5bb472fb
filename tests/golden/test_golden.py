"""The golden reader itself: the numbers it regenerates are the ones the set was made with."""

import numpy as np
import pytest
import torch

from tests.golden import Golden, assert_matches, fill, fill_module, manifest, state_dict

GOLDEN = Golden()


def test_numpy_here_draws_the_numbers_of_the_set():
    assert GOLDEN.random_numbers_agree()  # SHA-256 stored with the set
    first = fill({"selftest": (1000, 1000)})  # the plain rule only scales
    ratio = first["selftest"].flatten()[:4].numpy() / np.array(GOLDEN.index["selftest"]["normal"])
    np.testing.assert_allclose(ratio, np.sqrt(2 / 1000), rtol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_case_has_its_inputs_and_outputs(name):
    case = GOLDEN[name]
    assert all(np.isfinite(x).all() for x in case.inputs().values())
    whole = {n: case.expected(n) for n, spec in case.outputs.items() if "store" not in spec}
    if whole:
        assert_matches(case, whole)


def test_a_wrong_number_is_named_with_its_error_and_tolerance():
    case = GOLDEN["w_norm"]
    with pytest.raises(AssertionError, match=r"OFF offset: error 0\.[0-9]+, allowed 1e-05"):
        assert_matches(case, {"offset": case.expected("offset") * 1.01})
    with pytest.raises(AssertionError, match="shape"):
        assert_matches(case, {"offset": np.zeros((2,))})


def test_fill_module_uses_the_names_of_the_file_and_keeps_what_must_be_kept():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    shapes = {f"encoder.{name}": tuple(t.shape) for name, t in module.state_dict().items()}
    expected = fill(shapes)
    fill_module(module, prefix="encoder.")
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert tensor == 0
        else:
            assert torch.equal(tensor, expected[f"encoder.{name}"]), name


@pytest.mark.parametrize(
    ("name", "part"),
    [("sam64", "state_dict"), ("stylegan2_ffhq_config_f", "g_ema"), ("model_ir_se50", "state_dict")],
)
def test_state_dict_has_every_name_shape_and_kind_of_the_official_file(name, part):
    shapes = {k: v for k, v in manifest(name)[part].items() if np.prod(v[0]) < 1e5}
    made = state_dict(shapes)
    assert {k: [list(t.shape), str(t.dtype).removeprefix("torch.")] for k, t in made.items()} == shapes
