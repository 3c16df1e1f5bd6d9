"""Open a media file safely and decode one of its streams with exact times. What goes wrong becomes an InputError."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition

from flowreel.errors import InputError

# One decoded frame: the frame, when it starts, when it ends, the tick of the clock that both were rounded to (seconds).
Timed = tuple[Any, Fraction, Fraction, Fraction]
Pick = Callable[[InputContainer, Path], Any]


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors into one that names the file and says what to do."""
    try:
        yield
    except av.FFmpegError as error:
        reason = error.strerror or error
        raise InputError(f"{path} can't be read as media: {reason}. Is it damaged, cut off or not media?") from error


def opened(path: Path) -> InputContainer:
    """The open container; the caller closes it."""
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if not path.is_file():
        raise InputError(f"{path} is not a file: give one media file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    # "file:" keeps colons in names from being read as protocols; the whitelist keeps playlists from reaching elsewhere.
    return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The first video stream that is not a cover picture."""
    cover = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in container.streams.video:
        if not stream.disposition & cover:
            if stream.codec_context is None:
                raise InputError(f"{path}: its video codec is not supported; convert it, for example to H.264")
            stream.thread_type = "AUTO"
            return stream
    kinds = sorted({"cover picture" if s.type == "video" else s.type for s in container.streams}) or ["nothing"]
    raise InputError(f"{path} has no video stream, only {', '.join(kinds)}: give a file with moving pictures")


def audio_stream(container: InputContainer, path: Path) -> av.AudioStream:
    """The first audio stream that can be decoded."""
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    raise InputError(
        f"{path} has no audio stream that can be decoded: give a file with sound, or read the picture alone"
    )


def decoded(path: Path, pick: Pick, zero: Fraction | None, since: Fraction | None) -> Iterator[Timed]:
    """Decode the stream that ``pick`` picks, from a frame at or before ``since`` on (file clock; None: from its start).

    Seeking is only a short cut: where it is impossible or lands too late, decoding begins at the start of the file.
    """
    if since is not None and zero is not None and since > zero:
        with explained(path), opened(path) as container:
            stream = pick(container, path)
            with contextlib.suppress(av.FFmpegError):
                container.seek(int(since / stream.time_base), stream=stream)
            frames = _timed(path, container, stream)
            first = next(frames, None)
            if first is not None and first[1] <= since:
                yield first
                yield from frames
                return
    with explained(path), opened(path) as container:
        yield from _timed(path, container, pick(container, path))


def _timed(path: Path, container: InputContainer, stream: Any) -> Iterator[Timed]:
    end = Fraction(0)
    try:
        for frame in container.decode(stream):
            tick = frame.time_base or stream.time_base
            start = end if frame.pts is None else frame.pts * tick
            end = start + _duration(frame, stream, tick)
            yield frame, start, end, tick
    except av.FFmpegError as error:
        raise _broken(path, stream, end, str(error.strerror or error)) from error
    index = stream.index_entries
    if len(index) and index[-1].pos + index[-1].size > path.stat().st_size:
        raise _broken(path, stream, end, "the file is shorter than its index says")


def _broken(path: Path, stream: Any, end: Fraction, reason: str) -> InputError:
    return InputError(
        f"{path} is damaged or cut off: its {stream.type} can't be decoded after {float(end):.2f} s "
        f"({reason}). Leave the file out, or read only the `seconds` before that"
    )


def _duration(frame: Any, stream: Any, tick: Fraction) -> Fraction:
    if isinstance(frame, av.AudioFrame):
        return Fraction(frame.samples, frame.sample_rate)
    if frame.duration:
        return frame.duration * tick
    return 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
