"""Clips: aged faces stay where the face is, do not flicker, and nothing else changes."""

from __future__ import annotations

import logging
import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sam_age.data.align import align
from sam_age.errors import InputError
from sam_age.pipeline import AgingPipeline
from sam_age.video import AgedFrames, Cast, cast_sheet, choose_tracks, find_cast, flicker
from sam_age.weights import BUNDLE
from tests.moving import FPS, Stamp, camera, run, shot, true_quad, wall
from tests.standin import Mirror

pytest.importorskip("imageio_ffmpeg")
from sam_age.clips import encode, open_clip, write_clip

COUNT = 24


def film(path: Path, frames: list[np.ndarray], *options: str, fps: int = FPS) -> Path:
    """A clip without loss, so that what is compared is our doing: H.264 of RGB."""
    height, width, _ = frames[0].shape
    lossless = ["-c:v", "libx264rgb", "-qp", "0", "-preset", "ultrafast"]
    command = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    import imageio_ffmpeg

    whole = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *command, *lossless, *options, str(path)]
    subprocess.run(whole, input=b"".join(frame.tobytes() for frame in frames), check=True)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return [shot(number) for number in range(COUNT)]


@pytest.fixture(scope="module")
def clip(folder: Path, frames):
    return open_clip(film(folder / "moving.mp4", frames))


@pytest.fixture(scope="module")
def pipeline() -> AgingPipeline:
    return AgingPipeline(Stamp())


@pytest.fixture(scope="module")
def cast(pipeline, clip) -> Cast:
    return find_cast(pipeline, clip, progress=False)


def test_a_face_is_one_track_and_its_places_are_steadier_than_the_detector_and_as_true(cast: Cast) -> None:
    (track,) = cast.tracks
    assert (track.start, track.stop, track.opens, track.closes, cast.cuts) == (0, COUNT, False, False, [])

    def seen_by_the_portrait(quads: np.ndarray) -> np.ndarray:
        moves = [camera(number) for number in range(COUNT)]
        return np.stack([(q - m[:, 2]) @ np.linalg.inv(m[:, :2]).T for q, m in zip(quads, moves, strict=True)])

    found, steady = seen_by_the_portrait(track.found), seen_by_the_portrait(track.quads(0.12 * FPS))
    assert np.abs(np.diff(steady, 2, 0)).mean() < 0.1 * np.abs(np.diff(found, 2, 0)).mean()  # trembling; measured 0.04
    assert np.abs(steady.mean(0) - found.mean(0)).max() < 1  # pixels of 256: no lag, and turning points are not cut
    assert steady.std(0).mean() < found.std(0).mean()


@pytest.fixture(scope="module")
def one_by_one(pipeline, clip, cast) -> list[np.ndarray]:
    return list(AgedFrames(pipeline, clip, cast, [0], [70], smoothing=0))


@pytest.fixture(scope="module")
def steady(pipeline, clip, cast) -> list[np.ndarray]:
    return list(AgedFrames(pipeline, clip, cast, [0], [70]))


def test_flicker_is_far_below_that_of_frames_aged_one_by_one(one_by_one, steady, frames) -> None:
    places = [true_quad(number) for number in range(COUNT)]
    before, after = flicker(one_by_one, places), flicker(steady, places)
    assert after < 0.2 * before, (after, before)  # measured 1.7 and 15.5 levels
    assert after < flicker(frames, places)  # and below the camera's own noise


def test_without_smoothing_each_frame_is_what_photo_makes_of_it(pipeline, one_by_one, frames) -> None:
    for number in (0, 17):
        alone = pipeline.photo(Image.fromarray(frames[number]), [70])
        assert np.array_equal(one_by_one[number], np.asarray(alone.image()))
        outside = np.asarray(alone.mask) == 0
        assert np.array_equal(one_by_one[number][outside], frames[number][outside])


def test_the_size_of_batches_changes_no_frame(pipeline, clip, cast, steady) -> None:
    batched = AgedFrames(AgingPipeline(pipeline.sam, batch_size=5), clip, cast, [0], [70])
    for one, other in zip(steady, batched, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert batched.aged == COUNT


def test_a_ramp_of_ages_goes_from_the_first_frame_to_the_last(clip, cast, frames) -> None:
    """A mirror that is a level brighter for each year."""
    pipeline = AgingPipeline(Mirror(shift=1), batch_size=8)
    made = list(AgedFrames(pipeline, clip, cast, [0], [0, COUNT - 1], match_colours=False))
    for number in (0, 8, 16, COUNT - 1):
        middle = np.rint(true_quad(number).mean(0)).astype(int)
        here = np.s_[middle[1] - 20 : middle[1] + 20, middle[0] - 20 : middle[0] + 20]
        dark = frames[number][here] < 180  # what is bright has no room
        brighter = made[number][here].astype(int) - frames[number][here]
        assert np.median(brighter[dark]) == pytest.approx(number, abs=1.5)


def test_a_cut_ends_a_track_and_frames_without_a_face_stay_as_they_are(pipeline, folder, frames) -> None:
    """Eight frames of her, six of nobody, eight of her elsewhere at once."""
    empty = [wall()] * 6
    elsewhere = [np.ascontiguousarray(frame[:, ::-1]) for frame in frames[:8]]
    scenes = [*frames[:8], *empty, *elsewhere]
    clip = open_clip(film(folder / "cuts.mkv", scenes))
    cast = find_cast(pipeline, clip, progress=False)
    assert cast.cuts == [8, 14]
    assert sorted((track.start, track.stop, track.opens, track.closes) for track in cast.tracks) == [
        (0, 8, False, False),
        (14, 22, False, False),
    ]
    assert sorted(choose_tracks("largest", cast)) == [0, 1]
    assert cast_sheet(clip, cast, 64).width == 2 * 64 + 3 * 4
    drawn = AgedFrames(pipeline, clip, cast, [0, 1], [60])
    made = list(drawn)
    assert drawn.aged == 16
    for number, (frame, after) in enumerate(zip(scenes, made, strict=True)):
        assert np.array_equal(frame, after) == (8 <= number < 14)


def test_someone_who_comes_up_fades_in_and_misses_are_filled_in(pipeline) -> None:
    from sam_age.tracking import Tracker

    tracker, still = Tracker(25), Image.new("RGB", (640, 480))
    stays, comes = true_quad(0), true_quad(0) + np.array([300, 0])
    for number in range(40):
        seen = [] if number in (20, 21) else [comes] if number >= 10 else []
        blink = [comes - [0, 220]] if number == 30 else []  # one frame: no face
        tracker.add(still, [*blink, *seen, stays])  # in any order
    a, b = sorted(tracker.finish(), key=lambda track: track.start)
    assert (a.start, a.stop, a.opens, b.start, b.stop, b.opens) == (0, 40, False, 10, 40, True)
    assert np.allclose(b.quads(3), comes)
    strengths = [b.strength(number, 5) for number in (10, 12, 14, 15, 39)]
    assert strengths == pytest.approx([1 / 6, 0.5, 5 / 6, 1, 1])


def test_smoothing_keeps_a_parabola_and_forgets_a_slip() -> None:
    from sam_age.tracking import Track

    times = np.arange(40.0)
    way = np.stack([0.05 * times**2, 3 * times], -1)[:, None] + true_quad(0)
    assert np.allclose(Track(0, way).quads(3), way, atol=1e-6)
    slipped = way + np.random.default_rng(0).normal(0, 0.3, way.shape)
    slipped[25] += 30
    assert np.abs(Track(0, slipped).quads(3) - way).max() < 1.5


# ---- files -----------------------------------------------------------------------------------------------------------


def probe(path: Path) -> str:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode()


def test_a_clip_is_written_with_its_rate_its_length_and_its_very_audio(folder, frames) -> None:
    source = film(folder / "silent.mp4", frames, fps=15)
    run("-i", str(source), "-f", "lavfi", "-i", "sine=d=2", "-c:v", "copy", "-c:a", "aac", "-metadata", "title=Home",
        "-metadata", "location=+48.1+011.6/", str(folder / "loud.mp4"))  # fmt: skip
    pipeline = AgingPipeline(Stamp())
    done = pipeline.video(folder / "loud.mp4", folder / "deep" / "aged.mp4", 70, progress=False)
    assert (done.aged, done.chosen, done.cast.frames) == (COUNT, [0], COUNT)
    written = open_clip(done.path)
    assert (written.size, written.fps, written.audio) == ((320, 240), 15, ("aac",))
    sound = [
        run("-i", str(path), "-map", "0:a", "-c", "copy", "-f", "md5", "-") for path in (folder / "loud.mp4", done.path)
    ]
    assert sound[0] == sound[1]
    said = probe(done.path)
    assert "48.1" not in said
    assert "Home" not in said
    assert [path.name for path in done.path.parent.iterdir()] == ["aged.mp4"]
    shown = list(written.frames())
    assert len(shown) == COUNT
    back = np.mean([np.abs(shown[n][:30].astype(int) - frames[n][:30]).mean() for n in (0, COUNT - 1)])
    assert back < 4.5  # noise of 5 levels, compressed: no cast, no shift of colours


def test_rotated_clips_come_upright(folder, frames) -> None:
    held = [np.ascontiguousarray(np.rot90(frame)) for frame in frames[:3]]
    plain = film(folder / "held.mp4", held)
    run("-display_rotation", "90", "-i", str(plain), "-c", "copy", str(folder / "turned.mp4"))
    turned = open_clip(folder / "turned.mp4")
    shown = list(turned.frames())
    assert turned.size in ((320, 240), (240, 320))
    assert len(shown) == 3
    options = [np.rot90(held[0], k) for k in (1, 3)]
    assert any(option.shape == shown[0].shape and np.array_equal(option, shown[0]) for option in options)
    out = write_clip(folder / "upright.mp4", turned.frames(), turned)
    assert "rotation" not in probe(out)
    assert open_clip(out).size == turned.size


def test_variable_rates_are_laid_out_evenly_and_oblong_pixels_made_square(folder, frames) -> None:
    plain = film(folder / "even.mp4", frames)
    chosen = "select='not(mod(n,3)*mod(n,7))',setsar=2/1"
    run("-i", str(plain), "-vf", chosen, "-fps_mode", "vfr", "-c:v", "libx264rgb", "-qp", "0", str(folder / "vfr.mp4"))
    clip = open_clip(folder / "vfr.mp4")
    assert clip.variable
    assert clip.size == (640, 240)
    shown = list(clip.frames())
    assert len(shown) * float(1 / clip.fps) == pytest.approx(COUNT / FPS, abs=0.12)
    still = [np.array_equal(a, b) for a, b in pairwise(shown)]
    assert sum(still) >= COUNT // 3  # those that show longer are repeated


@pytest.mark.parametrize(("height", "matrix"), [(240, "bt601"), (720, "bt709")])
def test_colours_that_say_nothing_of_themselves_are_read_as_players_show_them(tmp_path, height, matrix) -> None:
    colour = (200, 60, 30)
    path, flat = tmp_path / "flat.mp4", np.full((height, 320, 3), colour, np.uint8)
    into = f"scale=out_color_matrix={matrix},format=yuv420p,setparams=colorspace=unknown"
    run("-f", "lavfi", "-i", f"color=0xC83C1E:s=320x{height}:d=0.1,format=rgb24", "-vf", into, str(path))
    (shown, *_) = open_clip(path).frames()
    assert np.abs(shown.astype(int) - flat).max() <= 3
    (again, *_) = open_clip(write_clip(tmp_path / "again.mp4", iter([shown]), open_clip(path))).frames()
    assert np.abs(again.astype(int) - flat).max() <= 4


def test_pictures_that_begin_after_the_sound_stay_with_it(folder, frames) -> None:
    plain = film(folder / "late.mkv", frames[:10])
    run("-itsoffset", "0.4", "-i", str(plain), "-f", "lavfi", "-i", "sine=d=0.8", "-c:v", "copy", "-c:a", "aac",
        str(folder / "later.mkv"))  # fmt: skip
    shown = list(open_clip(folder / "later.mkv").frames())
    assert len(shown) == 20
    assert all(np.array_equal(frame, frames[0]) for frame in shown[:11])


def test_audio_that_a_container_does_not_take_is_said_and_made_aac(folder, frames, caplog) -> None:
    plain = film(folder / "p.mkv", frames[:6])
    run(
        "-i",
        str(plain),
        "-f",
        "lavfi",
        "-i",
        "sine=d=0.3",
        "-c:v",
        "copy",
        "-c:a",
        "pcm_s16le",
        str(folder / "pcm.mkv"),
    )
    with caplog.at_level(logging.INFO, "sam_age"):
        done = AgingPipeline(Stamp()).video(folder / "pcm.mkv", folder / "pcm.mp4", 70, progress=False)
    assert "audio becomes AAC" in caplog.text
    assert open_clip(done.path).audio == ("aac",)


def test_what_cannot_be_aged_says_so_and_writes_nothing(pipeline, clip, folder, tmp_path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    Image.fromarray(data.astronaut()).save(tmp_path / "photo.jpg")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    run("-f", "lavfi", "-i", "sine=d=0.1", str(tmp_path / "sound.mp4"))
    film(tmp_path / "nobody.mp4", [wall()] * 4)
    run("-i", str(tmp_path / "nobody.mp4"), "-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-x264-params",
        "transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc", str(tmp_path / "hdr.mp4"))  # fmt: skip
    out = tmp_path / "out" / "aged.mp4"
    for name, says in {
        "absent.mp4": "There is no clip",
        "text.mp4": "no film that ffmpeg can read",
        "photo.jpg": r"AgingPipeline\.photo takes pictures",
        "list.m3u8": "no film that ffmpeg can read",
        "sound.mp4": "no pictures in it",
        "nobody.mp4": r"No face found in .*nobody\.mp4 \(4 frames of 320 x 240\)",
        "hdr.mp4": "is HDR",
    }.items():
        with pytest.raises(InputError, match=says):
            pipeline.video(tmp_path / name, out, 70, progress=False)
    for wish, says in (
        ({"ages": []}, "No target ages"),
        ({"ages": [101]}, "0 to 100"),
        ({"path": "aged.gif"}, r"as \.mp4, \.mov, \.mkv"),
        ({"path": clip.path}, "is the clip itself"),
        ({"smoothing": -1}, "smoothing is"),
        ({"region": "hat"}, "region is one of"),
    ):
        given = {"path": out, "ages": 70, **wish}
        with pytest.raises(InputError, match=says):
            pipeline.video(clip.path, given.pop("path"), given.pop("ages"), progress=False, **given)
    assert not out.exists()


def test_a_film_that_fails_leaves_the_old_file(clip, tmp_path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"old")

    def some():
        yield wall()
        raise InputError("enough")

    with pytest.raises(InputError, match="enough"):
        write_clip(tmp_path / "film.mp4", some(), clip)
    assert (tmp_path / "film.mp4").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_ffmpeg_reports_at_the_end_is_an_error_and_no_file(tmp_path) -> None:
    with pytest.raises(InputError, match=r"ffmpeg could not write the film: .*No such file"):
        encode(tmp_path / "a.mp4", [wall()] * 3, (320, 240), Fraction(25), ["-i", "absent.wav", "-map", "1:a"])
    assert list(tmp_path.iterdir()) == []


def test_rates_are_exact_fractions(folder) -> None:
    film(folder / "ntsc.mp4", [wall()] * 4, "-r", "30000/1001")
    assert open_clip(folder / "ntsc.mp4").fps == Fraction(30000, 1001)


def test_flicker_counts_change_and_not_motion(frames) -> None:
    places = [true_quad(number) for number in range(8)]
    calm = [shot(number, noise=0) for number in range(8)]
    nervous = [
        np.clip(frame.astype(int) + 6 * (-1) ** number, 0, 255).astype(np.uint8) for number, frame in enumerate(calm)
    ]
    assert flicker(nervous, places) - flicker(calm, places) > 15  # 6 up and down is 24, less what the calm one has
    assert flicker(calm, places) < 3  # resampling
    with pytest.raises(InputError, match="three frames"):
        flicker(calm[:2], places)
    assert align(Image.fromarray(calm[0]), places[0]).size == (256, 256)


@pytest.mark.slow
@pytest.mark.skipif(BUNDLE["lifespan"].find() is None, reason="the bundle has not been made yet")
def test_flicker_of_the_packages_own_weights(clip, cast, frames) -> None:
    sam, places = AgingPipeline.from_pretrained("lifespan", device="cpu"), [true_quad(n) for n in range(COUNT)]
    before, after = (
        flicker(AgedFrames(sam, clip, cast, [0], [70], smoothing=smoothing), places) for smoothing in (0, 1)
    )
    print(f"flicker: source {flicker(frames, places):.2f}, one by one {before:.2f}, smoothed {after:.2f} levels")
    assert after < 0.6 * before
