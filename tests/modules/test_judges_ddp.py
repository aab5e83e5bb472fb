"""The judges on two processes are those of one with the joined batch, and so are their scores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.modules.judges_ddp_run import main

ROOT = Path(__file__).resolve().parents[2]


def in_a_program_of_its_own(output: Path) -> None:
    command = [sys.executable, "-m", "tests.modules.judges_ddp_run", "2", str(output)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_learn_and_score_as_one(tmp_path: Path) -> None:
    main(1, str(tmp_path / "one.pt"))
    in_a_program_of_its_own(tmp_path / "two.pt")
    alone, together = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(together["weights"][name], weight, rtol=1e-4, atol=1e-5, msg=name)
    # fifteen faces: the ranks' shares differ in length
    assert {"val/age_age_spearman", "val/identity_eer", "val/identity_cosine_same"} <= set(alone["scores"])
    assert together["scores"] == pytest.approx(alone["scores"], abs=1e-3, nan_ok=True)
