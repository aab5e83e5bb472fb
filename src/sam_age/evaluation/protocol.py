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
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from tqdm import tqdm

from sam_age.data.dataset import to_unit_range
from sam_age.errors import InputError
from sam_age.evaluation.baselines import LatentBaselines
from sam_age.evaluation.counterfactual import Seen
from sam_age.evaluation.instruments import Instruments, exact
from sam_age.evaluation.judges import pairs
from sam_age.evaluation.known import Known, nothing_known
from sam_age.evaluation.methods import SAM_ITSELF, Request, methods
from sam_age.evaluation.metrics import match_threshold
from sam_age.evaluation.results import VECTORS, Scored, results_of
from sam_age.losses import AgingLosses
from sam_age.models.ops import at_least_float32
from sam_age.models.sam import SAM

log = logging.getLogger("sam_age")

MOST_PORTRAITS_TOLD_APART = 4000
"""Impostor pairs are of this many portraits at most, spread evenly: 8 million pairs."""

SLOW = 60  # seconds; what takes longer is announced


@dataclass
class Album:
    """Every portrait that was read, in the source's order."""

    index: Tensor  # (P,) numbers in the source, ascending
    pixels: Tensor  # (P, 3, 256, 256) uint8, on the CPU
    embeddings: Tensor | None  # (P, D) of length one

    def places(self, index: Tensor) -> Tensor:
        """Where portraits (J,) of the source are here; -1 for those that are not."""
        if not len(self.index):
            return torch.full_like(index, -1)
        place = torch.searchsorted(self.index, index).clamp(max=len(self.index) - 1)
        return torch.where(self.index[place] == index, place, -1)


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
        """Ages are of the source's numbers, `face` and `truth` of the album's places."""
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
        share = _Pass(self, album, portraits, own_age, paired=bool((truth >= 0).any()))
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
        for chunk in self._chunks(places, "portraits"):
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

    def _chunks(self, values: Tensor, what: str) -> Iterator[Tensor]:
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
                        log.info(
                            "%d %s take about %.0f minutes here: source_ages=[30], max_images=20, fewer target_ages or "
                            "a GPU make them fewer.", len(values), what, left / 60,
                        )  # fmt: skip


@dataclass
class Portraits:
    """What is known of portraits, by their place in the album."""

    values: dict[str, Tensor]  # (R, ...) each
    row: Tensor  # (P,) place in the album -> row of the values, or -1

    def of(self, prefix: str, places: Tensor) -> dict[str, Tensor]:
        """The values whose names begin so, of portraits at places (N,); NaN for a place of -1."""
        missing = places < 0
        rows = self.row[places.clamp_min(0)].clamp_min(0)
        found = {}
        for name, value in self.values.items():
            if name.startswith(prefix):
                picked = value[rows]
                gone = missing.view(-1, *[1] * (picked.ndim - 1))
                found[name.removeprefix(prefix)] = picked.masked_fill(gone, float("nan"))
        return found


class _Pass:
    """The second pass over one rank's share."""

    def __init__(
        self, evaluation: AgingEvaluation, album: Album, portraits: Portraits, own_age: Tensor, *, paired: bool
    ) -> None:
        self.evaluation, self.album, self.portraits = evaluation, album, portraits
        self.instruments, self.likeness = evaluation.instruments, evaluation.instruments.likeness
        self.own_age = own_age.to(evaluation.device)
        self.paired = paired  # has any output a true portrait, on whatever rank
        self.loss_sums: dict[str, Tensor] = {}  # name -> sum over outputs, and their number

    def request(self, places: Tensor, target: Tensor) -> Request:
        """For inputs at places (N,) of the album, on the CPU."""
        known = self.portraits.of("", places.to(self.own_age.device))
        faces = self.evaluation.faces(self.album, places)
        return Request(faces, known["codes"], known["source_age"], target.to(self.own_age.device))

    def age_of(self, places: Tensor, request: Request) -> Tensor:
        """(N,) years: the true one where it is known, else the one that is read."""
        age = self.own_age[places.to(self.own_age.device)]
        return torch.where(age.isnan(), request.source_age, age)

    def outputs(self, faces: Tensor, target: Tensor, truth: Tensor) -> dict[str, dict[str, Tensor]]:
        """Method -> columns, each (J,) or (J, D), for inputs (J,) at target ages (J,) against truths (J,)."""
        device = self.own_age.device
        found: dict[str, dict[str, list[Tensor]]] = {}

        def keep(method: str, columns: Mapping[str, Tensor]) -> None:
            for name, values in columns.items():
                found.setdefault(method, {}).setdefault(name, []).append(values)

        for jobs in self.evaluation._chunks(torch.arange(len(faces)), "outputs"):
            face, true = faces[jobs], truth[jobs]
            request = self.request(face, target[jobs])
            missing = (true < 0).to(device)
            # the portraits of this batch, each seen once: inputs and truths are largely the same ones
            there, where = torch.cat([face, true[true >= 0]]).unique(return_inverse=True)
            of_face = where[: len(face)].to(device)
            of_truth = torch.zeros(len(true), dtype=torch.long)
            of_truth[true >= 0] = where[len(face) :]
            with exact(request.faces):
                seen = self.likeness.see(self.evaluation.faces(self.album, there))
                inputs, truths = seen[of_face], seen[of_truth.to(device)]
            own = self.portraits.of("read_", face.to(device))

            def against_truth(scores: Mapping[str, Tensor], missing: Tensor = missing) -> dict[str, Tensor]:
                return {f"truth_{name}": value.masked_fill(missing, float("nan")) for name, value in scores.items()}

            def reading(
                said: Mapping[str, Tensor], own: Mapping[str, Tensor] = own, target: Tensor = request.target_age
            ) -> dict[str, Tensor]:
                columns = {name: said[name] for name in ("age", "second_age", "realism") if name in said}
                if "embedding" in said:
                    columns["cosine"] = (said["embedding"] * own["embedding"]).sum(1)
                return columns

            for method, make in self.evaluation.methods.items():
                with self.evaluation.precision():
                    made, w_plus = make(request)
                images = at_least_float32(made).clamp(-1, 1)
                columns = reading(self.instruments.read(images))
                if self.paired:
                    with exact(images):
                        columns |= against_truth(self.likeness.compare(self.likeness.see(images), truths))
                if method == SAM_ITSELF:
                    columns |= self._cycle(images, face, request, inputs)
                    self._count(made, w_plus, request, request.target_age, "")
                keep(method, columns)
            columns = reading(own)
            if self.paired:
                with exact(request.faces):
                    columns |= against_truth(self.likeness.compare(inputs, truths))
                at = true.to(device)
                near = {f"truth_{name}": value for name, value in self.portraits.of("near_", at).items()}
                keep("ceiling", reading(self.portraits.of("inverted_", at)) | near)
                keep("truth", reading(self.portraits.of("read_", at)))
            keep("input", columns)
        return {m: {name: torch.cat(parts) for name, parts in columns.items()} for m, columns in found.items()}

    def _cycle(self, images: Tensor, places: Tensor, request: Request, inputs: Seen) -> dict[str, Tensor]:
        """SAM's pictures brought back to the age they came from, against the inputs."""
        sam, age = self.evaluation.sam, self.age_of(places, request)
        with self.evaluation.precision():
            w_plus = sam.edit(images, age)
            made = sam.synthesize(w_plus)
        self._count(made, w_plus, request, age, "cycle_")
        back = at_least_float32(made).clamp(-1, 1)
        with exact(back):
            scores = self.likeness.compare(self.likeness.see(back), inputs)
        scores["l2"] = (back - request.faces).square().mean((1, 2, 3))
        return {f"cycle_{name}": value for name, value in scores.items()}

    def reconstructions(self, places: Tensor) -> dict[str, dict[str, Tensor]]:
        """Method -> columns, each (N,): inputs at places (N,) brought to their own age, against themselves."""
        found: dict[str, dict[str, list[Tensor]]] = {}
        for chunk in self.evaluation._chunks(places, "reconstructions"):
            request = self.request(chunk, torch.zeros(len(chunk)))
            request = Request(request.faces, request.codes, request.source_age, self.age_of(chunk, request))
            with exact(request.faces):
                inputs = self.likeness.see(request.faces)
            for method, make in self.evaluation.methods.items():
                with self.evaluation.precision():
                    made, _ = make(request)
                images = at_least_float32(made).clamp(-1, 1)
                with exact(images):
                    scores = self.likeness.compare(self.likeness.see(images), inputs)
                for name, value in scores.items():
                    found.setdefault(method, {}).setdefault(name, []).append(value)
            for name, value in self.portraits.of("near_", chunk.to(self.own_age.device)).items():
                found.setdefault("ceiling", {}).setdefault(name, []).append(value)
        return {m: {name: torch.cat(parts) for name, parts in columns.items()} for m, columns in found.items()}

    def _count(self, images: Tensor, w_plus: Tensor, request: Request, target: Tensor, prefix: str) -> None:
        """Add up the objective's terms, if they are asked for."""
        losses = self.evaluation.losses
        if losses is None:
            return
        source = losses.describe(request.faces)
        centre = self.evaluation.sam.latent_avg
        _, terms = losses(images, w_plus, source, target, latent_avg=centre, aging=not prefix)
        for name, value in terms.items():
            count = len(target)
            term = torch.stack([value * count, value.new_tensor(count)])
            self.loss_sums[prefix + name] = self.loss_sums.get(prefix + name, 0) + term


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
