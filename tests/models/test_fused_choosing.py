"""Which form of a layer the fused generator takes: timed once, on a GPU that is not there."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch

from sam_age.models.ops import fir_kernel

pytest.importorskip("triton")

from sam_age.models.fused import choosing, convolutions, launch


def test_the_fastest_form_is_found_once_and_the_others_weights_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = launch.Layer(8, torch.zeros(1), torch.zeros(8), (0.25, 0.75, 0.75, 0.25))
    up = convolutions.UpConvolution(torch.randn(8, 8, 3, 3), fir_kernel((1, 3, 3, 1), 4.0), layer, torch.float32)
    milliseconds = {"transposed": 2.0, "subpixel": 1.0, "folded": 3.0}
    tried: list[str] = []

    def work(form: str) -> str:
        tried.append(form)
        up.weight(form, back=False)
        return form

    def choose(count: int) -> str:
        x = SimpleNamespace(is_cuda=True, device="a GPU", shape=(count, 8, 4, 4))
        return choosing.choose(up, x, 8, "auto", work, back=False)

    monkeypatch.setattr(choosing, "chosen", {})
    monkeypatch.setattr(choosing, "_time", lambda work: milliseconds[work()])
    monkeypatch.setattr(choosing, "capturing", lambda x: True)
    assert (choose(5), tried) == ("subpixel", [])  # nothing is timed while a graph is recorded
    monkeypatch.setattr(choosing, "capturing", lambda x: False)
    milliseconds |= {"folded": 0.5}
    assert (choose(5), choose(8), len(tried)) == ("folded", "folded", 3)
    assert list(up.weights) == [("folded", False)]
    milliseconds |= {"folded": 4.0}
    assert choose(9) == "subpixel"
    assert set(up.weights) == {("folded", False), ("subpixel", False)}  # a recording may hold the former


def test_a_form_that_fails_while_it_is_timed_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    layer = launch.Layer(8, torch.zeros(1), torch.zeros(8), (0.25, 0.75, 0.75, 0.25))
    up = convolutions.UpConvolution(torch.randn(8, 8, 3, 3), fir_kernel((1, 3, 3, 1), 4.0), layer, torch.float32)
    errors = {"transposed": torch.OutOfMemoryError("CUDA out of memory.\nMore."), "subpixel": RuntimeError("no engine")}
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(sum(x.numel() == 12345 for x in alive())))
    monkeypatch.setattr(choosing, "chosen", {})
    monkeypatch.setattr(choosing, "capturing", lambda x: False)
    monkeypatch.setattr(choosing, "_time", lambda work: work() or 1.0)
    caplog.set_level("INFO", "sam_age")

    def alive() -> list[torch.Tensor]:
        return [x for x in gc.get_objects() if type(x) is torch.Tensor]

    def work(form: str) -> None:
        made = torch.zeros(12345)
        up.weight(form, back=False)
        if form in errors:
            raise errors[form]
        del made

    x = SimpleNamespace(is_cuda=True, device="a GPU", shape=(4, 8, 4, 4))
    assert choosing.choose(up, x, 8, "auto", work, back=False) == "folded"
    assert emptied == [0]  # once, when what the failed form had made was let go
    assert list(up.weights) == [("folded", False)]
    assert [record.message for record in caplog.records if record.levelname == "INFO"] == [
        "A layer is not done the 'transposed' way: OutOfMemoryError: CUDA out of memory.",
        "A layer is not done the 'subpixel' way: RuntimeError: no engine",
    ]
    choosing.chosen.clear()
    errors["folded"] = ValueError("the last straw")
    with pytest.raises(torch.OutOfMemoryError):  # which `modules.batch_size` looks for
        choosing.choose(up, x, 8, "auto", work, back=False)
    errors["transposed"] = RuntimeError("no engine")
    with pytest.raises(RuntimeError, match="transposed, subpixel, folded") as raised:
        choosing.choose(up, x, 8, "auto", work, back=False)
    assert raised.value.__cause__ is errors["folded"]
    assert choosing.chosen == {}
