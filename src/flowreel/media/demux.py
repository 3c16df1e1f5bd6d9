"""Open a media file safely and decode one of its streams with exact times. What goes wrong becomes an InputError.

Damage is noticed where FFmpeg can't decode, where a file is shorter than its index or header says (MP4, MOV, AVI, MKV,
WebM; an MPEG transport stream says nothing of its length), and where times leap further than the file says it lasts.
Damage that still decodes to a picture or a sound is not noticed: these formats have no checksums.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.codec.context import ThreadType
from av.container import InputContainer
from av.stream import Discard, Disposition

from flowreel.errors import InputError

# One decoded frame: the frame, when it starts, when it ends, the tick of the clock that both were rounded to (seconds).
Timed = tuple[Any, Fraction, Fraction, Fraction]
Pick = Callable[[InputContainer, Path], Any]

threads = 0
"""Threads that FFmpeg decodes one stream with; 0 leaves it to FFmpeg. Processes that share a machine set 1."""

_BACK = (0, 1, 4, 16)  # seconds before what is looked for: where to seek, until a picture is found that is whole
_LEAP = 1  # seconds without anything that the file's stated length has to cover
_LONG_LEAP = 60  # seconds without anything that are believed of a file that states no length
MAX_PIXELS = 1 << 27
"""Of one picture: 16384 x 8192."""


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
    check_file(path)
    # "file:" keeps colons in names from being read as protocols; the whitelist keeps playlists from reaching elsewhere.
    return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")


def check_file(path: Path) -> None:
    """InputError unless there is a file with something in it. Opens nothing: a pipe would wait for its writer."""
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if not path.is_file():
            raise InputError(f"{path} is not a file: give one media file")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The default video stream, else the first; cover pictures are none."""
    shown = shown_streams(container)
    moving = [s for s in shown if not _is_still(container, s)]
    if shown and not moving:
        raise InputError(f"{path} is a still picture, whatever its name ends in: give a file with moving pictures")
    stream = default_stream(moving)
    if stream is not None:
        context = stream.codec_context
        if context is None:
            raise InputError(f"{path}: its video codec is not supported; convert it, for example to H.264")
        context.thread_type, context.thread_count = ThreadType.AUTO, threads
        context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream
    kinds = sorted({"cover picture" if s.type == "video" else s.type for s in container.streams})
    if not kinds:
        raise InputError(f"{path} has no streams, so no picture: it is empty or damaged")
    raise InputError(f"{path} has no video stream, only {', '.join(kinds)}: give a file with moving pictures")


def shown_streams(container: InputContainer) -> list[av.VideoStream]:
    """The video streams that are no cover pictures."""
    cover = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def audio_stream(container: InputContainer, path: Path) -> av.AudioStream:
    """The default one of the audio streams that can be decoded, else the first."""
    stream = default_stream([s for s in container.streams.audio if s.codec_context is not None])
    if stream is None:
        raise InputError(
            f"{path} has no audio stream that can be decoded: give a file with sound, or read the picture alone"
        )
    return stream


def _is_still(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether it is one picture without a time: a file that is a picture, or the title picture of AVIF and HEIC."""
    name = container.format.name
    item = name.startswith("mov,") and stream.duration is None and stream.frames == stream.time_base == 1
    return item or name.endswith("_pipe") or name == "image2"


def default_stream(streams: Sequence[Any]) -> Any:
    """The stream that the file marks as the one to play, else the first; None of none."""
    return next((s for s in streams if s.disposition & Disposition.default), streams[0] if streams else None)


def decoded(path: Path, pick: Pick, zero: Fraction | None, since: Fraction | None) -> Iterator[Timed]:
    """Decode the stream that ``pick`` picks, from a frame at or before ``since`` on (file clock; None: from its start).

    Seeking is only a short cut: where it is impossible, lands too late or in the middle of what can't be decoded
    alone, decoding begins further ahead, at last at the start of the file. So does sound whose times are rounded to
    more than a sample: where its samples lie can only be counted.
    """
    if since is not None and zero is not None:
        for back in _BACK:
            if since - back <= zero:
                break
            frames = _sought(path, pick, since, since - back)
            if frames is not None:
                yield from frames
                return
    yield from timed(path, *started(path, pick))


def _sought(path: Path, pick: Pick, since: Fraction, target: Fraction) -> Iterator[Timed] | None:
    """The last frame at or before ``since`` and those that follow; None if there is none after a seek to ``target``."""
    container, stream = started(path, pick)
    if stream.type == "audio" and stream.time_base * stream.rate > 1:
        container.close()
        return None
    frames = timed(path, container, stream)
    before: Timed | None = None
    try:
        container.seek(int(target / stream.time_base), stream=stream)
        for timed_frame in frames:
            if timed_frame[1] > since:
                return None if before is None else itertools.chain([before, timed_frame], frames)
            before = timed_frame
    except (av.FFmpegError, InputError):
        container.close()
        return None
    return None if before is None else iter([before])


def started(path: Path, pick: Pick) -> tuple[InputContainer, Any]:
    """The open container and the stream that ``pick`` picks; ``timed`` closes it."""
    with explained(path):
        container = opened(path)
        try:
            return container, pick(container, path)
        except BaseException:
            container.close()
            raise


def timed(path: Path, container: InputContainer, stream: Any) -> Generator[Timed]:
    """Every frame from where the container is; closes it in the end."""
    with explained(path), container:
        yield from _timed(path, container, stream)


def _timed(path: Path, container: InputContainer, stream: Any) -> Iterator[Timed]:
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    covered = _covered(container, stream)
    end: Fraction | None = None
    tick: Fraction = stream.time_base
    late = _lateness(path, stream) if _has_no_times(container, stream) else None
    try:
        for frame in container.decode(stream):
            stamp = frame.pts if late is None else frame.dts
            start = (end or Fraction(0)) if stamp is None else (stamp - (late or 0)) * tick
            until = start + _duration(frame, stream, tick)
            _check_leap(path, stream, end, start, until, covered)
            end = until
            yield frame, start, end, tick
    except av.FFmpegError as error:
        raise _broken(path, stream, end, str(error.strerror or error)) from error
    index = stream.index_entries
    if len(index) and index[-1].pos + index[-1].size > path.stat().st_size:
        raise _broken(path, stream, end, "the file is shorter than its index says")
    if _segment_end(path) > path.stat().st_size:
        raise _broken(path, stream, end, "the file is shorter than its header says")


def _has_no_times(container: InputContainer, stream: Any) -> bool:
    """AVI numbers its packets and says nothing of when their pictures are shown. FFmpeg's guess of that is a picture
    late, and wrong where pictures are coded in another order than they are shown."""
    return bool(container.format.name == "avi" and stream.type == "video")


def _lateness(path: Path, stream: Any) -> int:
    """How many ticks of packets the decoder takes in before the first picture comes out. Each further packet gives one
    more, and the first picture belongs to the first packet's time."""
    opening = None
    with opened(path) as container:
        for packet in container.demux(container.streams[stream.index]):
            opening = packet.dts if opening is None else opening
            for frame in packet.decode():
                return 0 if opening is None or frame.dts is None else int(frame.dts - opening)
    return 0


def stated_end(stream: Any) -> Fraction | None:
    """When the file says that a stream ends, on the file's clock (seconds); None where it does not say."""
    return Fraction(((stream.start_time or 0) + stream.duration) * stream.time_base) if stream.duration else None


def last_end(path: Path, pick: Pick) -> Fraction | None:
    """When the last packets of the stream that ``pick`` picks end, on the file's clock (seconds), without decoding
    them. None where nothing tells."""
    for seek in (True, False):  # where a seek leads nowhere, all packets are looked at
        container, stream = started(path, pick)
        with container, contextlib.suppress(av.FFmpegError):
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = Discard.all
            if seek:
                container.seek(int((_covered(container, stream) or 0) / stream.time_base), stream=stream)
            ends = (
                packet.pts * stream.time_base + _duration(packet, stream, stream.time_base)
                for packet in container.demux(stream)
                if packet.pts is not None
            )
            if (last := max(ends, default=None)) is not None:
                return last
    return None


def _covered(container: InputContainer, stream: Any) -> Fraction | None:
    """The end of the file on its own clock, as the file states it; None where it does not."""
    ends = [stated_end(stream)]
    if container.duration:
        ends.append(Fraction((container.start_time or 0) + container.duration, av.time_base))
    return max((end for end in ends if end is not None), default=None)


def _check_leap(
    path: Path, stream: Any, end: Fraction | None, start: Fraction, until: Fraction, covered: Fraction | None
) -> None:
    """Nothing may be still for longer than the file says it lasts: a damaged time would become hours of frames."""
    before = start if end is None else end
    if until - before <= _LEAP:
        backwards = before - start
        if backwards > _LONG_LEAP:
            raise _broken(path, stream, end, f"its times leap back by {float(backwards):.0f} s")
        return
    leap = until - before
    if (covered is None and leap > _LONG_LEAP) or (covered is not None and until > covered + _LEAP):
        raise _broken(path, stream, end, f"its times leap by {float(leap):.0f} s, past the end that the file states")


def _segment_end(path: Path) -> int:
    """Where a Matroska file (MKV, WebM) ends as its header says (RFC 8794, 9559); 0 for other files and live ones."""
    with path.open("rb") as file:
        head = file.read(256)
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return 0
    size, at = _ebml_size(head, 4)
    at += size or 0
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    size, at = _ebml_size(head, at + 4)
    return 0 if size is None else at + size


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """The size that is coded at ``at``, None if it is unknown, and where what it is the size of begins."""
    if at >= len(data) or data[at] == 0:
        return None, at
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _broken(path: Path, stream: Any, end: Fraction | None, reason: str) -> InputError:
    return InputError(
        f"{path} is damaged or cut off: its {stream.type} can't be decoded after {float(end or 0):.2f} s "
        f"({reason}). Leave the file out, or read only the `seconds` before that"
    )


def _duration(frame: Any, stream: Any, tick: Fraction) -> Fraction:
    if isinstance(frame, av.AudioFrame):
        return Fraction(frame.samples, frame.sample_rate)
    if frame.duration:
        return frame.duration * tick
    return 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
