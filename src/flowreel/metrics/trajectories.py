"""Finds events of drops that reach the water and of sparks that burst, from their trajectories."""

from __future__ import annotations

import numpy as np

from flowreel.metrics.events import Found
from flowreel.metrics.tracking import Track, View, compact, linked
from flowreel.world.scenes import NOTES, Fireworks, Rain

_DROP = 0.0575  # radius, the mean of the world's
_DROP_SPEED = 0.9
_SPARK = 0.04
_WIDER = 0.004
"""Share of the frame by which a ring must have grown; those of the world cover 0.01 and more."""
_APPEARS = 0.018
"""Share of the frame by which a hue must have grown around a place for a burst without a spark; a spark covers
0.006."""
_SQUARE = 0.14
"""Half the side of the square that this is looked at in."""


def hits(view: View) -> list[Found]:
    """Of rain: when the lower edge of a drop reaches the water line, extrapolated from its fall.

    A drop that was last seen too far above the line has vanished, and hits nothing.
    """
    lowest = Rain.LINE - _DROP
    frames = [[blob for blob in blobs if 0.05 < blob.y < lowest + 0.01] for blobs in compact(view, _DROP, least=0.5)]
    tracks = linked(frames, view.fps, _falling)
    slopes = [slope for track in tracks if (slope := _speed(track)) is not None]
    usual = float(np.median(slopes)) if slopes else _DROP_SPEED
    found = []
    for track in tracks:
        times, y = track.columns()
        if len(times) < 2 and times[0] > 0.5 / view.fps:
            continue
        speed = _speed(track) or usual
        time = float((times + (lowest - y) / speed).mean())
        seen = time - track.last.time <= 1.8 / view.fps + 0.02
        if seen and 0 <= time < len(view.times) / view.fps:
            found.append(Found(time, view.note(track.blobs, _DROP), track.last.covers, track.x, Rain.LINE))
    return found


def _falling(track: Track, time: float) -> tuple[float, float]:
    """See :data:`tracking.Expected`."""
    since = time - track.last.time
    fall = (_speed(track) or _DROP_SPEED) * since
    return track.last.y + fall, 0.03 + 0.3 * fall


def _speed(track: Track) -> float | None:
    """Heights a second, of a track that is long enough and falls."""
    times, y = track.columns()
    if len(times) < 3 or times[-1] - times[0] < 0.25:
        return None
    slope = float(np.polyfit(times - times[0], y, 1)[0])
    return slope if 0.4 <= slope <= 1.6 else None


def bursts(view: View) -> list[Found]:
    """Of fireworks: when a spark that rises ends in a ring of its own hue that widens, or a ring appears without one.

    The instant is the one at which the spark, slowing down as it does, stands still; but no more than a frame before it
    was last seen, and a little more than a frame after.
    """
    tracks = [_without_debris(view, track) for track in linked(compact(view, _SPARK, 0.55), view.fps, _rising)]
    found: list[Found] = []
    for track in sorted(tracks, key=lambda track: -len(track.blobs)):
        times, y = track.columns()
        short = times[-1] - times[0] < 0.19 or y[:2].mean() - y[-1] < 0.03
        if short and (times[0] > 0.5 / view.fps or _ringed_at_first(view, track)):
            continue
        time = float(np.clip(_still(track), times[-1] - 1 / view.fps, times[-1] + 1.2 / view.fps))
        x, top = track.x, track.last.y
        again = any(abs(time - other.time) < 0.2 and np.hypot(x - other.x, top - other.y) < 0.15 for other in found)
        if time >= 0 and not again and _widens(view, track, time):
            found.append(Found(time, view.note(track.blobs, _SPARK), track.last.covers, x, top))
    return sorted(found + _sparkless(view, found), key=lambda event: event.time)


def _sparkless(view: View, found: list[Found]) -> list[Found]:
    """Bursts that no spark rose to: when much more of a hue is at a place than there was in the two frames before.

    The world has none; what a model generates may. Half a frame before it is first seen, as it may have begun anywhere
    in between.
    """
    others: list[Found] = []
    for number, note in enumerate(NOTES):
        around = _around(view, _level(view.colours, note.colour / np.linalg.norm(note.colour)))
        frame = 2
        while frame < len(around):
            before = np.maximum(around[frame - 1], around[frame - 2])
            more = around[frame : frame + 2].max(axis=0) - before
            row, column = np.unravel_index(int(more.argmax()), more.shape)
            if more[row, column] < _APPEARS or around[frame][row, column] - before[row, column] < _APPEARS / 3:
                frame += 1
                continue
            time, x, y = float(view.times[frame]) - 0.5 / view.fps, float(view.x[column]), float(view.y[row])
            if not any(abs(time - e.time) < 0.45 and np.hypot(x - e.x, y - e.y) < 0.25 for e in found + others):
                others.append(Found(time, number, float(more[row, column]), x, y))
            frame += 2
    return others


def _around(view: View, level: np.ndarray) -> np.ndarray:
    """(T, H, W): how much of ``level`` lies in a square around each pixel, as a share of the frame."""
    half = round(_SQUARE * len(view.x))
    padded = np.pad(level, ((0, 0), (half + 1, half), (half + 1, half)))
    sums = padded.cumsum(axis=1).cumsum(axis=2)
    width = 2 * half + 1
    boxes = sums[:, width:, width:] - sums[:, :-width, width:] - sums[:, width:, :-width] + sums[:, :-width, :-width]
    return boxes / level[0].size


def _ringed_at_first(view: View, track: Track) -> bool:
    """Whether a track that begins with the clip is a particle of a ring."""
    where, colour = _ring(view, track.x, track.blobs[0].y), view.colour(track.blobs[:1], _SPARK)
    return _of_hue(view, where, colour, track.blobs[0].time, track.blobs[0].time) >= _WIDER


def _still(track: Track) -> float:
    """When a spark stands still: its height is a parabola over time whose curvature is known."""
    times, y = track.columns()
    if len(times) == 1:
        return float(times[0])
    slope = np.polyfit(times, y - Fireworks.SLOWING / 2 * times**2, 1)[0]
    return float(-slope / Fireworks.SLOWING)


def _rising(track: Track, time: float) -> tuple[float, float]:
    """See :data:`tracking.Expected`."""
    since = time - track.last.time
    if len(track.blobs) < 3:  # at most as fast as a spark enters the frame
        return track.last.y - 0.95 * since, 0.95 * since + 0.02
    left = max(0.0, _still(track) - track.last.time)
    step = Fireworks.SLOWING / 2 * (left**2 - max(0.0, left - since) ** 2)
    return track.last.y - step, 0.035 + 0.3 * step


def _without_debris(view: View, track: Track) -> Track:
    """``track`` without particles of the ring at its end: they cover less than the spark did, lie beside it, or are
    seen while the ring is."""
    colour = view.colour(track.blobs[:3], _SPARK)
    where = _ring(view, track.x, track.last.y)
    blobs = list(track.blobs)
    first = _of_hue(view, where, colour, blobs[0].time, blobs[0].time)
    while len(blobs) > 1:
        covers, x = (float(np.median([getattr(blob, name) for blob in blobs[:-1]])) for name in ("covers", "x"))
        last = blobs[-1]
        beside = abs(last.x - x) >= 0.015 or last.y > blobs[-2].y + 0.025
        ringed = last.time < 0.3 and _of_hue(view, where, colour, last.time, last.time) - first >= _WIDER
        if last.covers >= 0.88 * covers and not beside and not ringed:
            break
        blobs.pop()
    return Track(blobs)


def _widens(view: View, track: Track, time: float) -> bool:
    """Whether there is more of the track's hue around its end, but not in it, soon after ``time`` than before."""
    colour = view.colour(track.blobs, _SPARK)
    where = _ring(view, track.x, track.last.y)
    before = _of_hue(view, where, colour, time - 0.1 - 1 / view.fps, time - 0.5 / view.fps)
    after = _of_hue(view, where, colour, time + 0.04, time + max(0.3, 2.1 / view.fps))
    return after - before > _WIDER


def _ring(view: View, x: float, y: float) -> np.ndarray:
    """Which pixels (H, W) lie around (x, y) where a ring is, and a spark is not."""
    distance = np.hypot(view.x[None, :] - x, view.y[:, None] - y)
    return (distance > 0.065) & (distance < 0.27)


def _of_hue(view: View, where: np.ndarray, colour: np.ndarray, start: float, end: float) -> float:
    """The share of the frame that is of the hue of ``colour`` (3,) within ``where`` (H, W): the largest of the frames
    from ``start`` to ``end``; 0 if there are none."""
    first, last = np.searchsorted(view.times, (start - 1e-6, end + 1e-6))
    if last <= first:
        return 0.0
    pixels = view.colours[first:last][:, where]  # (T, N, 3)
    level = _level(pixels, colour / max(1e-9, float(np.linalg.norm(colour))))
    return float(level.sum(axis=1).max()) / where.size


def _level(pixels: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """How bright pixels (..., 3) are, where they are of the hue of ``direction`` (3,), a unit vector; 0 elsewhere."""
    size = np.sqrt(np.einsum("...c,...c->...", pixels, pixels))
    return np.where((pixels @ direction > 0.93 * size) & (size > 0.08), size, 0)
