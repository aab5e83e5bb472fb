"""From a photograph to aged faces: the public Python API."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from sam_age.choices import check_ages, choose
from sam_age.errors import InputError
from sam_age.pipeline import AgingPipeline
from sam_age.sheets import sheet, to_images, to_tensor
from sam_age.weights import save
from tests.modules.test_aging import tiny_sam


@pytest.fixture(scope="module")
def pipeline() -> AgingPipeline:
    return AgingPipeline(tiny_sam(), batch_size=4)


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(data.astronaut())


def noise_face(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8))


def test_a_photo_gives_one_picture_per_age(pipeline: AgingPipeline, astronaut: Image.Image) -> None:
    (aged,) = pipeline(astronaut, ages=[5, 30.5, 80])
    assert aged.ages == [5, 30.5, 80]
    assert [image.size for image in aged.images] == [(32, 32)] * 3
    assert aged.face.size == (256, 256)
    assert aged.w_plus.shape == (3, 8, 16)
    assert aged.quad.shape == (4, 2)
    left, top = aged.quad.min(0)
    right, bottom = aged.quad.max(0)
    assert left < 224 < right  # her face is centred near (224, 113)
    assert top < 113 < bottom


def test_an_aligned_face_is_not_aligned_again(pipeline: AgingPipeline, astronaut: Image.Image) -> None:
    (first,) = pipeline(astronaut, ages=[30])
    (second,) = pipeline(first.face, ages=[30])
    assert second.quad is None
    assert second.face.tobytes() == first.face.tobytes()


def test_batches_and_single_faces_give_the_same(pipeline: AgingPipeline) -> None:
    faces, ages = [noise_face(i) for i in range(3)], [0.0, 40.0, 99.0]
    together, _ = pipeline.age(faces, ages)
    for face, codes in zip(faces, together, strict=True):
        for age, code in zip(ages, codes, strict=True):
            (alone,), _ = pipeline.age([face], [age])
            torch.testing.assert_close(alone[0], code, rtol=1e-4, atol=1e-5)


def test_the_api_in_steps_gives_what_the_call_gives_and_what_the_model_gives(pipeline: AgingPipeline) -> None:
    faces, ages = [noise_face(i) for i in range(3)], [10.0, 70.0]
    codes = pipeline.edit(faces, ages, pipeline.encode(faces))
    assert codes.shape == (3, 2, 8, 16)
    whole, steps = pipeline.age_faces(faces, ages), pipeline.synthesize(codes)
    with torch.no_grad():
        pixels = to_tensor(faces).repeat_interleave(2, 0)
        want, w_plus = pipeline.sam(pixels, torch.tensor(ages * 3), resize=False, return_latents=True)
    torch.testing.assert_close(codes.flatten(0, 1), w_plus, rtol=1e-4, atol=1e-5)
    for face, aged in enumerate(whole):
        torch.testing.assert_close(aged.w_plus, codes[face], rtol=1e-4, atol=1e-5)
        for age, image in enumerate(aged.images):
            for other in (steps[2 * face + age], to_images(want[2 * face + age][None])[0]):
                assert np.abs(np.asarray(image, int) - np.asarray(other, int)).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_size_of_batches_changes_nothing(pipeline: AgingPipeline, batch_size: int) -> None:
    faces, ages = [noise_face(i) for i in range(3)], [0.0, 50.0, 100.0]
    judged = AgingPipeline(pipeline.sam, batch_size=batch_size, age_net=Brightness())
    reference = AgingPipeline(pipeline.sam, batch_size=9, age_net=Brightness())
    for got, want in zip(judged.age_faces(faces, ages), reference.age_faces(faces, ages), strict=True):
        torch.testing.assert_close(got.w_plus, want.w_plus, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(got.images, want.images, strict=True):
            assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
        assert got.ages_read == pytest.approx(want.ages_read, abs=0.5)


def test_every_face_may_have_ages_of_its_own(pipeline: AgingPipeline) -> None:
    faces = [noise_face(0), noise_face(1)]
    own = pipeline.edit(faces, [[10, 20], [30, 40]])
    torch.testing.assert_close(own[1], pipeline.edit(faces[1:], [30, 40])[0], rtol=1e-4, atol=1e-5)
    for wrong in ([[10, 20]], [[10], [20, 30]], [[10, 20], [30, 400]], "old"):
        with pytest.raises(InputError):
            pipeline.edit(faces, wrong)


def test_the_face_is_inverted_once_for_all_ages() -> None:
    sam, calls = tiny_sam(), []
    sam.pretrained_encoder.register_forward_hook(lambda *_: calls.append(1))
    AgingPipeline(sam, batch_size=1).age_faces([noise_face(0)], [0, 20, 40, 60])
    assert len(calls) == 1


class Brightness(torch.nn.Module):
    """Reads an age off the mean level: 0 for black, 100 for white."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        assert faces.shape[1:] == (3, 256, 256)
        return (faces.mean((1, 2, 3)) + 1) * 50


def test_ages_are_read_before_and_after(pipeline: AgingPipeline) -> None:
    judged = AgingPipeline(pipeline.sam, age_net=Brightness())
    (aged,) = judged.age_faces([Image.new("RGB", (256, 256), (51, 51, 51))], [20, 60])
    assert aged.age_read == pytest.approx(20, abs=1e-3)
    levels = [np.asarray(image, float).mean() / 2.55 for image in aged.images]
    assert aged.ages_read == pytest.approx(levels, abs=1e-3)
    assert aged.cells()[0][1] == "input\nlooks 20"
    (unread,) = pipeline.age_faces([noise_face(0)], [20])
    assert (unread.age_read, unread.ages_read, unread.cells()[0][1]) == (None, None, "input")
    assert pipeline.read_age([noise_face(0)]) is None


def test_faces_are_chosen_by_number(pipeline: AgingPipeline, astronaut: Image.Image) -> None:
    assert choose([1, 0, 1], 2) == [1, 0]
    for wrong in ("some", [], [0.5], [True], "01"):
        with pytest.raises(InputError, match="faces is one of"):
            choose(wrong, 2)
    with pytest.raises(InputError, match=r"no face 1 in the picture, which has one face, number 0"):
        pipeline(astronaut, ages=[30], faces=[0, 1])


def test_a_checkpoint_of_ours_becomes_a_pipeline(tmp_path) -> None:
    sam = tiny_sam().eval()
    save(sam, tmp_path / "sam.safetensors")
    loaded = AgingPipeline.from_pretrained(tmp_path / "sam.safetensors", device="cpu")
    (want,), _ = AgingPipeline(sam).age([noise_face(0)], [50.0])
    (got,), _ = loaded.age([noise_face(0)], [50.0])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("ages", [[-1], [101], ["old"], [float("nan")], [None], [True], []])
def test_ages_that_are_none_are_refused(ages: list) -> None:
    with pytest.raises(InputError, match="0 to 100"):
        check_ages(ages)


def test_a_picture_without_a_face_says_so(pipeline: AgingPipeline) -> None:
    with pytest.raises(InputError, match=r"No face found in the picture \(300 x 200\).*align=never"):
        pipeline(Image.new("RGB", (300, 200), "grey"), ages=[30])
    (whole,) = pipeline(Image.new("RGB", (300, 200), "grey"), ages=[30], align="never")
    assert whole.face.size == (256, 256)


def test_unknown_choices_are_refused(pipeline: AgingPipeline) -> None:
    with pytest.raises(InputError, match="align is one of"):
        pipeline(noise_face(0), ages=[30], align="maybe")
    with pytest.raises(InputError, match="precision is"):
        AgingPipeline(tiny_sam(), precision="float8")
    with pytest.raises(InputError, match="Device 'tpu9'"):
        AgingPipeline.from_pretrained("x.pt", device="tpu9")


def test_pictures_survive_the_way_to_tensors_and_back() -> None:
    face = noise_face(3)
    (back,) = to_images(to_tensor([face]))
    assert back.tobytes() == face.tobytes()


def test_a_sheet_holds_every_picture() -> None:
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    made = np.asarray(sheet([[(red, "one"), (blue, "two")], [(blue, "three\nlines")]], cell=64))
    for colour, count in (((255, 0, 0), 1), ((0, 0, 255), 2)):
        assert (made == colour).all(-1).sum() == count * 64 * 64


def test_importing_and_using_the_package_needs_no_hydra_lightning_or_wandb() -> None:
    code = (
        "import sys, sam_age; assert 'torch' not in sys.modules; "
        "from sam_age import AgingPipeline, load, SAM; "
        "heavy = {'hydra', 'omegaconf', 'pytorch_lightning', 'wandb', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_face_is_sent_to_the_device_once_for_all_its_ages(pipeline: AgingPipeline, monkeypatch) -> None:
    faces, ages = [noise_face(i) for i in range(3)], [float(age) for age in range(11)]
    sent: list[int] = []
    move = torch.Tensor.to

    def counted(self, *args, **kwargs):
        sent.append(self.numel())
        return move(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", counted)
    wide = AgingPipeline(pipeline.sam, batch_size=33)
    codes = wide.edit(faces, ages, torch.zeros(3, 8, 16))
    assert codes.shape == (3, 11, 8, 16)
    assert max(sent) == 3 * 3 * 256 * 256  # not 33 times


@pytest.mark.gpu
def test_compiled_encoders_give_what_plain_ones_give():
    plain = AgingPipeline(tiny_sam().to("cuda"), batch_size=4)
    faces, ages = [noise_face(0), noise_face(10)], [10.0, 70.0]
    want = plain.edit(faces, ages)
    compiled = AgingPipeline(plain.sam, batch_size=4, compiled=True)
    torch.testing.assert_close(compiled.edit(faces, ages), want, rtol=3e-2, atol=3e-2)


@pytest.mark.gpu
def test_recorded_calls_give_what_plain_ones_give():
    plain = AgingPipeline(tiny_sam().to("cuda"), batch_size=4)
    recorded = AgingPipeline(plain.sam, batch_size=4, graphed=True)
    for seed in range(6):  # from the fourth on they are replayed, with other faces than were recorded
        faces, ages = [noise_face(seed), noise_face(seed + 10)], [10.0 + seed, 70.0]
        (want, other), (pictures, _) = plain.age(faces, ages)
        (got, more), (shown, _) = recorded.age(faces, ages)
        torch.testing.assert_close(torch.stack([got, more]), torch.stack([want, other]), rtol=1e-2, atol=1e-2)
        for one, two in zip(shown, pictures, strict=True):
            assert np.abs(np.asarray(one, int) - np.asarray(two)).mean() < 1
