"""A `sam-*` command in this process, without the seconds that a process of its own takes to import torch."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig


def inside(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    """What `sam-<name>` prints and leaves with, run in a folder: `tests.cli.test_train.run` as one call of main()."""
    out, err, root = io.StringIO(), io.StringIO(), logging.getLogger()
    level, code = root.level, 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [f"sam-{name}", *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "1")  # as the command itself sets it, for good
        patch.setattr(root, "handlers", [])  # pytest's would keep what is logged from stderr
        try:
            importlib.import_module(f"sam_age.cli.{name}").main()
        except SystemExit as stop:
            code = stop.code
        finally:
            root.setLevel(level)
            HydraConfig.instance().cfg = None  # Lightning would start further processes with this command
    return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), err.getvalue())
