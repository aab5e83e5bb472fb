"""Parts on streams of their own: the same numbers and gradients, and streams that wait for each other."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.side_by_side import begin, shares, side_by_side, streams
from tests.modules.test_aging import tiny_module

TINY = {"style_dim": 16, "widths": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "tower_width": 8, "image_size": 64}


class Streams:
    """CUDA's streams, where there are none: writes down what runs on which, and who waits for whom."""

    def __init__(self, count: int) -> None:
        self.told: list[tuple[str, str]] = []
        self.made = [self.stream(str(number)) for number in range(count)]
        self.current = self.stream("here")

    def stream(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.told.append((name, other.name)))

    @contextlib.contextmanager
    def on(self, stream: SimpleNamespace) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Streams:
    made = Streams(3)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: made.current)
    monkeypatch.setattr(torch.cuda, "stream", made.on)
    return made


def test_numbers_and_gradients_are_those_of_one_after_the_other(three: Streams) -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
    twins = copy.deepcopy(layers)
    x, constant = torch.randn(3, 5), torch.randn(3, 5)

    def found(of: nn.ModuleList, some: list[SimpleNamespace]) -> tuple[Tensor, Tensor]:
        own = x.clone().requires_grad_()
        parts = [
            lambda x, y: of[0](x) + y,
            lambda x, y: [of[1](x).relu(), y.square(), of[2](x)],  # a list; the second of it takes no gradient
            lambda x, y: of[3](x.detach()) + x,
        ]
        with streams(some):
            first, (second, square, _), third = side_by_side(parts, own.tanh(), constant)
        assert not square.requires_grad
        loss = (first * second).sum() + third.square().sum() + square.sum()
        loss.backward()
        return loss.detach(), own.grad

    for got, wanted in zip(found(layers, three.made), found(twins, []), strict=True):
        torch.testing.assert_close(got, wanted)
    for mine, theirs in zip(layers.parameters(), twins.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad)


def test_streams_begin_and_end_with_the_current_one_both_ways(three: Streams) -> None:
    seen: list[str] = []

    def part(x: Tensor) -> Tensor:
        seen.append(three.current.name)
        x.register_hook(lambda _: seen.append(f"back {three.current.name}"))
        return 2 * x

    x = torch.ones(2, requires_grad=True)
    with streams(three.made):
        assert shares() == 4
        made = side_by_side([part] * 5, x)
        fork = [(name, "here") for name in "012"]
        join = [("here", name) for name in "012"]
        assert three.told == fork + join
        sum(made).sum().backward()
        assert three.told == 2 * (fork + join)
        assert seen == ["here", "0", "1", "2", "here", *(f"back {name}" for name in ("here", "0", "1", "2", "here"))]
        assert x.grad.tolist() == [10.0, 10.0]
        three.told.clear()
        result = begin(lambda: (seen.append(three.current.name), shares())[1])
        assert three.told == [("2", "here")]
        assert shares() == 3  # the last one is taken
        assert result() == 1  # what has begun divides nothing further
        assert three.told[1:] == [("here", "2")]
        assert seen[-1] == "2"
        assert shares() == 4
    assert shares() == 1


def test_what_goes_wrong_is_refused_and_leaves_streams_joined(three: Streams) -> None:
    x = torch.ones(2, requires_grad=True)
    with streams(three.made):
        with pytest.raises(KeyError):
            side_by_side([lambda x: x, lambda x: {}[0], lambda x: x], x)
        assert three.told[-2:] == [("here", "0"), ("here", "1")]
        made = sum(side_by_side([lambda x: x * x, lambda x: x**3], x)).sum()
        with pytest.raises(RuntimeError, match="no gradients of gradients"):
            torch.autograd.grad(made, x, create_graph=True)
        made.backward(retain_graph=True)
        assert x.grad.tolist() == [5.0, 5.0]
        with pytest.raises(RuntimeError, match="goes back once"):
            made.backward()
        first, second = begin(lambda: x), begin(lambda: 2 * x)
        with pytest.raises(RuntimeError, match="asked for first"):
            first()
        assert not second().requires_grad
        first()
        assert shares() == 4
        late = begin(lambda: x)
    with pytest.raises(RuntimeError, match="within `streams`"):
        late()
    assert shares() == 1


def test_what_has_begun_is_made_once() -> None:
    made = []
    result = begin(lambda: made.append(0) or torch.ones(1))
    assert result() is result()
    assert made == [0]


def test_an_encoders_styles_come_in_their_order(three: Streams) -> None:
    torch.manual_seed(1)
    encoder = GradualStyleEncoder(3, 14, **TINY).eval()
    faces = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = encoder(faces)
        with streams(three.made):
            assert torch.equal(encoder(faces), wanted)
    assert three.told


def test_a_step_of_sam_is_the_same(three: Streams) -> None:
    """Losses, and the gradients that both ways leave in the age encoder."""
    faces = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = []
    for some in ([], three.made):
        module = tiny_module()
        module._trainer = SimpleNamespace(world_size=1, strategy=SimpleNamespace(model=module))
        module.manual_backward = lambda loss: loss.backward()
        module.side_streams = some
        torch.manual_seed(2)
        total, terms = module.step_gradients(faces, torch.tensor([20.0, 70.0]), aging=True)
        found.append([total, *terms.values(), *(p.grad for p in module.sam.encoder.parameters())])
    assert three.told
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
