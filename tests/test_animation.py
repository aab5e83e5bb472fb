"""Films: which ages their frames show, and that other programs read what is written."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_age.animation import animate, frame_ages, write_film
from sam_age.clips import even
from sam_age.errors import InputError
from sam_age.pipeline import AgingPipeline
from tests.standin import Mirror


@pytest.fixture
def grey() -> Image.Image:
    return Image.new("RGB", (256, 256), (60, 60, 60))


@pytest.fixture
def pipeline() -> AgingPipeline:
    """Each year makes a face a level brighter."""
    return AgingPipeline(Mirror(shift=1), batch_size=4)


def levels(path: Path) -> list[float]:
    """The mean level of each frame, as Pillow or ffmpeg reads it."""
    if path.suffix == ".mp4":
        ffmpeg = pytest.importorskip("imageio_ffmpeg")
        reader = ffmpeg.read_frames(str(path))
        meta = next(reader)
        return [float(np.frombuffer(frame, np.uint8).mean()) for frame in reader if meta["size"]]
    with Image.open(path) as film:
        found = []
        for number in range(film.n_frames):
            film.seek(number)
            found.append(float(np.asarray(film.convert("RGB")).mean()))
        return found


def test_frames_go_at_an_even_pace_whatever_the_anchors() -> None:
    assert frame_ages([0, 20, 100], 11, "once") == pytest.approx(np.arange(0, 101, 10))
    assert frame_ages([80, 20], 4, "once") == [80, 60, 40, 20]


def test_a_film_that_repeats_shows_no_age_twice_in_a_row() -> None:
    for loop in ("bounce", "wrap"):
        ages = frame_ages([10, 70, 90], 24, loop)
        steps = np.abs(np.diff([*ages, ages[0]]))  # back to the first frame as well
        assert steps.min() > 0
        assert steps.max() == pytest.approx(160 / 24, rel=0.01)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_frames_show_their_ages_there_and_back(pipeline, grey, tmp_path: Path, suffix: str) -> None:
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    path = animate(pipeline, grey, tmp_path / f"film{suffix}", [0, 100], seconds=0.8, fps=10, align="never")
    want = [60 + age for age in (0, 25, 50, 75, 100, 75, 50, 25)]
    assert levels(path) == pytest.approx(want, abs=2.5)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no parts are left


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_age_is_drawn_once(grey, tmp_path: Path, batch_size: int) -> None:
    class Counting(Mirror):
        drawn = 0

        def synthesize(self, w_plus, **kwargs):
            Counting.drawn += len(w_plus)
            return super().synthesize(w_plus, **kwargs)

    pipeline = AgingPipeline(Counting(shift=1), batch_size=batch_size)
    path = animate(pipeline, grey, tmp_path / "film.webp", [0, 50, 100], seconds=1, fps=20, align="never")
    assert Counting.drawn == 11  # of twenty frames, eleven ages
    assert levels(path) == pytest.approx([60 + age for age in [*range(0, 101, 10), *range(90, 0, -10)]], abs=2)


def test_length_and_repetition_are_those_asked_for(grey, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), (9 * n, 0, 0)) for n in range(25)]
    for suffix, exact in ((".gif", 10), (".webp", 1)):
        write_film(tmp_path / f"a{suffix}", frames, fps=30)
        with Image.open(tmp_path / f"a{suffix}") as film:
            total = 0
            for number in range(film.n_frames):
                film.seek(number)
                film.load()
                total += film.info["duration"]
            assert abs(total - 25000 / 30) <= exact  # and not 25 times a rounding
            assert film.info["loop"] == 0
    write_film(tmp_path / "once.gif", frames, fps=30, repeat=False)
    with Image.open(tmp_path / "once.gif") as film:
        assert "loop" not in film.info


def test_odd_sizes_are_made_even_for_mp4_alone(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    colour = (200, 60, 30)
    write_film(tmp_path / "odd.mp4", [Image.new("RGB", (33, 47), colour)] * 5, fps=25)
    reader = ffmpeg.read_frames(str(tmp_path / "odd.mp4"))
    meta = next(reader)
    assert (meta["size"], meta["fps"], meta["codec"]) == ((34, 48), 25, "h264")
    assert "yuv420p" in meta["pix_fmt"]
    first = np.frombuffer(next(reader), np.uint8).reshape(48, 34, 3)
    assert np.abs(first.astype(int) - colour).max() <= 4  # the colours come back: matrix and range are tagged
    pixels = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    assert np.array_equal(even(pixels)[:3, :5], pixels)
    write_film(tmp_path / "odd.webp", [Image.new("RGB", (33, 47), colour)] * 2)
    with Image.open(tmp_path / "odd.webp") as film:
        assert film.size == (33, 47)


def test_gif_frames_share_one_palette(tmp_path: Path) -> None:
    """A still scene stays still: a palette a frame would make it flicker."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    frames = []
    for number in range(4):
        pixels = noise.copy()
        pixels[:8, :8] = (number * 60, 255 - number * 60, 0)
        frames.append(Image.fromarray(pixels))
    write_film(tmp_path / "still.gif", frames)
    with Image.open(tmp_path / "still.gif") as film:
        seen = []
        for number in range(film.n_frames):
            film.seek(number)
            seen.append(np.asarray(film.convert("RGB"), int)[32:])  # dithering carries errors on, but not this far
    assert len(seen) == 4
    assert np.abs(seen[0] - seen[-1]).mean() < 6


def test_a_caption_tells_the_age(pipeline, grey, tmp_path: Path) -> None:
    options = {"seconds": 0.4, "fps": 10, "align": "never"}
    plain = animate(pipeline, grey, tmp_path / "a.webp", [0, 60], **options)
    told = animate(pipeline, grey, tmp_path / "b.webp", [0, 60], caption=True, **options)
    with Image.open(plain) as a, Image.open(told) as b:
        changed = np.abs(np.asarray(a.convert("RGB"), int) - np.asarray(b.convert("RGB"))).max(-1) > 40
    rows, columns = np.nonzero(changed)
    assert rows.min() > 200
    assert columns.max() < 100


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": "film.avi"}, r"as \.mp4, \.gif, \.webp, not film\.avi"),
        ({"ages": [30]}, "at least two ages"),
        ({"ages": [30, 30]}, "different ages"),
        ({"ages": [0, 101]}, "0 to 100"),
        ({"fps": 0}, "fps of a"),
        ({"fps": 60}, r"fps of a \.gif is a number from 1 to 50"),
        ({"seconds": -1}, "seconds is"),
        ({"seconds": 1000}, "too long"),
        ({"loop": "round"}, "loop is one of"),
    ],
)
def test_wrong_wishes_draw_and_write_nothing(pipeline, grey, tmp_path: Path, options: dict, says: str) -> None:
    given = {"path": "film.gif", "align": "never", **options}
    path = tmp_path / given.pop("path")
    with pytest.raises(InputError, match=says):
        animate(pipeline, grey, path, **given)
    assert list(tmp_path.iterdir()) == []


def test_without_the_encoder_mp4_says_what_to_install(pipeline, grey, tmp_path: Path, monkeypatch) -> None:
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "imageio_ffmpeg":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"sam-age\[video\]"):
        animate(pipeline, grey, tmp_path / "film.mp4", align="never")


def test_frames_that_fail_leave_no_half_film(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "film.mp4").write_bytes(b"old")

    def frames():
        yield Image.new("RGB", (16, 16))
        yield Image.new("RGB", (18, 16))

    with pytest.raises(InputError, match="one size"):
        write_film(tmp_path / "film.mp4", frames())
    assert (tmp_path / "film.mp4").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
