"""How a trained SAM is scored: faces at target ages, beside what ages them without SAM, against their true portraits.

Two passes. First every portrait of the data is looked at once, for who it shows and for how alike strangers are.
Then each input is aged to each target age by every method, and what comes out is judged. Nothing is fetched from the
device before the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from tqdm import tqdm

from sam_age.data.dataset import to_unit_range
from sam_age.errors import InputError
from sam_age.evaluation.album import Album, Portraits
from sam_age.evaluation.baselines import LatentBaselines
from sam_age.evaluation.instruments import Instruments, exact
from sam_age.evaluation.judges import pairs
from sam_age.evaluation.known import Known, nothing_known
from sam_age.evaluation.methods import methods
from sam_age.evaluation.metrics import match_threshold
from sam_age.evaluation.results import VECTORS, Scored, results_of
from sam_age.evaluation.share import Share
from sam_age.losses import AgingLosses
from sam_age.models.ops import at_least_float32
from sam_age.models.sam import SAM

log = logging.getLogger("sam_age")

MOST_PORTRAITS_TOLD_APART = 4000
"""Impostor pairs are of this many portraits at most, spread evenly: 8 million pairs."""

SLOW = 60  # seconds; what takes longer is announced


class AgingEvaluation(pl.LightningModule):
    """Scores SAM under `Trainer.validate` or `Trainer.test`, on any number of devices.

    Batches are {"faces": (N, 3, 256, 256) in [-1, 1], "index": (N,) numbers in the source}, of the whole data: true
    portraits come from there too. `results` holds the outcome: see docs/evaluation.md.

    Args:
        sam: the model to score.
        instruments: that judge.
        target_ages: years.
        known: of the source's faces; None: nothing.
        inputs: numbers of the faces to be aged; None: all.
        baselines: to set beside SAM.
        losses: the objective, if its terms are to be averaged over all outputs, as `losses`.
        batch_size: outputs at a time; None: 64 on CUDA, 8 elsewhere.
    """

    def __init__(
        self,
        sam: SAM,
        instruments: Instruments,
        target_ages: Sequence[float],
        *,
        known: Known | None = None,
        inputs: Sequence[int] | None = None,
        baselines: LatentBaselines | None = None,
        losses: AgingLosses | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.sam, self.instruments, self.baselines, self.losses = sam, instruments, baselines, losses
        self.target_ages = list(target_ages)
        self.known, self.inputs, self._batch_size = known, inputs, batch_size
        self.methods = methods(sam, baselines)
        self.results: dict[str, Any] = {}
        self.scored: Scored | None = None  # of the last run: every output's scores
        self.album: Album | None = None
        self._looked: list[tuple[Tensor, ...]] = []

    # ---- the first pass: who is there ----------------------------------------------------------------

    def on_test_epoch_start(self) -> None:
        self._started, self._looked = time.monotonic(), []

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        faces = batch["faces"]
        if len(faces) == 0:  # none of its pictures could be read
            return
        pixels = ((faces + 1) * 127.5).round().to(torch.uint8)
        with exact(faces):
            identity = self.instruments.identity
            embeddings = faces.new_empty(len(faces), 0) if identity is None else at_least_float32(identity(faces))
        self._looked.append((batch["index"].long().cpu(), pixels.cpu(), embeddings.cpu()))

    def on_test_epoch_end(self) -> None:
        self.album = self._make_album()
        if not len(self.album.index):
            self.results = {"faces": 0}
            return
        if self.known is None:
            self.known = nothing_known(int(self.album.index.max()) + 1)
        self.scored = self._score(self.album, self.known)
        seconds = time.monotonic() - self._started
        self.results = results_of(self.scored, self.known, self.target_ages, self.instruments.judged_by) | {
            "seconds": round(seconds, 1),
            "outputs_per_second": round(len(self.scored.face) / seconds, 2),
            "device": _device_name(self.device),
        }

    on_validation_epoch_start = on_test_epoch_start  # `sam-eval split=val` runs Trainer.validate
    validation_step = test_step
    on_validation_epoch_end = on_test_epoch_end

    def _make_album(self) -> Album:
        columns = [torch.cat(column) for column in zip(*self._looked, strict=True)]
        if not columns:  # a rank that could read nothing, while others may have
            size = 0 if self.instruments.identity is None else self._embedding_size()
            columns = [torch.empty(0).long(), torch.empty(0, 3, 256, 256).to(torch.uint8), torch.empty(0, size)]
        index, pixels, embeddings = (self._gathered(column).cpu() for column in columns)
        self._looked = []
        order = index.argsort()
        embeddings = embeddings[order].to(self.device) if embeddings.shape[1] else None
        return Album(index[order], pixels[order], embeddings)

    def _embedding_size(self) -> int:
        return self.instruments.identity(torch.zeros(1, 3, 256, 256, device=self.device)).shape[1]

    def _gathered(self, values: Tensor) -> Tensor:
        """Of all ranks, joined."""
        if self.trainer.world_size == 1:
            return values
        return torch.cat(gather_all_tensors(values.to(self.device).contiguous()))

    # ---- the second pass: every input at every target age --------------------------------------------

    def _score(self, album: Album, known: Known) -> Scored:
        """Every input at every target age; faces are numbers of the source until they become places in the album."""
        wanted = album.index if self.inputs is None else torch.tensor(list(self.inputs), dtype=torch.long)
        # by life, so that the jobs of a batch share their true portraits
        wanted = torch.tensor(sorted(wanted.tolist(), key=lambda number: (known.life[number].item(), number)))
        wanted = wanted[album.places(wanted) >= 0]
        ages = torch.tensor(self.target_ages, dtype=torch.float32)
        number, target = wanted.repeat_interleave(len(ages)), ages.repeat(len(wanted))
        truth = album.places(known.truths(number, target))
        inputs = album.places(wanted)
        if len(inputs) < self.trainer.world_size:  # a rank with nothing to report would keep the others waiting
            raise InputError(f"{len(inputs)} faces to score cannot be shared out to {self.trainer.world_size} devices.")
        needed = torch.cat([inputs, truth[truth >= 0]]).unique()
        portraits = self._portraits(album, needed)

        jobs = torch.arange(len(number)).tensor_split(self.trainer.world_size)[self.trainer.global_rank]
        mine = inputs.tensor_split(self.trainer.world_size)[self.trainer.global_rank]
        own_age = known.age[album.index]
        share = Share(self, album, portraits, own_age, paired=bool((truth >= 0).any()))
        columns = share.outputs(album.places(number)[jobs], target[jobs], truth[jobs])
        reconstruction = share.reconstructions(mine)
        losses = {name: self._gathered(value[None]).sum(0) for name, value in sorted(share.loss_sums.items())}
        return Scored(
            face=number,
            target_age=target,
            truth=torch.where(truth >= 0, album.index[truth], -1),
            columns={m: self._all_of(c) for m, c in columns.items()},
            reconstruction={m: self._all_of(c) for m, c in reconstruction.items()},
            thresholds=self._thresholds(album, known),
            reference=self._reference(portraits, truth, target),
            losses={name: (total / count).item() for name, (total, count) in losses.items()},
        )

    def _all_of(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        every = {name: self._gathered(values).float() for name, values in sorted(columns.items())}
        return {name: values if name in VECTORS else values.cpu() for name, values in every.items()}

    def _portraits(self, album: Album, places: Tensor) -> Portraits:
        """What is read once off each portrait at `places`, and off its inversion, and how near that one comes."""
        found: dict[str, list[Tensor]] = {}
        for chunk in self.chunks(places, "portraits"):
            faces = self.faces(album, chunk)
            with self.precision():
                codes = at_least_float32(self.sam.encode(faces))
                inverted = self.sam.synthesize(codes)
            inverted = at_least_float32(inverted).clamp(-1, 1)
            with exact(faces):
                likeness = self.instruments.likeness
                near = likeness.compare(likeness.see(inverted), likeness.see(faces))
                values = {"codes": codes, "source_age": at_least_float32(self.instruments.source_age(faces))}
            values |= {f"read_{name}": value for name, value in self.instruments.read(faces).items()}
            values |= {f"inverted_{name}": value for name, value in self.instruments.read(inverted).items()}
            values |= {f"near_{name}": value for name, value in near.items()}
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        row = torch.full((len(album.index),), -1, dtype=torch.long)
        row[places] = torch.arange(len(places))
        return Portraits({name: torch.cat(values) for name, values in found.items()}, row.to(self.device))

    def _reference(self, portraits: Portraits, truth: Tensor, target: Tensor) -> dict[float, Tensor]:
        """Target age -> features for the kernel distance: of the true portraits of that age, else of all inputs."""
        if self.instruments.realism is None:
            return {}
        found = {}
        for age in self.target_ages:
            places = truth[(target == age) & (truth >= 0)].unique()
            if len(places) < 2:
                places = (portraits.row >= 0).nonzero().flatten().cpu()
            found[age] = portraits.of("read_", places.to(self.device))["realism"]
        return found

    def _thresholds(self, album: Album, known: Known) -> dict[str, float]:
        """Cosines from which two of the data's own portraits count as one person's, by its impostor pairs."""
        person, kin = known.person[album.index], known.kin[album.index]
        chosen = (person >= 0).nonzero().flatten()
        if album.embeddings is None or not len(chosen):
            return {}
        spread = torch.linspace(0, len(chosen) - 1, min(len(chosen), MOST_PORTRAITS_TOLD_APART)).round().long()
        chosen = chosen[spread].to(self.device)
        embeddings, person, kin = album.embeddings[chosen], person.to(self.device)[chosen], kin.to(self.device)[chosen]
        return {
            "verification_rate": match_threshold(pairs(embeddings, person).impostor),
            "verification_rate_kin": match_threshold(pairs(embeddings, person, kin).impostor),
        }

    # ---- what both passes use ------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        return self._batch_size or (64 if self.device.type == "cuda" else 8)

    def precision(self) -> AbstractContextManager:
        """The trainer's mixed precision, for what makes pictures."""
        return self.trainer.precision_plugin.forward_context()

    def faces(self, album: Album, places: Tensor) -> Tensor:
        """Pictures (N, 3, 256, 256) in [-1, 1] at places (N,) of the album, on the device."""
        return to_unit_range(album.pixels[places].to(self.device, non_blocking=True))

    def chunks(self, values: Tensor, what: str) -> Iterator[Tensor]:
        """Batches of (N,), with a progress bar; what will take long is announced after the second one."""
        bar = self.trainer.progress_bar_callback
        hidden = not self.trainer.is_global_zero or bar is None
        announces = self.device.type == "cpu" and self.trainer.is_global_zero
        started = time.monotonic()
        with tqdm(total=len(values), desc=what, unit="", disable=hidden, leave=False) as progress:
            for number, chunk in enumerate(values.split(self.batch_size)):
                yield chunk
                progress.update(len(chunk))
                if number == 1 and announces:
                    left = (time.monotonic() - started) * (len(values) / (2 * self.batch_size) - 1)
                    if left > SLOW:
                        time_left = f"{left:.0f} seconds" if left < 2 * SLOW else f"{left / 60:.0f} minutes"
                        log.info(
                            "%d %s take about %s on this CPU; source_ages=[30], max_images=20 or fewer target_ages "
                            "make them fewer.", len(values), what, time_left,
                        )  # fmt: skip


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
