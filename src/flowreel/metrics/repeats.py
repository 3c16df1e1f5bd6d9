"""Finds frames that a file repeats, and gives the others at their own rate.

A clip of 10 pictures a second that was re-encoded to 25 frames a second shows each picture two or three times. Nothing
in it moves evenly, so speeds and turns can only be measured at the pictures' own rate.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from flowreel.media.clip import Clip

_SLOWEST = 9.9
"""Pictures a second: a little less than the world's 10, for the third of 29.97."""
_CHANGED = 16
"""Of 255, by which a pixel must change: what an encoder changes in a repeated picture is less."""
_REPEATED = 0.1
"""Frames that should repeat may change by this share of what the others do, on average."""
_ALIKE = 1.02
"""Rates up to this ratio of the lowest that fits, as 10 and 9.99, are told apart by how well they fit."""
_FEWEST = 1.2
"""Frames per picture; with fewer, repeated ones are too rare to tell."""


def distinct_frames(clip: Clip) -> tuple[Clip, float]:
    """The clip's pictures at their own rate, without repeats, and when the first of them began, in seconds.

    A time is right to a frame of the file: encoders round up, down or to the nearest.

    Rates below the world's 10 a second are not looked for: a clip of no more is returned as it is. So is one that
    repeats nothing, or not evenly.
    """
    changes = _changes(clip) if clip.fps >= _FEWEST * _SLOWEST else np.zeros(1)
    if not changes.any():
        return clip, 0.0
    fits = [(rate, *fit) for rate in _rates(clip.fps) if (fit := _fit(changes, clip.fps / rate)) is not None]
    if not fits:
        return clip, 0.0
    alike = [fit for fit in fits if fit[0] <= _ALIKE * fits[0][0]]
    rate, _, begin = min(alike, key=lambda fit: (fit[1], not fit[0].is_integer()))
    starts = _starts(len(clip.frames), clip.fps / rate, begin)
    return replace(clip, frames=clip.frames[starts], fps=rate), _offset(begin) / clip.fps


def _changes(clip: Clip) -> np.ndarray:
    """(T,) by how much each frame differs from the one before it: the share of its pixels; the first 0."""
    return np.array([0.0, *(_changed(a, b) for a, b in zip(clip.frames[:-1], clip.frames[1:], strict=True))])


def _changed(before: np.ndarray, after: np.ndarray) -> float:
    return float((np.maximum(before, after) - np.minimum(before, after) > _CHANGED).mean())


def _rates(fps: float) -> list[float]:
    """Pictures a second that a file of ``fps`` frames a second may have, the lowest first."""
    whole = [float(rate) for rate in range(round(_SLOWEST), int(fps) + 1)]
    parts = [fps / count for count in range(2, int(fps / _SLOWEST) + 1)]
    film = [rate * 1000 / 1001 for rate in (24, 30)]
    return sorted({rate for rate in (*whole, *parts, *film) if fps / rate >= _FEWEST})


def _fit(changes: np.ndarray, length: float) -> tuple[float, float] | None:
    """How many frames change that should repeat, and where the first picture begins, in frames, if each picture lasts
    ``length`` frames; None where the changes don't fit that.

    Of several places, the one with the fewest such frames, then the nearest to 0.
    """
    grid = np.concatenate([np.arange(0, length, 0.125) + shift for shift in (1e-6, -1e-6)])
    count, _, begin = min((_misfits(changes, length, begin), abs(begin), float(begin)) for begin in (*grid, *-grid))
    return None if math.isinf(count) else (count, begin)


def _misfits(changes: np.ndarray, length: float, begin: float) -> float:
    """How many frames change that should repeat; infinitely many if such frames change by more than they may."""
    new = np.zeros(len(changes), bool)
    new[_starts(len(changes), length, begin)] = True
    repeated, shown = changes[1:][~new[1:]], changes[1:][new[1:]]
    if not (len(repeated) and len(shown)) or repeated.mean() > _REPEATED * shown.mean():
        return math.inf
    return int((repeated > _REPEATED * shown.mean()).sum())


def _starts(frames: int, length: float, begin: float) -> np.ndarray:
    """The frames at which pictures are first shown; the first picture is already there at frame 0."""
    count = int(np.ceil((frames + length) / length)) + 1
    starts = np.ceil(np.arange(count) * length + begin).astype(int)
    starts[0] = 0
    return starts[starts < frames]


def _offset(begin: float) -> float:
    """When the first picture began, in frames: 0 where rounding explains ``begin``, which is of up to one frame."""
    return 0.0 if abs(begin) <= 1.01 else begin - math.copysign(0.5, begin)
