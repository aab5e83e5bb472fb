"""SAM's training stage: teach the age encoder, with everything else frozen.

Source: SAM (Alaluf et al. 2021), section 3; the step follows the authors' training loop, with the
departures listed in docs/reference.md.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sam_age.data.source_cache import KNOWN
from sam_age.device import compile_options, innermost_channels
from sam_age.errors import InputError
from sam_age.evaluation.baselines import LatentBaselines, fit_on_faces
from sam_age.evaluation.metrics import AgeError
from sam_age.losses import AgingLosses, Source
from sam_age.models.age import AgeNet
from sam_age.models.fused import trouble
from sam_age.models.identity import IdentityNet
from sam_age.models.ops import at_least_float32
from sam_age.models.sam import SAM, face_pool
from sam_age.models.side_by_side import begin, streams
from sam_age.modules.compiling import as_written, compile_encoder, parts_to_compile
from sam_age.modules.frozen import CastForAStep, CastOnce
from sam_age.modules.recompute import recompute, recompute_what_is_compiled
from sam_age.modules.stage import OptimizerFactory, Stage, move_average, weights_to_train
from sam_age.modules.stage import mix_seed as _mix

log = logging.getLogger("sam_age")

Batch = Mapping[str, Tensor]
NEEDS_CODES = (
    "losses.code measures from the mean codes of ages: give data.train= faces of known age (data.labels=, "
    "data=lifespan) or module.mean_codes a file, or set losses.code=0, which is the paper's."
)


class AgingModule(Stage):
    """Trains SAM's age encoder.

    Args:
        sam: the whole model; only `sam.encoder` learns.
        losses: SAM's objective, with the frozen networks it needs.
        optimizer: called with the encoder's parameters.
        cycle_weight: weight of the way back to the source's age; 0 leaves the way out.
        same_age_probability: share of batches that keep the age (one draw a batch).
        ema_decay: keep an exponential moving average of the encoder with this decay a step, used for
            validation and saved as `ema_encoder`; None keeps none.
        frozen_batch_norm: the encoder's batch norm uses its running statistics instead of the batch's, so
            that a result does not depend on how a batch is split; the authors train with False.
        warmup_steps, cosine: of the learning rate, see `Stage`; the authors' is constant.
        compiled: on GPUs, torch.compile in training, for some of `compiling.COMPILED`; True is the generator alone.
        channels_last: on GPUs, pictures and features with their channels innermost, which some convolve faster.
        graphed: on a GPU, the work of a step recorded once and replayed, see `Graphed`.
        cast_once: under autocast on a GPU, frozen weights cast once, and the age encoder's once a step, not at every
            call; see `CastOnce` and `CastForAStep`.
        side_by_side: where `graphed`, so many at a time of the encoders' towers, of the judges, and of the two
            encoders, see `models.side_by_side`; 1: one after the other.
        recomputed: keep less for the way back, and compute it again: of the age encoder's residual units their inputs
            alone, see `recompute`; of what is compiled the convolutions' results.
        age_judge, identity_judge: networks that are not in the loss, for validation alone.
        mean_codes: the mean code of each age, for the losses' term `code`; None, where that counts: fitted as the run
            starts, to the training faces whose age is known. With true portraits to go by (`data.truths`) their own
            codes take its place.
        seed: with the step, decides every random draw (see `draw`).

    The frozen parts stay in eval mode: the authors' `net.train()` lets the inversion encoder's batch
    statistics drift.
    """

    left_out = ("losses.", "age_judge.", "identity_judge.", "mean_codes.")

    def __init__(
        self,
        sam: SAM,
        losses: AgingLosses,
        optimizer: OptimizerFactory,
        *,
        cycle_weight: float = 1.0,
        same_age_probability: float = 1 / 3,
        ema_decay: float | None = None,
        frozen_batch_norm: bool = False,
        warmup_steps: int = 0,
        cosine: bool = False,
        compiled: bool | Sequence[str] = False,
        channels_last: bool = False,
        graphed: bool = False,
        cast_once: bool = False,
        side_by_side: int = 1,
        recomputed: bool = False,
        age_judge: AgeNet | None = None,
        identity_judge: IdentityNet | None = None,
        mean_codes: LatentBaselines | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # two backward passes a step
        self.sam = sam
        self.losses = losses
        self.optimizer_factory = optimizer
        self.cycle_weight = cycle_weight
        self.same_age_probability = same_age_probability
        self.frozen_batch_norm = frozen_batch_norm
        self.warmup_steps, self.cosine, self.seed = warmup_steps, cosine, seed
        self.compiled, self.channels_last, self.graphed = parts_to_compile(compiled), channels_last, graphed
        self.cast_once, self.side_by_side, self.recomputed = cast_once, side_by_side, recomputed
        if side_by_side < 1:
            raise InputError(f"module.side_by_side is how many parts run at a time, 1 or more, not {side_by_side}.")
        self.frozen: CastOnce | None = None
        self.learning: CastForAStep | None = None
        self.while_training = contextlib.ExitStack()
        self.side_streams: list[torch.cuda.Stream] = []
        self.make = sam.decoder.synthesize
        self.gradients = self.step_gradients
        self.ema_decay = ema_decay
        self.averages_weights = ema_decay is not None
        self.ema_encoder = None if ema_decay is None else copy.deepcopy(sam.encoder).requires_grad_(False).eval()
        self.age_judge = None if age_judge is None else age_judge.requires_grad_(False).eval()
        self.identity_judge = None if identity_judge is None else identity_judge.requires_grad_(False).eval()
        self.mean_codes = mean_codes
        self.val_age_error = AgeError()
        self.val_judged_age_error = AgeError()

    # ---- one step ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update: age each face, then bring the result back to the age it came from.

        batch["faces"]: (N, 3, 256, 256), RGB in [-1, 1]; `KNOWN` of them, where the loader has a cache; "truth", the
        same people at "truth_age", where the loader has their portraits: ageing then leads to these.
        """
        faces = batch["faces"]
        aging, target_age = self.draw(len(faces))
        if "truth" in batch:
            target_age = batch["truth_age"]
        optimizer = self.optimizers()
        rate = self.set_rate(optimizer)
        optimizer.zero_grad()
        with weights_to_train(optimizer.optimizer):
            known = tuple(name for name in (*KNOWN, "truth") if name in batch)
            total, terms = self.gradients(faces, target_age, *map(batch.get, known), known=known, aging=aging)
            self.exchange(self.sam.encoder, self.learning)
            optimizer.step()
        self.update_average()
        self.last_loss = total  # stays on the device: whoever shows it decides when to wait for it
        self.note(terms | {"total": total, "lr": rate}, len(faces))

    def step_gradients(
        self, faces: Tensor, target_age: Tensor, *tensors: Tensor, known: tuple[str, ...] = (), aging: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`take_gradients`, the frozen networks with the weights that were cast for it. known: names of the tensors."""
        with contextlib.ExitStack() as stack:
            for cast in filter(None, (self.frozen, self.learning)):
                stack.enter_context(cast.in_use())
            stack.enter_context(streams(self.side_streams))
            return self.take_gradients(faces, target_age, **dict(zip(known, tensors, strict=True)), aging=aging)

    def take_gradients(
        self,
        faces: Tensor,
        target_age: Tensor,
        *,
        source_code: Tensor | None = None,
        source_age: Tensor | None = None,
        source_identity: Tensor | None = None,
        truth: Tensor | None = None,
        aging: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of both ways, and its terms; its gradients are left in the age encoder's parameters.

        Args:
            faces: (N, 3, 256, 256).
            target_age: (N,) years, for which their own age stands in where aging is False.
            source_code, source_age, source_identity: pSp's codes, ages and embeddings of the faces, where a cache
                knows them.
            truth: (N, 3, 256, 256), the same people at the target ages, where that is known.
        """
        if self.innermost:
            faces = faces.contiguous(memory_format=torch.channels_last)
        source = self.losses.describe(faces, source_age, source_identity)  # age (years), identity, features: once
        waiting = begin(lambda: self.sam.encode(faces)) if source_code is None else lambda: source_code
        if not aging:
            target_age = source.age
        latent_avg = self.sam.latent_avg

        aged, w_plus = self.transform(faces, target_age, waiting)
        led = self.led_by(truth, source, waiting(), target_age) if aging else {}
        forward, terms = self.losses(aged, w_plus, source, target_age, latent_avg=latent_avg, aging=aging, **led)
        if self.cycle_weight == 0:
            self.manual_backward(forward)
            return forward.detach(), terms
        with self.gradients_kept_local():  # both passes' gradients are exchanged together, below
            self.manual_backward(forward)  # frees this graph before the next is built
        if self.learning is not None:
            self.learning.set_aside()

        back, w_plus = self.transform(aged.detach(), source.age)
        cycle, cycle_terms = self.losses(back, w_plus, source, source.age, latent_avg=latent_avg, aging=False)
        self.manual_backward(self.cycle_weight * cycle)
        total = forward.detach() + self.cycle_weight * cycle.detach()
        return total, terms | {f"cycle_{name}": value for name, value in cycle_terms.items()}

    def led_by(
        self, truth: Tensor | None, source: Source, code: Tensor, target_age: Tensor
    ) -> dict[str, Source | Tensor | None]:
        """What the losses are told of where ageing leads: the true portraits (N, 3, 256, 256) and pSp's codes of them;
        or, where nobody knows these, the `expected` codes."""
        if truth is None:
            return {"expected": self.expected(code, source.age, target_age)}
        if self.innermost:
            truth = truth.contiguous(memory_format=torch.channels_last)
        codes = at_least_float32(self.sam.encode(truth)) if self.losses.weights["code"] else None
        return {"expected": codes, "truth": self.losses.describe(truth, target_age, source.identity)}

    def expected(self, code: Tensor, source_age: Tensor, target_age: Tensor) -> Tensor | None:
        """Where ageing leads on average: codes (N, n_styles, D) moved as far as the mean codes of those ages lie apart.

        An age network can be pleased in many ways that are no face's: what a code may do is open, and without this term
        it went three times as far as the code of the true portrait at that age. None: the term does not count.
        """
        if self.mean_codes is None or not self.losses.weights["code"]:
            return None
        return self.mean_codes.mean_shift(at_least_float32(code), source_age, target_age)

    def transform(
        self, faces: Tensor, target_age: Tensor, code: Callable[[], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """SAM's forward pass as in training, with fresh noise: images (N, 3, 256, 256) and w+. code: gives pSp's codes
        of the faces, if they are at hand."""
        w_plus = self.sam.edit(faces, target_age, code)
        return face_pool(self.make(w_plus, "random").to(w_plus.dtype)), w_plus

    def draw(self, batch: int) -> tuple[bool, Tensor]:
        """This step's choices: whether to age at all, and an age in whole years, 0 to 100, for each face.

        They depend on (seed, step) alone, not on what was drawn before, so a resumed run makes the same
        ones; and the ranks of a distributed run share out one list, so together they make the choices of
        one process with the joined batch. What the networks draw (noise) depends on the rank too.
        """
        torch.manual_seed(_mix(self.seed, self.global_step, 1 + self.global_rank))
        choices = torch.Generator().manual_seed(_mix(self.seed, self.global_step, 0))
        aging = bool(torch.rand((), generator=choices) > self.same_age_probability)
        ages = torch.randint(0, 101, (batch * self.trainer.world_size,), generator=choices)
        ages = ages[self.global_rank :: self.trainer.world_size]
        return aging, ages.float().to(self.device, non_blocking=True)

    def update_average(self) -> None:
        """Move the averaged encoder towards the trained one; batch statistics are copied."""
        if self.ema_encoder is not None:
            move_average(self.ema_encoder, self.sam.encoder, self.decay())

    @contextlib.contextmanager
    def gradients_kept_local(self) -> Iterator[None]:
        """Without the exchange of gradients between ranks that every backward pass makes by default."""
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel) and not model.static_graph:
            with model.no_sync():
                yield
        else:
            yield

    # ---- optimizer and modes -----------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer_factory(self.sam.encoder.parameters())

    def train(self, mode: bool = True) -> AgingModule:
        super().train(mode)
        if self.frozen_batch_norm:
            for layer in self.sam.encoder.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        for judge in (self.age_judge, self.identity_judge, self.ema_encoder):
            if judge is not None:
                judge.eval()
        return self

    def on_fit_start(self) -> None:
        cache = getattr(getattr(getattr(self.trainer, "datamodule", None), "train_set", None), "cache", None)
        if cache is not None:
            cache.check(self.sam, self.losses)
        sam, losses = self.sam, self.losses
        if losses.weights["code"] and self.mean_codes is None and not self.knows_truths:
            self.mean_codes = self.fit_mean_codes()
        judges = (losses.age_net, losses.identity_net, losses.perceptual_net)
        if self.compiled and not self.compiles:
            log.warning(
                "module.compiled=[%s]: nothing is compiled; it takes a GPU and Triton.", ", ".join(self.compiled)
            )
            self.compiled = ()
        if self.recomputed and self.compiled:
            self.while_training.enter_context(recompute_what_is_compiled())
        if self.recomputed and "encoders" not in self.compiled:
            recompute(sam.encoder.body)
        options = compile_options() if self.compiled else {}
        if "generator" in self.compiled:
            self.make = torch.compile(self.make, **options)
        if "encoders" in self.compiled:
            for encoder in (sam.encoder, sam.pretrained_encoder):
                compile_encoder(encoder, **options)
        if "judges" in self.compiled:
            for judge in filter(None, judges[:2]):
                judge.compile(**options)
            if losses.perceptual_net is not None:
                losses.perceptual_net.features = torch.compile(losses.perceptual_net.features, **options)
        if self.innermost:
            innermost_channels(sam.encoder, self.ema_encoder, sam.pretrained_encoder, sam.decoder.input)
            innermost_channels(*filter(gains_from_innermost, judges))

    @property
    def compiles(self) -> bool:
        """Whether torch.compile can run and pays: on CPUs a step became slower (docs/performance.md)."""
        return self.device.type == "cuda" and trouble(self.device) is None

    @property
    def knows_truths(self) -> bool:
        """Whether training faces come with true portraits of other ages."""
        faces = getattr(getattr(self.trainer, "datamodule", None), "train_set", None)
        return getattr(faces, "truths", None) is not None

    def fit_mean_codes(self) -> LatentBaselines:
        """Of the training faces, on every rank the same.

        Raises:
            InputError: too few of them have a known age.
        """
        faces = getattr(getattr(self.trainer, "datamodule", None), "train_set", None)
        if faces is None:
            raise InputError(f"There are no training faces to fit mean codes to. {NEEDS_CODES}")
        try:
            fitted = fit_on_faces(self.sam, faces, device=self.device, num_workers=self.trainer.datamodule.num_workers)
        except InputError as error:
            raise InputError(f"The training faces have too few known ages, ten at least. {NEEDS_CODES}") from error
        return fitted.to(self.device).requires_grad_(False)

    def on_train_start(self) -> None:
        self.drop_copies()  # of a run that was broken off
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.trainer.precision)
        if self.cast_once and dtype is not None and self.device.type == "cuda":
            losses = self.losses
            judges = (losses.age_net, losses.identity_net, losses.perceptual_net)
            self.frozen = CastOnce((self.sam.pretrained_encoder, *judges), dtype)
            listens = isinstance(self.trainer.strategy.model, DistributedDataParallel)  # to the weights' own gradients
            halves = dtype == torch.bfloat16 and getattr(self.optimizers().optimizer, "takes_half_gradients", False)
            self.learning = None if listens else CastForAStep(self.sam.encoder, dtype, halves=halves)
        if self.side_by_side > 1 and not self.graphed:
            log.warning("module.side_by_side=%d counts where module.graphed=true.", self.side_by_side)
        if self.graphed and self.side_by_side > 1 and self.device.type == "cuda":
            self.side_streams = [torch.cuda.Stream(self.device) for _ in range(self.side_by_side - 1)]
        if self.graphed:
            kinds = 2 if 0 < self.same_age_probability < 1 else 1  # of steps: they age, or keep the age
            self.gradients = self.recorded(self.step_gradients, self.sam.encoder.parameters(), kinds)
        self.train()  # Lightning leaves each module in the mode it finds it in, and `load` gives eval mode

    def on_train_end(self) -> None:
        self.while_training.close()
        self.drop_copies()

    def drop_copies(self) -> None:
        """What `cast_once` keeps is a run's own."""
        if self.learning is not None:
            self.learning.end()
        self.frozen = self.learning = None

    # ---- validation --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def best_weights(self) -> Iterator[SAM]:
        """SAM with the averaged encoder where there is one, and nothing compiled: that was for training's shapes and
        modes, and would be compiled again for others."""
        sam, losses = self.sam, self.losses
        trained, average = sam.encoder, self.ema_encoder
        networks = (trained, sam.pretrained_encoder, losses.age_net, losses.identity_net, losses.perceptual_net)
        sam.encoder = trained if average is None else average
        try:
            with as_written(*networks):
                yield sam
        finally:
            sam.encoder = trained

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training losses at fixed ages and with the stored noise, and what independent judges read."""
        faces = batch["faces"]
        if len(faces) == 0:  # none of its pictures could be read
            return
        with self.best_weights() as sam:
            self.score(sam, faces, validation_ages(batch["index"]))

    def score(self, sam: SAM, faces: Tensor, target_age: Tensor) -> None:
        """Log how SAM does at faces (N, 3, 256, 256) and ages (N,), years."""
        source = self.losses.describe(faces)
        expected = self.expected(sam.encode(faces), source.age, target_age)
        aged, w_plus = sam(faces, target_age, return_latents=True)
        back, back_w_plus = sam(aged, source.age, return_latents=True)
        latent_avg = sam.latent_avg
        loss, terms = self.losses(
            aged, w_plus, source, target_age, latent_avg=latent_avg, aging=True, expected=expected
        )
        cycle, cycle_terms = self.losses(back, back_w_plus, source, source.age, latent_avg=latent_avg, aging=False)
        values = terms | {f"cycle_{name}": value for name, value in cycle_terms.items()}
        values["total"] = loss + self.cycle_weight * cycle
        self.val_age_error.update(self.losses.age_net(aged), target_age)
        if self.age_judge is not None:
            self.val_judged_age_error.update(self.age_judge(aged), target_age)
        if self.identity_judge is not None:
            similarity = (self.identity_judge(aged) * self.identity_judge(faces)).sum(1)
            values["judged_identity_similarity"] = similarity.mean()
        logged = {f"val/{name}": value for name, value in values.items()}
        self.log_dict(logged, batch_size=len(faces), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        self.log("val/age_mae", self.val_age_error.compute()["age_mae"], sync_dist=True)
        self.val_age_error.reset()
        if self.age_judge is not None:
            self.log("val/judged_age_mae", self.val_judged_age_error.compute()["age_mae"], sync_dist=True)
            self.val_judged_age_error.reset()

    # ---- what a checkpoint holds -------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """The encoder that learns; the rest of SAM stays as the run found it."""
        learnt = {"encoder": self.sam.encoder}
        return learnt if self.ema_encoder is None else learnt | {"ema_encoder": self.ema_encoder}

    def network_config(self) -> dict[str, Any]:
        """Of all of SAM, which is what a checkpoint holds (not the frozen judges, which have files of their own)."""
        return self.sam.config


def validation_ages(index: Tensor) -> Tensor:
    """The age that validation asks of image `index` (N,): fixed, and spread evenly over 0..100 years."""
    return (37 * index % 101).float()  # 37 and 101 share no factor: each age comes once in 101 images


def gains_from_innermost(judge: nn.Module | None) -> bool:
    """Whether a judge's convolutions are to have their channels innermost: PyTorch's group normalisation undoes it, and
    then each would turn its map around."""
    return judge is not None and not any(isinstance(layer, nn.GroupNorm) for layer in judge.modules())
