"""Reads video files by their timestamps, in constant memory.

Time 0 is the instant of the first frame. Video and audio come from two independent readers of the same file, so
that memory does not grow however the file interleaves them. Audio is in ``audio.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from pathlib import Path

import av
import numpy as np

from flowreel.config.rates import exact_rate
from flowreel.errors import InputError
from flowreel.media import webp
from flowreel.media.audio import AudioTrack
from flowreel.media.clip import Channel, Clip
from flowreel.media.color import Converter, placing_of
from flowreel.media.containers import is_several
from flowreel.media.deinterlace import progressive_frames
from flowreel.media.demux import (
    Timed,
    audible,
    check_file,
    decoded,
    default_stream,
    explained,
    last_end,
    own_rate,
    started,
    stated_end,
    timed,
    video_stream,
)
from flowreel.media.resize import Fit, Resizer
from flowreel.media.timing import check_sample_rate, samples_for

_STATED = Fraction(1, 1000)  # seconds that a stated frame rate may be off by
_SLOWEST = 60  # seconds that frames may last on average where no audio continues as long


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. ``seconds`` is how long its frames last, from the first one on, as the file or else its last
    packets say; ``fps`` its own average rate, height and width as :func:`iterate` gives them (upright);
    ``sample_rate`` is 0 without audio."""

    seconds: float
    fps: float
    height: int
    width: int
    has_audio: bool
    sample_rate: int


def probe(path: str | Path) -> MediaInfo:
    """What the file holds, having decoded its first frame; :class:`InputError` with the reason if that fails."""
    survey, _, rest = _survey(Path(path))
    rest.close()
    if survey.durations:
        return replace(survey.info, seconds=float(sum(survey.durations)))
    last = last_end(Path(path), video_stream) if survey.end is None else survey.end
    seconds = survey.info.seconds if last is None else float(last - survey.zero)
    return replace(survey.info, seconds=max(survey.info.seconds, seconds))


def iterate(
    path: str | Path,
    *,
    fps: Real | float | None = None,
    sample_rate: int = 16000,
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    chunk: int = 32,
    start: float = 0.0,
    seconds: float | None = None,
    channel: Channel = "mean",
    audio: bool = True,
    crop: tuple[float, float] = (0.5, 0.5),
) -> Iterator[Clip]:
    """Read a file as clips of up to ``chunk`` frames that follow each other, in constant memory.

    Frame k covers [k/fps, (k+1)/fps) seconds after ``start`` and shows the last frame that came on before the end of
    that time: a change of the frame is seen in the very frame during which its audio is heard. Time 0 is the first
    frame; audio before it is dropped, a track that starts later begins with silence and one that ends early is
    padded with it, so that the audio lasts as long as the frames (joined, ``samples_for(T, fps, sample_rate)``
    samples). The last frame is the nearest one to the end of the file, at most ``seconds`` after ``start``.

    ``fps`` None is the file's own average rate, taken as whole within 0.01. ``size`` is (height, width) or one side
    of a square, None the file's own; ``fit`` and ``crop`` (y, x) as in :func:`resize_frames`. ``channel`` "mean"
    averages the channels of the audio (surround is mixed down first, see ``downmix``), "first" takes one (R-FLAV,
    arXiv 2503.08307). ``audio`` False leaves the audio out; a file without audio gives ``Clip.audio`` None. Cover
    images are ignored, rotation and pixel shapes are applied. Interlaced frames are deinterlaced,
    what is transparent is seen over black.

    A file that can't be read, or only in part, and settings that make no sense are an :class:`InputError`.
    """
    rate = None if fps is None else exact_rate(fps)
    check_sample_rate(sample_rate)
    height, width = (size, size) if isinstance(size, (int, np.integer)) or size is None else _pair(size)
    resizer = None if size is None else Resizer(height, width, fit, crop)  # type: ignore[arg-type]
    if channel not in ("mean", "first"):
        raise InputError(f"channel must be 'mean' or 'first', not {channel!r}")
    if chunk < 1:
        raise InputError(f"chunk must be at least 1 frame, not {chunk}")
    if not (math.isfinite(start) and start >= 0):
        raise InputError(f"start must be 0 seconds or more, not {start}")
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds must be above 0, or None for all there is, not {seconds}")
    return _chunks(Path(path), rate, sample_rate, resizer, chunk, start, seconds, channel if audio else None)


def _pair(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2:
        raise InputError(f"size must be (height, width) or one number, not {size!r}")
    return size[0], size[1]


def _chunks(
    path: Path,
    rate: Fraction | None,
    sample_rate: int,
    resizer: Resizer | None,
    chunk: int,
    start: float,
    seconds: float | None,
    channel: Channel | None,
) -> Iterator[Clip]:
    survey, first, rest = _survey(path)
    zero = survey.zero
    rate = rate or _usable_rate(path, survey.info.fps)
    fps = float(rate)
    begin = Fraction(start).limit_denominator(1_000_000)
    limit = None if seconds is None else max(1, round(seconds * fps))
    sound = AudioTrack(path, zero, begin, sample_rate, channel) if channel and survey.info.has_audio else None
    frames: list[np.ndarray] = []
    done = 0

    def pack() -> Clip:
        nonlocal done
        after = done + len(frames)
        audio = None
        if sound is not None:
            audio = sound.take(samples_for(after, fps, sample_rate) - samples_for(done, fps, sample_rate))
        clip = Clip(np.stack(frames), audio, fps, sample_rate)
        done = after
        frames.clear()
        return clip

    if begin > 0:
        rest.close()
        pictures: Iterator[Timed] = _since(path, survey, begin)
    else:
        pictures = itertools.chain([first], rest)
    convert = Converter(resizer, survey.pixel_aspect)
    for frame, count in _runs(path, pictures, rate, zero, begin, limit):
        with explained(path):
            picture = convert(frame)
        if frames and frames[-1].shape != picture.shape:
            raise InputError(
                "has pictures that change their size midway: give the size that they shall have", path=path
            )
        for _ in range(count):
            frames.append(picture)
            if len(frames) == chunk:
                yield pack()
    if frames:
        yield pack()


def _runs(
    path: Path, pictures: Iterator[Timed], rate: Fraction, zero: Fraction, start: Fraction, limit: int | None
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Every frame that is shown, with the number of output frames that show it."""
    origin = zero + start
    done, shown, end = 0, None, Fraction(0)
    for frame, time, until, tick in pictures:
        # Containers round times to their tick (Matroska: 1 ms), which must not push a frame into the frame before.
        # Where the tick is the time of a frame (AVI), nothing is rounded but the rate that they state.
        rounding = tick if 2 * tick <= until - time else _STATED
        tolerance = min(rounding, Fraction(1, 4) / rate)
        index = math.floor((time - origin + tolerance) * rate)
        end = until - origin
        if shown is not None and index > done:
            count = (index if limit is None else min(index, limit)) - done
            yield shown, count
            done += count
            if done == limit:
                return
        shown = frame
    if end <= 0 or shown is None:
        raise InputError(f"ends at {float(start + end):g} s, before start {float(start):g} s", path=path)
    total = max(1, math.floor(end * rate + Fraction(1, 2)))
    total = total if limit is None else min(total, limit)
    if total > done:
        yield shown, total - done


@dataclass(frozen=True)
class _Survey:
    """What the file holds, the time of its first frame on its own clock, and the width of a pixel over its height.
    ``end`` of the frames as the file states it, or None; ``durations`` of each, in seconds, if it is a WebP."""

    info: MediaInfo
    zero: Fraction
    pixel_aspect: float
    end: Fraction | None = None
    durations: tuple[Fraction, ...] = ()


def _survey(path: Path) -> tuple[_Survey, Timed, Generator[Timed]]:
    """What the file holds, its first frame, and those that follow: decoding continues where the survey ended."""
    check_file(path)
    if times := webp.durations(path):
        return _webp_survey(path, times)
    if is_several(path):
        raise InputError(
            "is several files put one after the other, of which only the first would be played: split it, or "
            "join the parts with FFmpeg's concat demuxer",
            path=path,
        )
    container, stream = started(path, video_stream)
    sounds = audible(container)
    sound = default_stream(sounds)
    fps, end = _whole(own_rate(path, container, stream)), stated_end(path, container, stream)
    _check_pace(path, stream, sounds)
    sample_rate = 0 if sound is None else sound.rate
    pixel_aspect = float(stream.sample_aspect_ratio or 1)
    rest = progressive_frames(timed(path, container, stream))
    first = next(rest, None)
    if first is None:
        raise InputError(
            "has a video track but no picture in it can be decoded: the file is empty or damaged", path=path
        )
    frame, time, until, _ = first
    sides = (frame.height, frame.width) if not placing_of(frame).turned else (frame.width, frame.height)
    info = MediaInfo(float(until - time), fps, *sides, bool(sounds), sample_rate)
    return _Survey(info, time, pixel_aspect, end), first, rest


def _webp_survey(path: Path, times: list[Fraction]) -> tuple[_Survey, Timed, Generator[Timed]]:
    rest = webp.pictures(path, times)
    first = next(rest)
    rate = _whole(len(times) / sum(times, Fraction(0)))
    info = MediaInfo(float(times[0]), rate, first[0].height, first[0].width, False, 0)
    return _Survey(info, Fraction(0), 1.0, durations=tuple(times)), first, rest


def _since(path: Path, survey: _Survey, begin: Fraction) -> Iterator[Timed]:
    """The frames from the one that is shown ``begin`` seconds after the first, or from an earlier one."""
    if survey.durations:
        return webp.pictures(path, list(survey.durations))
    return progressive_frames(decoded(path, video_stream, survey.zero, survey.zero + begin))


def _check_pace(path: Path, stream: av.VideoStream, sounds: list[av.AudioStream]) -> None:
    """AVI states its length by its frame rate alone: where that is damaged, a second becomes hours."""
    rate = stream.average_rate
    if not rate or rate * _SLOWEST >= 1 or not stream.duration or not stream.time_base:
        return
    seconds = float(stream.duration * stream.time_base)
    heard = max((float((s.duration or 0) * (s.time_base or 0)) for s in sounds), default=0.0)
    if seconds > _SLOWEST and heard < seconds / 2:
        raise InputError(
            f"states {float(1 / rate):.0f} s for each of its pictures, {seconds:.0f} s in all, and has no sound "
            "that lasts as long: its frame rate is damaged, or it is a slide show, which can't be used",
            path=path,
        )


def _usable_rate(path: Path, fps: float) -> Fraction:
    try:
        return exact_rate(fps)
    except InputError as error:
        raise InputError(f"states a frame rate of {fps:g}, which can't be used: give fps", path=path) from error


def _whole(rate: Fraction) -> float:
    """The rate, as a whole number where it is one within 0.01."""
    whole = round(rate)
    return float(whole if whole >= 1 and abs(rate - whole) < 0.01 else rate)
