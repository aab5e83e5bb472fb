"""What is compiled for training is left alone by validation."""

from __future__ import annotations

from functools import partial, partialmethod

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from tests.modules.test_aging import loader, tiny_module


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each graph that is compiled; what is made of it is itself."""
    made: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor], options: object = None):
        made.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
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
    tower = module.sam.encoder.styles[0]._compiled_call_impl
    scores = trainer.validate(module, loader(faces, 4), verbose=False)[0]
    assert len(compilations) == trained
    assert module.sam.encoder.styles[0]._compiled_call_impl is tower is not None
    plain.load_state_dict(module.state_dict())
    assert scores == pytest.approx(trainer_of_one_step().validate(plain, loader(faces, 4), verbose=False)[0])
