"""Joins the parts of a recording whose clock restarts or leaps into one timeline.

MPEG transport and program streams and Ogg may hold several recordings, one after the other, each with a clock of its
own. FFmpeg's command line joins them (``dts_delta_threshold``, 10 s); its library does not. Video and audio are
shifted by the same time here, so that they stay together. Knows: streams and their packets. Does not know: files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

_FORWARD = 10  # seconds that may be missing from a recording: FFmpeg's default
REORDERED = 10
"""Seconds that lie at most between when a packet is decoded and when it is shown."""
_BACK = Fraction(1, 10)  # seconds that times may go back by without being a new clock: FFmpeg's as well


@dataclass(frozen=True)
class Timeline:
    """When the packets of a file belong, by the index of their stream.

    ``shifts``: pairs of the number of a packet and the seconds that are added to its times and to those of all that
    follow, up to the next pair. ``ends``: when the stream ends, after that, on the file's clock (seconds). ``steps``:
    the median time from packet to packet (seconds).
    """

    shifts: dict[int, tuple[tuple[int, Fraction], ...]]
    ends: dict[int, Fraction]
    steps: dict[int, Fraction]

    def is_joined(self, index: int) -> bool:
        """Whether any time of the stream is shifted: then seeking by time leads nowhere."""
        return any(shift for _, shift in self.shifts.get(index, ()))


@dataclass(frozen=True)
class _Before:
    """How it stood with a stream before its newest packet: the part, and when the packet before ended."""

    part: int
    after: int
    end: int | None
    ends_in: int


@dataclass
class _Track:
    """One stream: where it is in the file. Times are whole numbers of the ticks that all streams share."""

    tick: int
    longest: int  # ticks that the next packet may be away without that a part is missing
    lasts: int  # ticks, of a packet that does not say
    video: bool
    count: int = 0
    part: int = 0
    last: int | None = None  # when the packet before begins and ends, on the clock of its part
    after: int = 0
    end: int | None = None
    ends_in: int = 0
    first: int | None = None  # when its first packet begins
    before: _Before | None = None
    unsettled: bool = False  # the part of that is a guess
    begins: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])  # numbers of packets, and their parts
    steps: Counter[int] = field(default_factory=Counter)

    def passes(self, packet: Any, start: int) -> None:
        """Note a packet that begins at ``start``. One that does not say how long it lasts, does as the one before."""
        self.first = start if self.first is None else self.first
        if abs(start - self.first) > self.longest:
            self.unsettled = False
        step = 0 if self.last is None else start - self.last
        if 0 < step <= self.longest:
            self.lasts = step
            self.steps[step] += 1
        self.last, self.after = start, start + ((packet.duration or 0) * self.tick or self.lasts)

    @property
    def median(self) -> int:
        """The median step; 0 if there is none."""
        half, passed = self.steps.total() / 2, 0
        for step in sorted(self.steps):
            passed += self.steps[step]
            if passed >= half:
                return step
        return 0


def join(streams: Sequence[Any], packets: Iterable[Any]) -> Timeline:
    """The timeline of these streams, from all their packets in the order in which they lie in the file."""
    unit = Fraction(1, math.lcm(*(stream.time_base.denominator for stream in streams)))
    # Rounded to the coarsest tick, the same shift can be applied to all streams exactly.
    coarse = math.lcm(*(round(stream.time_base / unit) for stream in streams))
    tracks = {stream.index: _track(stream, unit) for stream in streams}
    parts = _Parts(round(_FORWARD / unit), round(_BACK / unit), coarse)
    reordered = round(REORDERED / unit)
    newest: _Track | None = None
    for packet in packets:
        track = tracks[packet.stream.index]
        if packet.dts is None:
            track.count += 1
            continue
        start = packet.dts * track.tick
        if (before := track.before) is not None and parts.was_odd(start, track, before):
            if track.part == before.part:  # an odd time is shown when its packet is due
                due = before.after + parts.shifts[before.part]
                track.begins.append((track.count - 1, parts.new(due - (track.last or 0))))
            track.begins.append((track.count, before.part))
            track.part, track.last, track.after = before.part, before.after, before.after
            track.end, track.ends_in = before.end, before.ends_in
        part = parts.place(start, track, newest)
        if track.last is not None:
            track.before = _Before(track.part, track.after, track.end, track.ends_in)
        if part != track.part:
            track.part, track.last = part, None
            track.begins.append((track.count, part))
            for other in tracks.values():
                if other is not track and other.unsettled:
                    parts.settle(other, start + parts.shifts[part], part)
        track.count += 1
        track.passes(packet, start)
        shown = packet.pts * track.tick if packet.pts is not None else start
        end = track.after + (shown - start if abs(shown - start) <= reordered else 0)
        if track.end is None or end + parts.shifts[part] > track.end + parts.shifts[track.ends_in]:
            track.end, track.ends_in = end, part
        newest = track
    return Timeline(
        {index: tuple((at, parts.shifts[part] * unit) for at, part in t.begins) for index, t in tracks.items()},
        {index: (t.end + parts.shifts[t.ends_in]) * unit for index, t in tracks.items() if t.end is not None},
        {index: t.median * unit for index, t in tracks.items()},
    )


def stated_rate(stream: Any) -> Fraction:
    """Frames a second as FFmpeg has or guesses them, 25 where it knows nothing."""
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _track(stream: Any, unit: Fraction) -> _Track:
    video = stream.type == "video"
    lasts = 1 / stated_rate(stream) if video else Fraction(0)
    return _Track(round(stream.time_base / unit), round(1 / unit), round(lasts / unit), video)


@dataclass
class _Parts:
    """The parts that a recording consists of, each with a clock of its own, and how far each is shifted (ticks)."""

    forward: int
    back: int
    coarse: int
    shifts: list[int] = field(default_factory=lambda: [0])

    def place(self, start: int, track: _Track, newest: _Track | None) -> int:
        """The part that a packet belongs to; a new one where it fits none. ``newest``: the stream of the packet that
        came before in the file."""
        if track.last is None:  # the stream begins: where the others are
            if newest is None:
                return 0
            now = newest.after + self.shifts[newest.part]
            gaps = [(abs(start + shift - now), -part) for part, shift in enumerate(self.shifts)]
            gap, part = min(gaps)
            track.unsettled = gap > track.longest  # the others may only be about to reach the part that it is of
            return -part if gap <= self.forward else self.new(now - start)
        if self._follows(start, track, track.part):
            return track.part
        for part in range(len(self.shifts) - 1, -1, -1):
            if part > track.part and self._enter(start, track, part):
                return part
            if part < track.part and self._follows(start, track, part):
                return part
        return self.new(track.after + self.shifts[track.part] - start)

    def was_odd(self, start: int, track: _Track, before: _Before) -> bool:
        """Whether only the newest packet has an odd time, as this one continues from the one before it."""
        assert track.last is not None
        gap = abs(start - before.after)
        return abs(track.last - before.after) > self.back and gap <= track.longest and gap < abs(start - track.after)

    def settle(self, track: _Track, now: int, part: int) -> None:
        """Take the part that another stream has just begun, at ``now``, for that of a stream that began before, if it
        fits better."""
        assert track.first is not None
        if abs(track.first + self.shifts[part] - now) < track.longest:
            track.part, track.unsettled = part, False
            track.begins = [(track.begins[-1][0], part)]

    def _follows(self, start: int, track: _Track, part: int) -> bool:
        assert track.last is not None
        moved = self.shifts[part] - self.shifts[track.part]
        return abs(start + moved - track.after) <= self.forward and start + moved + self.back >= track.last

    def _enter(self, start: int, track: _Track, part: int) -> bool:
        """Whether the stream continues in a part that another stream began. The part is shifted so that frames follow
        each other evenly, but audio is covered or missing for no more than a little."""
        overlap = track.after + self.shifts[track.part] - start - self.shifts[part]
        if abs(overlap) > self.forward:
            return False
        if overlap > self.back or (track.video and overlap >= -self.back):
            self.shifts[part] += self._even(overlap)
        return True

    def new(self, shift: int) -> int:
        self.shifts.append(self._even(shift))
        return len(self.shifts) - 1

    def _even(self, ticks: int) -> int:
        """The least whole number of coarse ticks that is no less."""
        return -(-ticks // self.coarse) * self.coarse
