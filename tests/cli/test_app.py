"""What commands say while they work."""

from __future__ import annotations

import logging
import sys

import pytest
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from tqdm import tqdm

from sam_age.cli.app import AboveBars


class Terminal:
    """One of the two streams that a screen shows."""

    def __init__(self, screen: list[str]) -> None:
        self.screen = screen

    def write(self, text: str) -> None:
        self.screen.append(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("kind", [tqdm, Tqdm])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_is_said_has_a_line_of_its_own_above_a_bar(
    monkeypatch: pytest.MonkeyPatch, kind: type[tqdm], stream: str
) -> None:
    screen: list[str] = []
    monkeypatch.setattr(sys, "stdout", Terminal(screen))
    monkeypatch.setattr(sys, "stderr", Terminal(screen))
    with kind(total=2, file=getattr(sys, stream), mininterval=0) as bar:
        bar.update()
        AboveBars().handle(logging.makeLogRecord({"msg": "A picture was left out."}))
        bar.update()
    lines = "".join(screen).replace("\r", "\n").splitlines()
    assert "A picture was left out." in lines
    assert any("2/2" in line for line in lines)
