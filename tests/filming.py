"""Makes media files with plain PyAV for the tests: pictures at exact times, and sound that starts when it should."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

DARK, BRIGHT = 20, 235
RATE = 16000
TICK = Fraction(1, 90_000)
KINDS = {
    ".mkv": "matroska",
    ".mp4": "mp4",
    ".ts": "mpegts",
    ".mov": "mov",
    ".avi": "avi",
    ".webm": "webm",
    ".flv": "flv",
    ".mpg": "mpeg",
    ".vob": "vob",
}
SOUND = {".mkv": "pcm_s16le", ".avi": "pcm_s16le", ".webm": "libopus"}
X265_IN_ORDER = "bframes=0:frame-threads=1:pools=none:log-level=none"  # packets in order on any number of processors
QUICK = {
    "libx264": {"preset": "ultrafast", "crf": "12"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "20"},
    "libx265": {"preset": "ultrafast", "crf": "8", "x265-params": X265_IN_ORDER},
}
LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def make(
    path: Path,
    pictures: np.ndarray | Iterable[np.ndarray],
    times: list[Fraction],
    sound: np.ndarray | None = None,
    sound_start: Fraction = Fraction(0),
    sound_rate: int = RATE,
    codec: str = "",
    sound_codec: str = "",
    pixels: str = "yuv420p",
    aspect: Fraction = Fraction(1),
    gop: int = 12,
) -> Path:
    """A file with a picture (H, W, 3) at each of the times, and sound (channels, S) from its own start on.

    AVI and MPEG-2 have no clock but the frame rate: there the times only give the rate.
    """
    codec = codec or ("libvpx-vp9" if path.suffix == ".webm" else "libx264")
    with av.open(str(path), "w", format=KINDS[path.suffix]) as container:
        gaps = [after - before for before, after in itertools.pairwise(times)] or [Fraction(1, 10)]
        rate = 1 / (sum(gaps) / len(gaps))
        tick = 1 / rate if path.suffix == ".avi" or codec == "mpeg2video" else TICK
        video = container.add_stream(codec, rate=rate.limit_denominator(1001))
        first, pictures = _peek(pictures)
        video.height, video.width, video.pix_fmt = *first.shape[:2], pixels
        video.codec_context.time_base = tick
        video.codec_context.gop_size = gop
        if path.suffix == ".avi":
            video.codec_context.max_b_frames = 0
        video.codec_context.sample_aspect_ratio = aspect
        if codec in QUICK:
            video.options = QUICK[codec]
        audio = None
        if sound is not None:
            name = sound_codec or SOUND.get(path.suffix, "aac")
            audio = container.add_stream(name, rate=sound_rate, layout=LAYOUTS[len(sound)])
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            frame.duration = round(gaps[-1] / tick)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            _write_audio(container, audio, sound, sound_start, sound_rate)
    return path


def _peek(pictures: np.ndarray | Iterable[np.ndarray]) -> tuple[np.ndarray, Iterable[np.ndarray]]:
    rest = iter(pictures)
    first = next(rest)
    return first, itertools.chain([first], rest)


def _write_audio(container, audio, sound: np.ndarray, start: Fraction, rate: int) -> None:
    for begin in range(0, sound.shape[1], 1024):
        piece = np.ascontiguousarray(sound[:, begin : begin + 1024].T).reshape(1, -1)  # PyAV can't make 8 planes
        block = av.AudioFrame.from_ndarray(piece, format="flt", layout=LAYOUTS[len(sound)])
        block.sample_rate = rate
        block.pts, block.time_base = begin + round(start * rate), Fraction(1, rate)
        container.mux(audio.encode(block))
    container.mux(audio.encode(None))


def even_times(count: int, fps: Fraction | int) -> list[Fraction]:
    return [number / Fraction(fps) for number in range(count)]


def grey(levels: list[int] | np.ndarray, height: int = 32, width: int = 32) -> np.ndarray:
    """Plain pictures (T, H, W, 3)."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), height, width, 3)).copy()


def click(seconds: float, at: float, rate: int = RATE) -> np.ndarray:
    """(1, S): silence, then from ``at`` on 20 ms of a loud 2 kHz tone that starts at its crest."""
    time = np.arange(round(seconds * rate)) / rate - at
    return (0.8 * np.cos(2 * np.pi * 2000 * time) * ((time >= -1e-9) & (time < 0.02)))[None].astype(np.float32)
