"""What commands say while they work."""

from __future__ import annotations

import logging
import sys

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from tqdm import tqdm

from sam_age.cli.app import hydra_app


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
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type[tqdm], stream: str
) -> None:
    def work(cfg: DictConfig) -> None:
        with kind(total=2, file=getattr(sys, stream), mininterval=0) as bar:
            bar.update()
            logging.getLogger("sam_age").info("A picture was left out.")
            bar.update()

    screen: list[str] = []
    caplog.set_level(logging.INFO)  # which the command sets for good, and this until the test ends
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's would keep what is logged from stderr
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["sam-infer", "input=x", "output=y"])
    monkeypatch.setattr(sys, "stdout", Terminal(screen))
    monkeypatch.setattr(sys, "stderr", Terminal(screen))
    hydra_app("infer", work)()
    lines = "".join(screen).replace("\r", "\n").splitlines()
    assert "A picture was left out." in lines
    assert any("2/2" in line for line in lines)
