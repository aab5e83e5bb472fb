"""What makes a step cheaper does not change it."""

from __future__ import annotations

import contextlib
import copy
import pickle

import pytest
import torch
from torch import nn

from sam_age.errors import InputError
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.modules.compiling import compile_encoder, parts_to_compile
from sam_age.modules.frozen import CastForAStep, CastOnce
from sam_age.modules.recompute import recompute, recompute_what_is_compiled
from tests.modules.test_aging import fit, tiny_module

needs_half_gradients = pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="PyTorch before 2.10")


def small_encoder() -> GradualStyleEncoder:
    torch.manual_seed(0)
    sizes = {"style_dim": 8, "widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "tower_width": 8, "image_size": 32}
    return GradualStyleEncoder(3, 8, **sizes)


def test_weights_cast_once_are_autocasts_to_the_bit_and_leave_no_trace() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))
    network.requires_grad_(False).eval()
    learns = nn.Linear(4, 4)
    kept = {name: x.clone() for name, x in network.state_dict().items()}
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    cast = CastOnce((network, learns, None), torch.bfloat16)
    assert len(cast.parameters) == 4  # not the normalisation's, nor those that learn
    found = []
    with torch.autocast("cpu", torch.bfloat16):
        for used in (False, True):
            with cast.in_use() if used else torch.enable_grad():
                y = learns(network(x))
                found.append((y, *torch.autograd.grad(y.float().square().sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    with pytest.raises(KeyError), cast.in_use():
        raise KeyError
    after = network.state_dict()
    assert all(torch.equal(kept[name], after[name]) and kept[name].dtype == after[name].dtype for name in kept)


@pytest.mark.parametrize("halves", [False, pytest.param(True, marks=needs_half_gradients)])
def test_weights_that_learn_cast_for_a_step_leave_autocasts_gradients(halves: bool) -> None:
    """Of one pass to the bit, also where gradients lay already; of two their sum, rounded to the copies' type."""
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4), nn.Linear(4, 4))
    plain[4].requires_grad_(False)
    casting = copy.deepcopy(plain)
    kept = list(casting.parameters())
    cast = CastForAStep(casting, torch.bfloat16, halves=halves)
    assert len(cast.weights) == 4  # not the normalisation's, nor the frozen ones
    batches = [torch.randn(2, 3, 8, 8) for _ in range(2)]
    for passes in (1, 2, 1):
        with torch.autocast("cpu", torch.bfloat16):
            for network in (plain, casting):
                lying = [p.grad for p in network.parameters() if p.grad is not None]
                for gradient in lying:
                    gradient.zero_()  # as `Graphed` begins
                with cast.in_use() if network is casting else torch.enable_grad():
                    for batch in batches[:passes]:
                        network(batch).float().square().sum().backward()
                        cast.set_aside()
                left = [p.grad for p in network.parameters() if p.grad is not None]
                assert all(grad is before for grad, before in zip(left, lying, strict=False))
        for mine, theirs in zip(casting.parameters(), plain.parameters(), strict=True):
            assert (mine.grad is None) == (theirs.grad is None)
            if mine.grad is None:
                continue
            half = halves and any(mine is weight for weight in cast.weights)
            assert mine.grad.dtype == (torch.bfloat16 if half else torch.float32)
            if passes == 1:
                assert torch.equal(mine.grad.float(), theirs.grad)
            else:
                near = 2**-7 * theirs.grad.abs().max().item()
                torch.testing.assert_close(mine.grad.float(), theirs.grad, rtol=2**-6, atol=near)
        assert all(mine is before for mine, before in zip(casting.parameters(), kept, strict=True))
    casting.zero_grad()

    def failing_step() -> None:
        with cast.in_use(), torch.autocast("cpu", torch.bfloat16):
            casting(batches[0]).float().square().sum().backward()
            raise KeyError

    with pytest.raises(KeyError):
        failing_step()
    assert all(mine is before for mine, before in zip(casting.parameters(), kept, strict=True))
    with torch.no_grad():
        kept[0].zero_()
    with cast.in_use():  # the copies are of the weights as they are now
        assert not casting[0].weight.any()
    assert all(weight.grad is None for weight in cast.weights)  # nothing of the step that failed
    cast.end()
    casting(batches[0]).sum().backward()
    assert all(weight.grad.dtype == torch.float32 for weight in cast.weights)


@pytest.mark.parametrize("autocast", [False, True])
def test_recomputed_units_give_the_same_gradients_and_count_a_batch_once(autocast: bool) -> None:
    plain = small_encoder().train()
    saving = copy.deepcopy(plain)
    recompute(saving.body)
    x = torch.randn(4, 3, 32, 32)
    kept = []
    for encoder in (plain, saving):
        sizes: list[int] = []
        pack = lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1]  # noqa: E731
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                y = encoder(x)
            y.float().square().sum().backward()
        kept.append(sum(sizes))
    for (name, mine), (_, other) in zip(saving.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad), name
    ours, theirs = saving.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)  # running statistics among them
    assert kept[1] < 0.6 * kept[0]


def test_a_run_with_recomputed_units_is_the_plain_one() -> None:
    faces = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ends = []
    for recomputed in (False, True):
        module = tiny_module(recomputed=recomputed, ema_decay=0.9)
        fit(module, faces, steps=2)
        ends.append(module.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_what_to_compile_is_checked() -> None:
    assert parts_to_compile(True) == ("generator",)
    assert parts_to_compile(False) == ()
    assert parts_to_compile("judges") == ("judges",)
    with pytest.raises(InputError, match=r"module\.compiled is true, false or some of"):
        parts_to_compile(["decoder"])


def test_a_compiled_encoder_keeps_less_where_it_is_told_to() -> None:
    """The partition of forward and backward that torch.compile makes, without the code that it makes of them."""
    plain = small_encoder().double().train()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    kept, gradients = [], []
    for recomputed in (None, False, True):
        encoder = copy.deepcopy(plain)
        if recomputed is not None:
            torch.compiler.reset()
            encoder.tower_maps = torch.compile(encoder.tower_maps, backend="aot_eager_decomp_partition", dynamic=False)
        sizes: list[int] = []
        pack = lambda t, sizes=sizes: (sizes.append(t.numel() * (t.ndim == 4)), t)[1]  # noqa: E731
        with (
            recompute_what_is_compiled() if recomputed else contextlib.nullcontext(),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        ):
            y = encoder.tower_maps(x)
        sum(part.square().sum() for part in y).backward()
        kept.append(sum(sizes))
        gradients.append([p.grad for p in encoder.input_layer.parameters()] + [*encoder.body.buffers()])
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])  # running statistics, which moved once, among them
    assert kept[2] < 0.8 * kept[1]


def test_a_copy_of_a_compiled_encoder_computes_with_its_own_weights() -> None:
    encoder = small_encoder().eval()
    compile_encoder(encoder, backend="eager")
    copied = copy.deepcopy(encoder)
    for parameter in copied.parameters():
        nn.init.zeros_(parameter)
    assert not copied(torch.randn(1, 3, 32, 32)).any()
    pickle.dumps(encoder)


@needs_half_gradients
def test_gradients_in_half_precision_of_a_run_that_was_broken_off_are_dropped() -> None:
    module = tiny_module()
    module.learning = CastForAStep(module.sam.encoder, torch.bfloat16, halves=True)
    with module.learning.in_use(), torch.autocast("cpu", torch.bfloat16):
        module.sam.encoder(torch.randn(2, 4, 256, 256)).sum().backward()
    assert module.learning.weights[0].grad.dtype == torch.bfloat16
    fit(module, torch.rand(2, 3, 256, 256), steps=1)
    assert module.learning is None
    assert all(p.grad.dtype == p.grad_dtype == torch.float32 for p in module.sam.encoder.parameters())
