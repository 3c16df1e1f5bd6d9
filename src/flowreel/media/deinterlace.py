"""Deinterlaces video, whose frames hold the lines of two instants, with FFmpeg's ``bwdif``."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph

from flowreel.media.demux import Timed

_TICK = Fraction(1, 25)  # the filter only asks for order
_FILTER = "mode=send_frame:parity=auto:deint=interlaced:threads=1"


def progressive_frames(frames: Iterable[Timed]) -> Generator[Timed]:
    """The same frames at the same times, those that say that they are interlaced deinterlaced.

    A frame follows from its frame, the one before and the one after, so each is given one frame late from the first
    interlaced one on. Frames that are not interlaced stay as they are. Where frames change their size or format, the
    next one begins anew.
    """
    filtering: _Bwdif | None = None
    before: Any = None
    try:
        for timed in frames:
            frame = timed[0]
            if filtering is not None and not filtering.fits(frame):
                yield from filtering.rest()
                filtering = before = None
            if filtering is None and frame.interlaced_frame:
                filtering = _Bwdif(frame)
                if before is not None and filtering.fits(before):
                    filtering.begin(before)
            if filtering is None:
                before = frame
                yield timed
            else:
                yield from filtering.take(timed)
        if filtering is not None:
            yield from filtering.rest()
    finally:
        if isinstance(frames, Generator):
            frames.close()


class _Bwdif:
    """The filter for frames such as ``frame``."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._form = _form(frame)
        self._waiting: deque[Timed | None] = deque()  # None for what is not to be given
        self._graph = Graph()
        source = self._graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TICK)
        self._graph.link_nodes(source, self._graph.add("bwdif", _FILTER), self._graph.add("buffersink")).configure()
        self._number = 0

    def fits(self, frame: av.VideoFrame) -> bool:
        return _form(frame) == self._form

    def begin(self, frame: av.VideoFrame) -> None:
        """Show the filter the frame that came before, which has been given already."""
        self._push(frame)
        self._waiting.append(None)

    def take(self, timed: Timed) -> Generator[Timed]:
        self._push(timed[0])
        self._waiting.append(timed)
        yield from self._done()

    def rest(self) -> Generator[Timed]:
        """What the filter still holds."""
        self._graph.vpush(None)
        yield from self._done()

    def _push(self, frame: av.VideoFrame) -> None:
        frame.pts, frame.time_base = self._number, _TICK  # its own times wait outside
        self._number += 1
        self._graph.vpush(frame)

    def _done(self) -> Generator[Timed]:
        while True:
            try:
                picture = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            timed = self._waiting.popleft()
            if timed is not None:
                yield picture, *timed[1:]


def _form(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
