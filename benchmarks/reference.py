"""The authors' own code, timed where ours is: from a checkout of theirs that the user has.

    git clone https://github.com/yuval-alaluf/SAM                   and what its README says must be installed
    python -m benchmarks.reference SAM step --batch 6               a training step, the paper's configuration
    python -m benchmarks.reference SAM inference --batch 4 --ages 11

Nothing of it comes with this package. It needs a GPU and CUDA's compiler, as it builds two operations when it is
imported. Its code runs as it is; its files of weights are made up, in the formats it reads, so nothing is fetched.
`sam-bench step --reference SAM` and `sam-bench inference --reference SAM` run this beside ours. JSON goes to stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.measure import in_own_process, spread

MODULE = "benchmarks.reference"
LATER = 10**9  # an interval that no run reaches
PAPER = {  # options of the paper's run
    "id_lambda": 0.1, "lpips_lambda": 0.1, "lpips_lambda_aging": 0.1, "lpips_lambda_crop": 0.6, "l2_lambda": 0.25,
    "l2_lambda_aging": 0.25, "l2_lambda_crop": 1.0, "w_norm_lambda": 0.005, "aging_lambda": 5.0, "cycle_lambda": 1.0,
    "use_weighted_id_loss": True, "target_age": "uniform_random", "learning_rate": 1e-4, "optim_name": "ranger",
    "train_decoder": False, "start_from_encoded_w_plus": True, "start_from_latent_avg": False, "input_nc": 4,
    "label_nc": 0, "dataset_type": "ffhq_aging", "workers": 0, "test_workers": 0, "test_batch_size": 2,
    "image_interval": LATER, "board_interval": LATER, "val_interval": LATER, "save_interval": LATER,
}  # fmt: skip
FIRST_STEP = 1001  # up to the thousandth it draws a figure every 25 steps


def main() -> None:
    given = _parser().parse_args()
    checkout = given.checkout.resolve()
    if not (checkout / "models/psp.py").is_file():
        raise SystemExit(f"reference: {checkout} holds no models/psp.py: give a checkout of the authors' repository.")
    with tempfile.TemporaryDirectory(prefix="sam-age-") as folder, on_the_path(checkout):
        print(json.dumps({"step": step, "inference": inference}[given.what](given, Path(folder))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of the authors' repository")
    parser.add_argument("what", choices=("step", "inference"))
    parser.add_argument("--batch", type=int, default=6, help="faces a step, or at once")
    parser.add_argument("--ages", type=int, default=11, help="of each face, for inference")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps, or passes over all ages")
    parser.add_argument("--warmup", type=int, default=3, help="untimed ones before")
    parser.add_argument("--size", default="1024", help="conf/model/sam_<size>.yaml")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    return parser


def timed(checkout: Path, what: str, *options: str, threads: int) -> dict[str, Any]:
    """`main` in a process of its own: what it measured."""
    return in_own_process(MODULE, [str(checkout), what, *options], threads)


@contextlib.contextmanager
def on_the_path(checkout: Path) -> Iterator[None]:
    """Its packages have plain names (models, configs): first in line while it is used."""
    sys.path.insert(0, str(checkout))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))


# ---- what it measures ------------------------------------------------------------------------------------------------


class _Done(Exception):  # noqa: N818 no error: the way out of a loop that is not ours
    pass


def step(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of whole iterations of its training loop, from one optimizer step to the next."""
    files = write_weights(folder, given.size)
    importlib.import_module("configs.paths_config").model_paths.update(files)
    coaches = importlib.import_module("training.coach_aging")
    faces = torch.rand(3, 256, 256) * 2 - 1

    class Coach(coaches.Coach):
        def configure_datasets(self) -> tuple[list, list]:
            pairs = [(faces, faces)] * (given.batch * (given.warmup + given.repeats + 1))
            return pairs, pairs

    steps = FIRST_STEP + given.warmup + given.repeats + 1
    options = options_of(files["sam"], given) | {"exp_dir": str(folder / "run"), "max_steps": steps}
    with without_downloads():
        coach = Coach(Namespace(**options))
    coach.global_step = FIRST_STEP
    marks: list[float] = []
    apply = coach.optimizer.step

    def mark(*args: Any, **kwargs: Any) -> Any:
        result = apply(*args, **kwargs)
        marks.append(now(given.device))
        if len(marks) == given.warmup + 1:
            reset_peaks(given.device)
        if len(marks) > given.warmup + given.repeats:
            raise _Done
        return result

    coach.optimizer.step = mark
    with contextlib.suppress(_Done), contextlib.redirect_stdout(sys.stderr):
        coach.train()
    seconds = [after - before for before, after in pairwise(marks)][-given.repeats :]
    return {
        "step_seconds": spread(seconds),
        "images_per_second": given.batch * len(seconds) / sum(seconds),
        **peaks(given.device),
    }


def inference(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of a batch of faces at all ages, one age after the other as its scripts do it; results stay there."""
    files = write_weights(folder, given.size, losses=False)
    options = Namespace(**options_of(files["sam"], given))
    with contextlib.redirect_stdout(sys.stderr):
        net = importlib.import_module("models.psp").pSp(options).eval().to(given.device)
    faces = torch.rand(given.batch, 3, 256, 256, device=given.device) * 2 - 1
    channels = [torch.full_like(faces[:, :1], age / 100) for age in torch.linspace(0, 100, given.ages).tolist()]

    def work() -> None:
        for channel in channels:
            net(torch.cat([faces, channel], 1), randomize_noise=False, resize=False)

    seconds = []
    with torch.no_grad():
        for number in range(given.warmup + given.repeats):
            if number == given.warmup:
                reset_peaks(given.device)
            before = now(given.device)
            work()
            seconds.append(now(given.device) - before)
    seconds = seconds[given.warmup :]
    return {
        "seconds": spread(seconds),
        "outputs_per_second": given.batch * given.ages * len(seconds) / sum(seconds),
        **peaks(given.device),
    }


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peaks(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peaks(device: str) -> dict[str, int | None]:
    """Most memory of the timed part, bytes."""
    cuda = device == "cuda"
    return {
        "memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "memory_reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
    }


# ---- what it needs ---------------------------------------------------------------------------------------------------


def options_of(checkpoint: str, given: argparse.Namespace) -> dict[str, Any]:
    """As its command line would have parsed them."""
    made = torch.load(checkpoint, map_location="meta", weights_only=True)["opts"]
    return PAPER | {
        "checkpoint_path": checkpoint,
        "output_size": made["output_size"],
        "device": given.device,
        "batch_size": given.batch,
    }


def write_weights(folder: Path, size: str, losses: bool = True) -> dict[str, str]:
    """Made-up weights in files of its formats: name in its table of paths -> file."""
    from benchmarks.networks import random_losses, random_sam

    sam = random_sam(size)
    state: dict[str, Tensor] = {name: value for name, value in sam.state_dict().items() if name != "latent_avg"}
    contents = {"sam": {"state_dict": state, "latent_avg": sam.latent_avg, "opts": {"output_size": sam.decoder.size}}}
    if losses:
        objective = random_losses(size)
        contents["ir_se50"] = objective.identity_net.state_dict()
        contents["age_predictor"] = {"state_dict": objective.age_net.state_dict()}
    files = {}
    for name, content in contents.items():
        files[name] = str(folder / f"{name}.pt")
        torch.save(content, files[name])
    return files


@contextlib.contextmanager
def without_downloads() -> Iterator[None]:
    """Its perceptual loss fetches AlexNet and LPIPS' linear layers: made up instead."""
    import torchvision

    widths = (64, 192, 384, 256, 256)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(widths)}
    with (
        mock.patch.object(torchvision.models, "alexnet", return_value=torchvision.models.alexnet(weights=None)),
        mock.patch("torch.hub.load_state_dict_from_url", return_value=linear),
        contextlib.redirect_stdout(sys.stderr),
    ):
        yield


if __name__ == "__main__":
    main()
