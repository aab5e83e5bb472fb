"""Faces aged by every method, judged, and held against their true portraits: the work that takes the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sam_age.evaluation.album import Album, Portraits
from sam_age.evaluation.counterfactual import Seen
from sam_age.evaluation.instruments import exact
from sam_age.evaluation.methods import SAM_ITSELF, Request
from sam_age.models.ops import at_least_float32

if TYPE_CHECKING:
    from sam_age.evaluation.protocol import AgingEvaluation


class Share:
    """One process's share of the outputs: made, judged, and compared with the truth."""

    def __init__(
        self, evaluation: AgingEvaluation, album: Album, portraits: Portraits, own_age: Tensor, *, paired: bool
    ) -> None:
        self.evaluation, self.album, self.portraits, self.device = evaluation, album, portraits, evaluation.device
        self.instruments, self.likeness = evaluation.instruments, evaluation.instruments.likeness
        self.own_age = own_age.to(self.device)
        self.paired = paired  # has any output a true portrait, on whatever rank
        self.loss_sums: dict[str, Tensor] = {}  # name -> sum over outputs, and their number

    def request(self, places: Tensor, target: Tensor) -> Request:
        """For inputs at places (N,) of the album, on the CPU."""
        known = self.portraits.of("", places.to(self.device))
        faces = self.evaluation.faces(self.album, places)
        return Request(faces, known["codes"], known["source_age"], target.to(self.device))

    def age_of(self, places: Tensor, request: Request) -> Tensor:
        """(N,) years: the true one where it is known, else the one that is read."""
        age = self.own_age[places.to(self.device)]
        return torch.where(age.isnan(), request.source_age, age)

    def outputs(self, faces: Tensor, target: Tensor, truth: Tensor) -> dict[str, dict[str, Tensor]]:
        """Method -> columns, each (J,) or (J, D), for inputs (J,) at target ages (J,) against truths (J,)."""
        found: dict[str, dict[str, list[Tensor]]] = {}

        def keep(method: str, columns: Mapping[str, Tensor]) -> None:
            for name, values in columns.items():
                found.setdefault(method, {}).setdefault(name, []).append(values)

        for jobs in self.evaluation.chunks(torch.arange(len(faces)), "outputs"):
            face, true = faces[jobs], truth[jobs]
            request = self.request(face, target[jobs])
            missing = (true < 0).to(self.device)
            # the portraits of this batch, each seen once: inputs and truths are largely the same ones
            there, where = torch.cat([face, true[true >= 0]]).unique(return_inverse=True)
            of_face = where[: len(face)].to(self.device)
            of_truth = torch.zeros(len(true), dtype=torch.long)
            of_truth[true >= 0] = where[len(face) :]
            with exact(request.faces):
                seen = self.likeness.see(self.evaluation.faces(self.album, there))
                inputs, truths = seen[of_face], seen[of_truth.to(self.device)]
            own = self.portraits.of("read_", face.to(self.device))

            def against_truth(scores: Mapping[str, Tensor], missing: Tensor = missing) -> dict[str, Tensor]:
                return {f"truth_{name}": value.masked_fill(missing, float("nan")) for name, value in scores.items()}

            def reading(said: Mapping[str, Tensor], own: Mapping[str, Tensor] = own) -> dict[str, Tensor]:
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
            same = (true == face).to(self.device)
            if self.paired:
                with exact(request.faces):
                    columns |= against_truth(self.likeness.compare(inputs, truths))
                for name in ("truth_psnr", "truth_psnr_face"):  # infinite, and no mean could bear it
                    columns[name] = columns[name].masked_fill(same, float("nan"))
                at = true.to(self.device)
                near = {f"truth_{name}": value for name, value in self.portraits.of("near_", at).items()}
                keep("ceiling", reading(self.portraits.of("inverted_", at)) | near)
                honest = reading(self.portraits.of("read_", at))
                if "cosine" in honest:  # at the input's own age it is the same picture, which is no ageing
                    honest["cosine"] = honest["cosine"].masked_fill(same, float("nan"))
                keep("truth", honest)
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
        for chunk in self.evaluation.chunks(places, "reconstructions"):
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
            for name, value in self.portraits.of("near_", chunk.to(self.device)).items():
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
