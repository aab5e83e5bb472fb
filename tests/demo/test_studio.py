"""What the page does, without a page: strangers' files, and one visitor's codes."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from sam_age.demo.studio import Limits, Look, Studio, open_upload, samples_of
from sam_age.errors import InputError
from sam_age.pipeline import AgingPipeline
from tests.modules.test_aging import tiny_sam
from tests.standin import Mirror

LIMITS = Limits(megabytes=1, megapixels=4, photo_side=300)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few hundred bytes that says it has 900 megapixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")
    )


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"><script>alert(1)</script></svg>'
HOSTILE = {
    "text": (b"I am a picture, honestly.", "not a picture that can be read"),
    "empty": (b"", "not a picture that can be read"),
    "svg": (SVG, "not a picture that can be read"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not a picture that can be read"),
    "bomb": (bomb(), "more than 4 megapixels"),
    "bomb below Pillow's own limit": (bomb(3000), "more than 4 megapixels"),
    "large": (bytes(1_000_001), "at most 1 are taken"),
    "half": (png(Image.effect_noise((200, 200), 50))[:5000], "damaged"),
    "tiny": (png(Image.new("RGB", (20, 20))), "too few"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_photo_is_refused_in_one_sentence_and_little_memory(kind: str) -> None:
    given, message = HOSTILE[kind]
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as caught:
        open_upload(given, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert "/" not in str(caught.value)  # no path of this machine


def test_an_upload_keeps_its_pixels_and_nothing_else() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # turned by 90 degrees
    file = io.BytesIO()
    Image.new("RGB", (600, 400), "red").save(file, "JPEG", exif=exif)
    picture = open_upload(file.getvalue(), LIMITS)
    assert picture.size == (200, 300)  # upright, and reduced to 300
    assert not picture.info
    assert not picture.getexif()


def test_a_face_is_encoded_once_and_the_slider_is_the_pipelines_own_ageing() -> None:
    sam, calls = tiny_sam(), []
    sam.pretrained_encoder.register_forward_hook(lambda *_: calls.append(1))
    pipeline = AgingPipeline(sam)
    face = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    studio = Studio(pipeline, [face])
    sitting = studio.sample(0)
    pictures = [studio.draw(sitting, age)[0] for age in (5, 70, 5)]
    assert len(calls) == 1
    _, ((young, old),) = pipeline.age([face], [5, 70])
    assert [p.tobytes() for p in pictures] == [young.tobytes(), old.tobytes(), young.tobytes()]

    dialled = studio.codes(sitting, [70], Look(amount=0))
    torch.testing.assert_close(dialled[0], sitting.inversion, rtol=0, atol=0)
    borrowed = studio.codes(sitting, [70], Look(reference=torch.zeros(8, 16), share=1.0))
    assert (borrowed[:, 4:] == 0).all()
    torch.testing.assert_close(borrowed[0, :4], sitting.aged[70][:4])


def test_all_faces_of_a_photo_can_be_chosen_and_put_back() -> None:
    astronaut = Image.fromarray(data.astronaut())
    both = Image.new("RGB", (1024, 512))
    both.paste(astronaut, (0, 0))
    both.paste(astronaut.resize((300, 300)), (600, 100))
    studio = Studio(AgingPipeline(Mirror(shift=0.5)), limits=Limits(megapixels=1))
    sitting = studio.upload(png(both))
    assert len(sitting.crops) == 2
    sitting = studio.choose(sitting, 1)
    whole = np.asarray(studio.in_photo(sitting, 80, Look()), int)
    changed = np.abs(whole - np.asarray(both, int)).max((0, 2)) > 0
    assert changed[600:900].any()
    assert not changed[:500].any()
    for wrong in (2, -1, "0", None, 0.5):
        with pytest.raises(InputError, match="no such face"):
            studio.choose(sitting, wrong)


def test_a_photo_without_a_face_says_what_to_do_and_names_no_option_of_python() -> None:
    studio = Studio(AgingPipeline(Mirror()))
    with pytest.raises(InputError, match="No face was found") as caught:
        studio.upload(png(Image.new("RGB", (200, 200), "green")))
    assert "align" not in str(caught.value)


def test_the_film_goes_there_and_back() -> None:
    studio = Studio(AgingPipeline(Mirror(shift=1.0)), [Image.new("RGB", (256, 256), (60, 60, 60))])
    *shares, film = studio.film(studio.sample(0), Look(), seconds=1, fps=10)
    assert shares[-1] == 1
    with Image.open(io.BytesIO(film)) as picture:
        levels = []
        for frame in range(picture.n_frames):
            picture.seek(frame)
            levels.append(np.asarray(picture.convert("RGB")).mean())
    assert len(levels) == 10
    assert np.argmax(levels) == 5
    assert levels[0] == min(levels)


def test_samples_come_from_a_folder_of_pictures(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")
    assert [sample.size for sample in samples_of(tmp_path)] == [(256, 256)]
    with pytest.raises(InputError, match="no folder"):
        samples_of(tmp_path / "not there")
