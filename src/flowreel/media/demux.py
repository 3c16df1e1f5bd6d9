"""Opens a media file safely and decodes one of its streams with exact times.

What goes wrong becomes an InputError.

Damage is noticed where FFmpeg can't decode, where a file is shorter than its index or header says (MP4, MOV, AVI, MKV,
WebM; an MPEG transport stream says nothing of its length), and where times leap further than the file says it lasts.
Damage that still decodes to a frame or audio is not noticed: these formats have no checksums.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.codec.context import ThreadType
from av.container import InputContainer
from av.format import Flags
from av.stream import Discard, Disposition

from flowreel.errors import InputError
from flowreel.media.containers import stated_size
from flowreel.media.discontinuity import REORDERED, Timeline, join, stated_rate

# One decoded frame: the frame, when it starts, when it ends, the tick of the clock that both were rounded to (seconds).
Timed = tuple[Any, Fraction, Fraction, Fraction]
Pick = Callable[[InputContainer, Path], Any]

threads = 0
"""Threads that FFmpeg decodes one stream with; 0 leaves it to FFmpeg. Processes that share a machine set 1."""

_BACK = (0, 1, 4, 16)  # seconds before what is looked for: where to seek, until a frame is found that is whole
_LEAP = 1  # seconds without anything that the file's stated length has to cover
_LEAP_BACK = Fraction(1, 2)  # seconds that times may go back by
_LONG_LEAP = 60  # seconds without anything that are believed of a file that states no length
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
MAX_PIXELS = 1 << 27
"""Of one image: 16384 x 8192."""


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors into one that names the file and says what to do."""
    try:
        yield
    except av.FFmpegError as error:
        reason = error.strerror or error
        raise InputError(
            f"can't be read as media: {reason}. Is it damaged, cut off or not media?", path=path
        ) from error


def opened(path: Path) -> InputContainer:
    """The open container; the caller closes it."""
    check_file(path)
    # "file:" keeps colons in names from being read as protocols; the whitelist keeps playlists from reaching elsewhere.
    return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")


def check_file(path: Path) -> None:
    """InputError unless there is a file with something in it. Opens nothing: a pipe would wait for its writer."""
    try:
        if not path.exists():
            raise InputError("does not exist", path=path)
        if not path.is_file():
            raise InputError("is not a file: give one media file", path=path)
        if path.stat().st_size == 0:
            raise InputError("is empty (0 bytes)", path=path)
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", path=path) from error


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The default video stream, else the first; cover images are none."""
    stream = default_stream(_moving(container))
    if stream is None and shown_streams(container):
        raise InputError("is a still picture, whatever its name ends in: give a file with moving pictures", path=path)
    if stream is not None:
        context = stream.codec_context
        if context is None:
            raise InputError("has a video codec that is not supported: convert it, for example to H.264", path=path)
        context.thread_type, context.thread_count = ThreadType.AUTO, threads
        context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream
    kinds = sorted({"cover picture" if s.type == "video" else s.type for s in container.streams})
    if not kinds:
        raise InputError("has no streams, so no picture: it is empty or damaged", path=path)
    raise InputError(f"has no video stream, only {', '.join(kinds)}: give a file with moving pictures", path=path)


def shown_streams(container: InputContainer) -> list[av.VideoStream]:
    """The video streams that are no cover images."""
    cover = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def audio_stream(container: InputContainer, path: Path) -> av.AudioStream:
    """The default one of the audio streams that can be decoded, else the first."""
    stream = default_stream(audible(container))
    if stream is None:
        raise InputError(
            "has no audio stream that can be decoded: give a file with sound, or read the picture alone",
            path=path,
        )
    return stream


def _moving(container: InputContainer) -> list[av.VideoStream]:
    return [stream for stream in shown_streams(container) if not _is_still(container, stream)]


def audible(container: InputContainer) -> list[av.AudioStream]:
    """The audio streams that can be decoded."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def _is_still(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether it is one frame without a time: a file that is an image, or the title image of AVIF and HEIC."""
    name = container.format.name
    item = name.startswith("mov,") and stream.duration is None and stream.frames == stream.time_base == 1
    return item or name.endswith("_pipe") or name == "image2"


def default_stream(streams: Sequence[Any]) -> Any:
    """The stream that the file marks as the one to play, else the first; None of none."""
    return next((s for s in streams if s.disposition & Disposition.default), streams[0] if streams else None)


def decoded(path: Path, pick: Pick, zero: Fraction | None, since: Fraction | None) -> Iterator[Timed]:
    """Decode the stream that ``pick`` picks, from a frame at or before ``since`` on (file clock; None: from its start).

    Seeking is only a short cut: where it is impossible, lands too late or in the middle of what can't be decoded
    alone, decoding begins further ahead, at last at the start of the file. So does audio whose times are rounded to
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
    """The last frame at or before ``since`` and those that follow, of interlaced video also the one before, which its
    frame depends on; None if there is no such frame after a seek to ``target``."""
    container, stream = started(path, pick)
    uncertain = stream.type == "audio" and stream.time_base * stream.rate > 1
    if uncertain or ((joined := _timeline(path, container)) and joined.is_joined(stream.index)):
        container.close()
        return None
    frames = timed(path, container, stream)
    last: deque[Timed] = deque(maxlen=2)
    following: list[Timed] = []
    try:
        container.seek(int(target / stream.time_base), stream=stream)
        for timed_frame in frames:
            if timed_frame[1] > since:
                following.append(timed_frame)
                break
            last.append(timed_frame)
    except (av.FFmpegError, InputError):
        container.close()
        return None
    interlaced = bool(last) and getattr(last[-1][0], "interlaced_frame", False)
    if len(last) < (2 if interlaced else 1):
        container.close()
        return None
    return itertools.chain(list(last) if interlaced else [last[-1]], following, frames)


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
    joined = _timeline(path, container)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    covered = _covered(container, stream, joined)
    before: Fraction | None = None
    end: Fraction | None = None
    tick: Fraction = stream.time_base
    rate = _rate(stream, joined)
    decode = _decoder(stream)
    late = _lateness(path, stream) if _has_no_times(container, stream) else None
    frame, repeated = None, Fraction(0)
    try:
        for packet in _packets(container, stream, joined):
            if packet.size == 0 and packet.pts is not None:  # Theora: the frame before stays on
                repeated = packet.pts * tick + _duration(packet, rate, tick)
                continue
            for frame in decode(packet):
                stamp = frame.pts if late is None else frame.dts
                start = (end or Fraction(0)) if stamp is None else (stamp - (late or 0)) * tick
                until = start + _duration(frame, rate, tick)
                _check_leap(path, stream, before, end, start, until, covered)
                before, end = start, until
                yield frame, start, end, tick
    except av.FFmpegError as error:
        raise _broken(path, stream, end, str(error.strerror or error)) from error
    if frame is not None and end is not None and repeated > end:
        yield frame, end, repeated, tick
    index = stream.index_entries
    if len(index) and index[-1].pos + index[-1].size > path.stat().st_size:
        raise _broken(path, stream, end, "the file is shorter than its index says")
    if stated_size(path) > path.stat().st_size:
        raise _broken(path, stream, end, "the file is shorter than its header says")


def _timeline(path: Path, container: InputContainer) -> Timeline | None:
    """One timeline of the streams that are played; None for a format whose clock never restarts. All packets of the
    file are read for it, but for a file that was read before."""
    if not Flags.ts_discont & Flags(container.format.flags):
        return None
    main = (default_stream(_moving(container)), default_stream(audible(container)))
    status = path.stat()
    file = _File(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _scanned(file, tuple(stream.index for stream in main if stream is not None))


class _File(NamedTuple):
    path: Path
    device: int
    inode: int
    size: int
    changed: int


@functools.lru_cache(maxsize=256)
def _scanned(file: _File, indices: tuple[int, ...]) -> Timeline:
    with opened(file.path) as container:
        streams = [container.streams[index] for index in indices]
        return join(streams, _readable(container.demux(*streams)))


def _readable(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """The packets as far as they can be read: where the file is damaged is told when it is decoded."""
    with contextlib.suppress(av.FFmpegError):
        yield from packets


def _packets(container: InputContainer, stream: Any, joined: Timeline | None) -> Iterator[av.Packet]:
    """The packets of the stream, with times of the one clock that the recording is given; an empty one at the end."""
    shifts = [(0, 0)]
    if joined is not None and joined.is_joined(stream.index):
        shifts = [(at, round(shift / stream.time_base)) for at, shift in joined.shifts[stream.index]]
    shift, far = 0, round(REORDERED / stream.time_base)
    for number, packet in enumerate(container.demux(stream)):
        while shifts and number >= shifts[0][0]:
            shift = shifts.pop(0)[1]
        if joined is not None and None not in (packet.pts, packet.dts) and abs(packet.pts - packet.dts) > far:
            packet.pts = None  # at a join FFmpeg guesses it from the next clock: the frame follows the one before
        if shift and packet.pts is not None:
            packet.pts += shift
        if shift and packet.dts is not None:
            packet.dts += shift
        yield packet


def _decoder(stream: Any) -> Callable[[av.Packet], Iterable[Any]]:
    """What decodes the packets of a stream: FFmpeg's usual decoder, or libvpx where there is transparency in VP8 or
    VP9, which FFmpeg's own leaves out."""
    name = _WITH_ALPHA.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return lambda packet: packet.decode()
    context: Any = av.VideoCodecContext.create(name, "r")
    context.thread_count, context.options = threads, {"max_pixels": str(MAX_PIXELS)}
    return lambda packet: context.decode(packet if packet.size else None)


def _has_no_times(container: InputContainer, stream: Any) -> bool:
    """AVI numbers its packets and says nothing of when their frames are shown. FFmpeg's guess of that is a frame
    late, and wrong where frames are coded in another order than they are shown."""
    return bool(container.format.name == "avi" and stream.type == "video")


def _lateness(path: Path, stream: Any) -> int:
    """How many ticks of packets the decoder takes in before the first frame comes out. Each further packet gives one
    more, and the first frame belongs to the first packet's time."""
    opening = None
    with opened(path) as container:
        for packet in container.demux(container.streams[stream.index]):
            opening = packet.dts if opening is None else opening
            for frame in packet.decode():
                return 0 if opening is None or frame.dts is None else int(frame.dts - opening)
    return 0


def stated_end(path: Path, container: InputContainer, stream: Any) -> Fraction | None:
    """When the file says that a stream ends, on the file's clock (seconds); None where it does not say."""
    joined = _timeline(path, container)
    return _stated_end(stream) if joined is None else joined.ends.get(stream.index)


def _stated_end(stream: Any) -> Fraction | None:
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
                container.seek(int((_covered(container, stream, None) or 0) / stream.time_base), stream=stream)
            rate = own_rate(path, container, stream)
            ends = (
                packet.pts * stream.time_base + _duration(packet, rate, stream.time_base)
                for packet in container.demux(stream)
                if packet.pts is not None
            )
            if (last := max(ends, default=None)) is not None:
                return last
    return None


def _covered(container: InputContainer, stream: Any, joined: Timeline | None) -> Fraction | None:
    """The end of the file on its own clock, as the file states it; None where it does not."""
    if joined is not None:
        return max(joined.ends.values(), default=None)
    ends = [_stated_end(stream)]
    if container.duration:
        ends.append(Fraction((container.start_time or 0) + container.duration, av.time_base))
    return max((end for end in ends if end is not None), default=None)


def _check_leap(
    path: Path,
    stream: Any,
    before: Fraction | None,
    end: Fraction | None,
    start: Fraction,
    until: Fraction,
    covered: Fraction | None,
) -> None:
    """Times may not go back, and nothing may be still for longer than the file says it lasts: a damaged time would
    become hours of frames. ``before`` and ``end`` are of the frame before."""
    if before is not None and before - start > _LEAP_BACK:
        reason = f"its times leap back by {float(before - start):.1f} s; is it several files in one?"
        raise _broken(path, stream, end, reason)
    leap = until - (start if end is None else end)
    if leap <= _LEAP:
        return
    if (covered is None and leap > _LONG_LEAP) or (covered is not None and until > covered + _LEAP):
        raise _broken(path, stream, end, f"its times leap by {float(leap):.0f} s, past the end that the file states")


def _broken(path: Path, stream: Any, end: Fraction | None, reason: str) -> InputError:
    return InputError(
        f"is damaged or cut off: its {stream.type} can't be decoded after {float(end or 0):.2f} s "
        f"({reason}). Leave the file out, or read only the `seconds` before that",
        path=path,
    )


def _duration(frame: Any, rate: Fraction, tick: Fraction) -> Fraction:
    if isinstance(frame, av.AudioFrame):
        return Fraction(frame.samples, frame.sample_rate)
    return frame.duration * tick if frame.duration else 1 / rate


def own_rate(path: Path, container: InputContainer, stream: Any) -> Fraction:
    """Frames a second, on average."""
    return _rate(stream, _timeline(path, container))


def _rate(stream: Any, joined: Timeline | None) -> Fraction:
    if stream.type != "video":
        return Fraction(25)
    rate = stated_rate(stream)
    if rate == 1 / stream.time_base and stream.guessed_rate:  # of DV, FFmpeg gives the ticks of its clock
        rate = Fraction(stream.guessed_rate)
    step = joined.steps.get(stream.index) if joined is not None else None
    if joined is None or not step:
        return rate
    # FFmpeg guesses the rate of a recording from its times, too high where they leap.
    return 1 / step if rate * step > (2 if joined.is_joined(stream.index) else 4) else rate
