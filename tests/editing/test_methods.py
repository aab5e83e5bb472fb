"""The edits as methods of the pipeline: each is what its parts say, on networks of known behaviour."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sam_age.editing import REGIONS, LifespanPath, fit_direction, mask_of, mix, random_styles
from sam_age.errors import InputError
from sam_age.models.age import AgeClassifier
from sam_age.pipeline import AgingPipeline
from sam_age.sheets import to_images, to_tensor
from sam_age.weights import save
from tests.modules.test_aging import tiny_sam


@pytest.fixture(scope="module")
def pipeline() -> AgingPipeline:
    return AgingPipeline(tiny_sam(), batch_size=4)


def noise_face(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8))


@pytest.fixture(scope="module")
def faces() -> list[Image.Image]:
    return [noise_face(seed) for seed in range(2)]


class Colours(nn.Module):
    """An identity: mean colours, of unit length."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(faces.mean((2, 3)) + 0.01, dim=1)


def brightness_as_age(pictures: list[Image.Image]) -> list[float]:
    return [float(np.asarray(picture).mean()) / 2.55 for picture in pictures]


def test_random_styles_and_references_change_their_layers_of_the_aged_codes(pipeline, faces):
    ages = [10.0, 70.0]
    aged = pipeline.edit(faces, ages)
    mixed = pipeline.mix(faces, ages, 3, layers="5-7", alpha=0.4, seed=9)
    assert mixed.shape == (2, 2, 3, 8, 16)
    styles = random_styles(pipeline.sam.decoder, 3, 9)
    torch.testing.assert_close(mixed[1, 0, 2], mix(aged[1, 0], styles[2], "5-7", 0.4))
    other = [noise_face(7)]
    guided = pipeline.reference(faces, ages, other)
    assert guided.shape == (2, 2, 1, 8, 16)
    torch.testing.assert_close(guided[:, :, 0, 4:], pipeline.encode(other)[0, 4:].expand(2, 2, -1, -1))
    torch.testing.assert_close(guided[:, :, 0, :4], aged[:, :, :4])
    assert len(pipeline.synthesize(mixed)) == 12


def test_the_dial_lies_between_inversion_and_aged_code(pipeline, faces):
    source, aged = pipeline.encode(faces), pipeline.edit(faces, [60.0])
    torch.testing.assert_close(pipeline.dial(faces, [60.0], 0.0), source[:, None])
    torch.testing.assert_close(pipeline.dial(faces, [60.0], 1.0), aged)
    torch.testing.assert_close(pipeline.dial(faces, [60.0], 0.25), 0.75 * source[:, None] + 0.25 * aged)


def test_the_dials_curve_is_measured_on_the_pictures_that_one_gets(pipeline, faces, monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "read_age", brightness_as_age)
    curve = pipeline.dial_curve(faces, 80.0, Colours(), amounts=[0.0, 0.5, 1.0])
    for at, amount in enumerate(curve.amounts):
        pictures = pipeline.synthesize(pipeline.dial(faces, [80.0], amount)[:, 0])
        identity = (Colours()(to_tensor(pictures)) * Colours()(to_tensor(faces))).sum(1)
        torch.testing.assert_close(curve.identity[:, at], identity, atol=1e-4, rtol=0)
        np.testing.assert_allclose(curve.ages[:, at], brightness_as_age(pictures), atol=0.01)
    file = save(AgeClassifier(widths=(8, 8, 8, 8), depths=(1, 1, 1, 1)), tmp_path / "age.safetensors")
    with pytest.raises(InputError, match="no identity network"):
        pipeline.dial_curve(faces, 80.0, file)
    monkeypatch.setattr(pipeline, "read_age", lambda faces: None)
    assert pipeline.dial_curve(faces, 80.0, Colours(), amounts=[1.0]).ages is None


def test_calibration_finds_the_setting_that_reads_as_asked(pipeline, faces, monkeypatch):
    def stretched(pictures: list[Image.Image]) -> list[float]:
        """Years of which these networks, never trained, make a difference: it is small."""
        return [60 + 40 * (brightness - middle) / abs(high - low) for brightness in brightness_as_age(pictures)]

    low, high = brightness_as_age(pipeline.synthesize(pipeline.edit(faces[:1], [0.0, 100.0])[0]))
    middle = (low + high) / 2
    monkeypatch.setattr(pipeline, "read_age", stretched)
    shared = pipeline.calibrate(faces, [55.0, 70.0], tolerance=2.0)
    assert [(found.face, found.asked) for found in shared] == [(0, 55.0), (0, 70.0), (1, 55.0), (1, 70.0)]
    assert shared[0].reached
    assert shared[1].reached
    for found in shared:
        for setting, reading in ((found.set, found.read), (found.asked, found.plain)):
            (again,) = stretched(pipeline.synthesize(pipeline.edit([faces[found.face]], [setting])[0]))
            assert again == pytest.approx(reading, abs=0.5)
    monkeypatch.setattr(pipeline, "read_age", lambda faces: None)
    with pytest.raises(InputError, match="needs an age network"):
        pipeline.calibrate(faces, [20.0])


def test_ages_are_read_by_the_pipelines_own_network(faces):
    torch.manual_seed(2)
    pipeline = AgingPipeline(tiny_sam(), age_net=AgeClassifier(widths=(8, 8, 8, 8), depths=(1, 1, 1, 1)))
    (found,) = pipeline.calibrate(faces[:1], [30.0], rounds=1)
    curve = pipeline.dial_curve(faces[:1], 30.0, Colours(), amounts=[1.0])
    (wanted,) = pipeline.read_age(pipeline.synthesize(pipeline.edit(faces[:1], [30.0])))
    assert found.read == pytest.approx(wanted, abs=1e-3)
    assert curve.ages.item() == pytest.approx(wanted, abs=1e-3)


def test_a_path_holds_the_edits_codes(pipeline, faces, tmp_path):
    path = pipeline.path(faces[0], [80, 0, 40])
    assert path.ages.tolist() == [0.0, 40.0, 80.0]
    torch.testing.assert_close(path.codes, pipeline.edit(faces[:1], [0, 40, 80])[0])
    assert torch.equal(path.latent_avg, pipeline.sam.latent_avg)
    assert len(pipeline.synthesize(LifespanPath.load(path.save(tmp_path / "life.npz")).at([20, 60]))) == 2


def test_directions_are_fitted_to_folders_and_what_cannot_be_used_is_reported(pipeline, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pipeline, "find_faces", lambda image, **_: [(image, None)])
    bright = [Image.fromarray(np.asarray(noise_face(seed)) // 2 + 100) for seed in range(6)]
    dark = [noise_face(seed) for seed in range(6, 12)]
    for folder, pictures in (("bright", bright), ("dark", dark)):
        (tmp_path / folder).mkdir()
        for number, picture in enumerate(pictures):
            picture.save(tmp_path / folder / f"{number}.png")
    (tmp_path / "dark" / "broken.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING, "sam_age"):
        found = pipeline.direction(tmp_path / "bright", tmp_path / "dark", "bright")
    assert "broken.png" in caplog.text
    labels = torch.tensor([0.0] * 6 + [1.0] * 6)
    wanted = fit_direction(pipeline.encode(dark + bright), labels)
    torch.testing.assert_close(found.normal, wanted.normal)
    assert found.read(pipeline.encode(bright)).mean() > found.read(pipeline.encode(dark)).mean()
    with pytest.raises(InputError, match="No face"):
        pipeline.direction([], [])
    given = pipeline.direction(bright, dark, "bright")
    torch.testing.assert_close(given.normal, found.normal)


def test_a_direction_goes_before_ageing_through_a_picture_and_after_it_through_the_code(pipeline, faces):
    labels = torch.tensor([0.0, 1.0] * 6)
    direction = fit_direction(pipeline.encode([noise_face(seed) for seed in range(12)]), labels)
    after = pipeline.move(faces, [30.0], direction, 2.0)
    torch.testing.assert_close(after, direction(pipeline.edit(faces, [30.0]), 2.0))
    pictures = pipeline.synthesize(direction(pipeline.encode(faces), 2.0))
    grown = to_images(to_tensor(pictures).repeat_interleave(8, 2).repeat_interleave(8, 3))
    torch.testing.assert_close(
        pipeline.move(faces, [30.0], direction, 2.0, when="before"), pipeline.edit(grown, [30.0])
    )
    with pytest.raises(InputError, match="before or after"):
        pipeline.move(faces, [30.0], direction, when="instead")


@pytest.mark.parametrize("blend", ["pixels", "features"])
@pytest.mark.parametrize("onto", ["input", "reconstruction"])
def test_a_patch_ages_its_region_alone(pipeline, faces, onto, blend):
    made = pipeline.patch(faces, [10.0, 90.0], "hair", onto=onto, blend=blend)
    assert [len(row) for row in made] == [2, 2]
    outside = ~mask_of("hair", 32, 0)[0, 0].bool().numpy()
    starts = (
        [face.resize((32, 32), Image.Resampling.LANCZOS) for face in faces]
        if onto == "input"
        else pipeline.synthesize(pipeline.encode(faces))
    )
    for row, start, aged in zip(made, starts, pipeline.edit(faces, [10.0, 90.0]), strict=True):
        for picture, whole in zip(row, pipeline.synthesize(aged), strict=True):
            pixels, before = np.asarray(picture), np.asarray(start)
            assert (pixels == before)[outside].all()
            assert (pixels != before).any()
            if blend == "pixels":
                deep = (mask_of("hair", 32)[0, 0] == 1).numpy()
                assert (pixels == np.asarray(whole))[deep].all()


def test_choices_that_are_none_are_refused(pipeline, faces):
    with pytest.raises(InputError, match="onto is"):
        pipeline.patch(faces, [30.0], "hair", onto="paper")
    with pytest.raises(InputError, match="no region"):
        pipeline.patch(faces, [30.0], "ears")
    assert "ears" not in REGIONS
