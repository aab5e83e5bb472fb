"""Clips read and written frame by frame through ffmpeg, which imageio-ffmpeg brings: extra [video].

Frames come upright, with square pixels, at a constant rate, as 8-bit RGB; only one is held at a time.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from sam_age.errors import InputError

SUFFIXES = (".mp4", ".mov", ".mkv")
"""What clips are written as; many more are read."""

# What may be opened. Playlists and the like are not among them: they make ffmpeg read other files than the one given.
_DEMUXERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,dv,mxf,h264,hevc,m4v,3gp,mp4,webm"
_COPIED = {  # audio that a container takes as it is
    ".mp4": ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"),
    ".mov": ("aac", "mp3", "ac3", "eac3", "alac", "pcm"),
    ".mkv": ("",),
}
# H.264 as every browser and phone plays it; colours tagged, or players would guess by the picture's size
_COLOURS = [part for tag in ("colorspace", "color_primaries", "color_trc") for part in (f"-{tag}", "bt709")]
_SCALE = ["-vf", "scale=out_color_matrix=bt709:out_range=tv"]
_H264 = ["-crf", "17", "-preset", "medium", "-movflags", "+faststart", *_SCALE, *_COLOURS]
_MOST_FPS = 240
_PRECISE = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


@dataclass(frozen=True)
class Clip:
    """A film as it is read.

    Attributes:
        size: width and height, upright, pixels.
        fps: frames a second, constant.
        variable: the file's own rate is not: frames that show longer are repeated.
        seconds: its length, as far as the file says.
        audio: codecs of its audio tracks.
    """

    path: Path
    size: tuple[int, int]
    fps: Fraction
    variable: bool
    seconds: float | None
    audio: tuple[str, ...]
    filters: str

    @property
    def count(self) -> int | None:
        """About how many frames."""
        return None if self.seconds is None else max(1, round(self.seconds * self.fps))

    def frames(self) -> Iterator[np.ndarray]:
        """Its frames, (height, width, 3) uint8, decoded as they are asked for, the same each time."""
        width, height = self.size
        length = width * height * 3
        filters = f"{self.filters},scale={width}:{height}"  # some broadcasts change their size on the way
        with tempfile.TemporaryFile() as said:
            options = ["-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
            process = subprocess.Popen(
                _reading(self.path, *options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
            try:
                while len(data := process.stdout.read(length)) == length:
                    yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
                if process.wait():
                    raise InputError(f"{self.path} cannot be decoded to its end: {_reason(said)}.")
            finally:
                process.stdout.close()
                process.kill()
                process.wait()


def open_clip(path: str | Path) -> Clip:
    """Look at a clip.

    Raises:
        InputError: no such file, no film, one without pictures, or of a kind that cannot be shown faithfully.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no clip at {path}: give the path of a film.")
    said = subprocess.run(_reading(path), capture_output=True, stdin=subprocess.DEVNULL, check=False).stderr
    text = said.decode("utf-8", "replace")
    streams = re.findall(r"^ *Stream #0:\d+.*$", text, re.MULTILINE)
    video = next((line for line in streams if " Video: " in line and "attached pic" not in line), None)
    if video is None:
        found = "no pictures in it" if streams else "no film that ffmpeg can read"
        raise InputError(f"{path} is {found}. Give a film such as an .mp4; AgingPipeline.photo takes pictures.")
    if re.search(r"\b(smpte2084|arib-std-b67)\b", video):
        raise InputError(
            f"{path} is HDR, whose colours 8 bits cannot keep. Export it as SDR first (on an iPhone: Settings, Camera, "
            "Record Video, HDR off; or an editor's Rec. 709)."
        )
    fps, variable = _rate(video)
    audio = tuple(match[1] for line in streams if (match := re.search(r" Audio: (\w+)", line)))
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
    seconds = int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None
    filters = _filters(video, fps)
    first = subprocess.run(
        _reading(path, "-vf", filters, "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"),
        capture_output=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if not first.stdout:
        with tempfile.TemporaryFile() as file:
            file.write(first.stderr)
            raise InputError(f"{path} has no frame that can be decoded: {_reason(file)}.")
    with Image.open(BytesIO(first.stdout)) as image:  # rotation and pixels' shape are done: ffmpeg knows best
        return Clip(path, image.size, fps, variable, seconds, audio, filters)


def _reading(path: Path, *options: str) -> list[str]:
    start = [ffmpeg().get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-format_whitelist", _DEMUXERS]
    end = ["-map", "0:V:0", *options] if options else []  # V: no cover pictures
    if options:
        start += ["-loglevel", "error"]
    return [*start, "-i", f"file:{path}", *end]  # file: a path is never a protocol or an option


def _rate(video: str) -> tuple[Fraction, bool]:
    """Frames a second, from a line such as "30.01 fps, 30 tbr", and whether they vary.

    >>> _rate("h264, 29.97 fps, 29.97 tbr"), _rate("vp9, 17.5 fps, 1k tbr"), _rate("h264, 25 fps, 50 tbr")
    ((Fraction(30000, 1001), False), (Fraction(24, 1), True), (Fraction(25, 1), False))
    """
    said = {
        unit: float(number) * (1000 if k else 1) for number, k, unit in re.findall(r"([\d.]+)(k?) (fps|tbr)", video)
    }
    base = said.get("tbr", said.get("fps", 0.0))
    mean = said.get("fps", base)
    if not base:
        raise InputError("This clip does not say how many frames a second it has: convert it to an .mp4 first.")
    if abs(base - mean) <= 0.02 * mean or abs(base - 2 * mean) <= 0.02 * mean:  # twice: half pictures
        rate, variable = (base if abs(base - mean) <= 0.02 * mean else mean), False
    elif base <= 60:
        rate, variable = base, True
    else:
        rate, variable = min([n for n in (24, 25, 30, 50, 60) if n >= mean], default=60), True
    if rate > _MOST_FPS:
        raise InputError(f"This clip has {rate:g} frames a second, {_MOST_FPS} at most: convert it first.")
    for whole in (24, 30, 48, 60, 120):
        if abs(rate - whole / 1.001) < 0.006:
            return Fraction(whole * 1000, 1001), variable
    return Fraction(rate).limit_denominator(100), variable


def _filters(video: str, fps: Fraction) -> str:
    """From what is stored to upright RGB with square pixels at a constant rate, from the film's first moment on."""
    steps = [f"fps={fps.numerator}/{fps.denominator}:start_time=0"]
    if re.search(r"(top|bottom) (first|coded)", video):  # two half pictures in one frame: combs where something moves
        steps.insert(0, "bwdif=mode=send_frame:deint=interlaced")
    shape = re.search(r"SAR (\d+):(\d+)", video)
    if shape and shape[1] != shape[2] and "0" not in (shape[1], shape[2]):
        steps.append("scale='max(2,trunc(iw*sar/2+0.5)*2)':ih,setsar=1")
    height = int(re.search(r", \d+x(\d+)", video)[1])
    tagged = re.search(r"\b(bt709|bt470bg|smpte170m|bt2020n?c?|fcc|smpte240m|gbr)\b", video)
    matrix = "" if tagged else f"in_color_matrix={'bt709' if height >= 720 else 'bt601'}:"  # as players take it
    return ",".join([*steps, f"scale={matrix}{_PRECISE}", "format=rgb24"])


# ---- writing ---------------------------------------------------------------------------------------------------------


def even(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) with an even height and width, as H.264 wants them: the last row or column twice."""
    return np.pad(pixels, [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)], "edge")


def ffmpeg() -> ModuleType:
    """imageio-ffmpeg, or what to install."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise InputError(
            "Clips and .mp4 need imageio-ffmpeg: pip install 'sam-age[video]'. Animations can also be .gif or .webp."
        ) from None
    return imageio_ffmpeg


def check_target(path: Path, clip: Clip) -> None:
    """Refuse a name before anything is computed."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"Clips are written as {', '.join(SUFFIXES)}, not {path.name}: give it such a suffix.")
    if path.exists() and path.samefile(clip.path):
        raise InputError(f"{path} is the clip itself: give another name, it is read while the other is written.")


def copies_audio(clip: Clip, suffix: str) -> bool:
    """Does a container of this suffix take the clip's audio as it is."""
    return all(codec.startswith(_COPIED[suffix]) for codec in clip.audio)


def write_clip(path: str | Path, frames: Iterable[np.ndarray], clip: Clip) -> Path:
    """Write frames with the rate and the audio of a clip; an interruption leaves the old file or the new one.

    H.264 at visually lossless quality, colours tagged; audio is copied where the container takes its codec, else
    made AAC. Metadata is left out: a phone writes into it where the clip was made.

    Args:
        path: .mp4, .mov or .mkv.
        frames: (height, width, 3) uint8, drawn while they are written.
    """
    path = Path(path)
    check_target(path, clip)
    audio: list[str] = []
    if clip.audio:
        codec = ["copy"] if copies_audio(clip, path.suffix.lower()) else ["aac", "-b:a", "192k"]
        source = ["-format_whitelist", _DEMUXERS, "-i", f"file:{clip.path}"]
        audio = [*source, "-map", "0:v", "-map", "1:a", "-c:a", *codec]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, frames, clip.size, clip.fps, audio)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}.") from None
    return path


def encode(
    path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: Fraction, audio: Sequence[str] = ()
) -> None:
    """Write frames, (height, width, 3) uint8, as H.264; the file is there when all of it is written.

    Args:
        size: width and height of the frames, pixels; one row or column is repeated if odd.
        audio: ffmpeg's options for a second input.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    width, height = (side + side % 2 for side in size)
    command = [
        ffmpeg().get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0", *audio, "-map_metadata", "-1",
        "-map_chapters", "-1", "-c:v", "libx264", "-pix_fmt", "yuv420p", *_H264, f"file:{part}",
    ]  # fmt: skip
    try:
        _feed(command, frames)
        os.replace(part, path)  # noqa: PTH105 the atomic one, by name
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _feed(command: list[str], frames: Iterable[np.ndarray]) -> None:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        try:
            with suppress(BrokenPipeError):  # ffmpeg ended early, and says why
                for frame in frames:
                    process.stdin.write(np.ascontiguousarray(even(frame)))
            with suppress(BrokenPipeError):
                process.stdin.close()
            if process.wait():
                raise InputError(f"ffmpeg could not write the film: {_reason(said)}.")
        finally:
            process.kill()
            process.wait()
            with suppress(OSError):
                process.stdin.close()


def _reason(said: tempfile._TemporaryFileWrapper) -> str:
    """The first that ffmpeg complained of: what follows comes of it."""
    said.seek(0)
    lines = said.read(10_000).decode("utf-8", "replace").strip().splitlines()
    return re.sub(r"^\[[^]]*\] *", "", lines[0])[:200].strip(" .") if lines else "it gives no reason"
