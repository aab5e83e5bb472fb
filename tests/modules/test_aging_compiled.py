"""What is compiled for training is left alone by validation."""

from __future__ import annotations

from functools import partial, partialmethod

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from sam_age.modules.aging import AgingModule
from tests.modules.test_aging import fit, loader, tiny_module


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each graph that is compiled; what is made of it is itself."""
    made: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor], options: object = None):
        made.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(AgingModule, "compiles", True)  # on a CPU, too
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return made


def test_validation_compiles_nothing(compilations: list[int]) -> None:
    module, plain = tiny_module(compiled=["encoders", "judges"]), tiny_module()
    faces = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    trainer_of_one_step = partial(
        pl.Trainer, accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer = trainer_of_one_step()
    trainer.fit(module, loader(faces, 2))
    trained = len(compilations)
    assert trained > 0
    maps = vars(module.sam.encoder)["tower_maps"]
    tower = module.sam.encoder.styles[0]._compiled_call_impl
    scores = trainer.validate(module, loader(faces, 4), verbose=False)[0]
    assert len(compilations) == trained
    assert module.sam.encoder.styles[0]._compiled_call_impl is tower is not None
    assert vars(module.sam.encoder)["tower_maps"] is maps
    plain.load_state_dict(module.state_dict())
    assert scores == pytest.approx(trainer_of_one_step().validate(plain, loader(faces, 4), verbose=False)[0])


def test_without_a_gpu_nothing_is_compiled_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    module = tiny_module(compiled=["encoders", "judges"])
    fit(module, torch.zeros(2, 3, 256, 256), steps=1)
    assert "module.compiled=[encoders, judges]: nothing is compiled" in caplog.text
    assert all(layer._compiled_call_impl is None for layer in module.modules())
