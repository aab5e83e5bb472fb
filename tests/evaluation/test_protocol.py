"""What sam-eval measures, against other libraries and direct computation."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.utils.data import DataLoader

from sam_age.evaluation.counterfactual import likeness
from sam_age.evaluation.instruments import Instruments
from sam_age.evaluation.metrics import AgeError, MeanByAge
from sam_age.evaluation.protocol import AgingEvaluation
from sam_age.evaluation.table import table
from sam_age.losses import AgingLosses
from tests.modules.test_aging import Brightness, Colours, tiny_sam


def test_likeness_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (1, 3, 48, 48)).astype(np.float32)
    image = np.clip(truth + rng.normal(0, 0.1, truth.shape), -1, 1).astype(np.float32)
    got = likeness(torch.from_numpy(image), torch.from_numpy(truth))
    assert got["psnr"].item() == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=2), rel=1e-5)
    _, per_pixel = structural_similarity(
        truth[0], image[0], data_range=2, channel_axis=0, gaussian_weights=True,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    inner = per_pixel[:, 6:-6, 6:-6].mean()  # borders are padded differently
    ours = likeness(torch.from_numpy(image), torch.from_numpy(truth))["ssim"].item()
    assert ours == pytest.approx(inner, abs=5e-3)
    assert likeness(torch.from_numpy(truth), torch.from_numpy(truth))["ssim"].item() == pytest.approx(1)


def test_age_error_equals_numpy_however_the_batches_fall() -> None:
    rng = np.random.default_rng(1)
    predicted = torch.from_numpy(rng.uniform(0, 100, 60).astype(np.float32))
    target = torch.from_numpy(rng.choice([0.0, 10.0, 90.0], 60).astype(np.float32))
    error = AgeError()
    for start, stop in ((0, 7), (7, 40), (40, 60)):
        error.update(predicted[start:stop], target[start:stop])
    got = error.compute()
    difference = (predicted - target).numpy()
    assert got["age_mae"] == pytest.approx(np.abs(difference).mean(), rel=1e-5)
    assert got["age_bias"] == pytest.approx(difference.mean(), rel=1e-4)
    tens = difference[target.numpy() == 10]
    assert got["per_target_age"][10]["age_mae"] == pytest.approx(np.abs(tens).mean(), rel=1e-5)
    assert got["per_target_age"][10]["age_mean"] == pytest.approx(10 + tens.mean(), rel=1e-5)


def test_nothing_seen_is_not_a_number() -> None:
    assert np.isnan(MeanByAge().compute()["mean"])


def test_every_face_is_scored_at_every_age() -> None:
    faces = torch.randint(0, 256, (3, 3, 256, 256), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    rows = [{"faces": face, "index": torch.tensor(i)} for i, face in enumerate(faces)]
    sam = tiny_sam().eval()
    losses = AgingLosses(Brightness(), Colours(), Colours())
    judge = Brightness()
    instruments = Instruments(judge, losses.identity_net, own=("identity",))
    evaluation = AgingEvaluation(sam, instruments, [0, 50, 100], losses=losses, batch_size=4)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.test(evaluation, DataLoader(rows, batch_size=2), verbose=False)
    results = evaluation.results
    assert (results["faces"], results["outputs"]) == (3, 9)
    assert list(results["per_target_age"]) == ["0", "50", "100"]
    with torch.no_grad():
        ages = torch.tensor([0.0, 50.0, 100.0]).repeat_interleave(3)
        aged = sam(faces.repeat(3, 1, 1, 1), ages)
        mae = (judge(aged.clamp(-1, 1)) - ages).abs().mean().item()
        l2 = (aged - faces.repeat(3, 1, 1, 1)).square().mean().item()
    assert results["age_mae"] == pytest.approx(mae, rel=1e-4)
    assert results["losses"]["l2"] == pytest.approx(l2, rel=1e-4)
    assert results["judged_by"]["age"] == "Brightness"
    assert "loss's own network" in results["judged_by"]["identity"]
    assert results["counterfactual_lpips"] is None
    assert results["per_group"] is None
    assert "SAM" in table(results)
