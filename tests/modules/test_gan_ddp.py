"""A GAN on two processes: both keep the same weights, by gradients that are the mean of both."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def test_two_processes_share_gradients_and_keep_the_same_weights(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "tests.modules.gan_ddp_run", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["steps"] == two["steps"] == 3
    assert len(one["exchanged"]) == 3 + 2 + 3 + 2  # both losses, R1 and path lengths at steps 0 and 2
    for (mine, after), (theirs, too) in zip(one["exchanged"], two["exchanged"], strict=True):
        assert not torch.equal(mine, theirs)  # other faces, codes and noise
        torch.testing.assert_close(after, (mine + theirs) / 2)
        assert torch.equal(after, too)
    for name, tensor in one["state"].items():
        assert torch.equal(tensor, two["state"][name]), name
    assert one["state"]["progress.images"] == 12
    assert torch.equal(one["kid"], two["kid"])
