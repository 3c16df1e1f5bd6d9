"""Finds when something is seen to hit something, with one detector for each class of the world."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowreel.errors import InputError
from flowreel.media.clip import Clip
from flowreel.metrics.events import Found
from flowreel.metrics.tracking import Blob, View, largest
from flowreel.metrics.trajectories import bursts, hits
from flowreel.world.scenes import CLASSES, Bounce, Pendulum

_BALL = 0.1
_BOB = 0.09


def find_video_events(clip: Clip, name: str) -> list[Found]:
    """The events that the frames of ``clip`` show if they are of the class ``name``, in order of time.

    Works on the frames alone, of 32 pixels and more a side. Times are those of the world: frame k shows the instant
    k/fps. A reversal or a passage needs a frame on each side, so what happens within a frame of the ends may be missed.

    Raises:
        InputError: no such class.
    """
    if name not in DETECTORS:
        raise InputError(f"the world has no class {name!r}; it has {', '.join(CLASSES)}")
    view = View(clip)
    return sorted(DETECTORS[name](view)) if not view.empty else []


def contacts(view: View) -> list[Found]:
    """Of a bouncing ball: where the velocity turns round, downwards into upwards or at a wall sideways.

    Both are kinks: a jump of the slope of the place over time. At the top of the flight, where the velocity turns round
    as well, the jump is the other way.
    """
    ball = largest(view, _BALL)
    times, x, y = (np.array([getattr(blob, name) for blob in ball]) for name in ("time", "x", "y"))
    note = view.note(ball, _BALL)
    found = []
    for time, jump in kinks(times, y - 1, view.fps, reach=0.35, curve=Bounce.GRAVITY / 2, least=0.5):
        if jump < 0:
            found.append(_at(ball, time, note))
    for time, jump in kinks(times, x, view.fps, reach=0.45, curve=0.0, least=0.08):
        side = float(np.interp(time, times, x)) - 0.5
        if jump * side < 0 and abs(side) > 0.2:
            found.append(_at(ball, time, note))
    return found


def passages(view: View) -> list[Found]:
    """Of a pendulum: where the bob crosses the vertical under the pivot, from one side well to the other."""
    bob = largest(view, _BOB)
    note = view.note(bob, _BOB)
    found: list[Found] = []
    side, crossing = 0.0, -1.0
    for before, after in zip([None, *bob], bob, strict=False):
        x = after.x - Pendulum.PIVOT[0]
        if before is not None and (before.x - Pendulum.PIVOT[0]) * x <= 0 and before.x != after.x:
            share = (Pendulum.PIVOT[0] - before.x) / (after.x - before.x)
            crossing = before.time + share * (after.time - before.time)
        if abs(x) > 0.07:
            if side * x < 0 and crossing >= 0:
                found.append(_at(bob, crossing, note))
            side = x
    return found


def _at(blobs: list[Blob], time: float, note: int) -> Found:
    """An event of one object at ``time``."""
    near = min(blobs, key=lambda blob: abs(blob.time - time))
    return Found(time, note, near.covers, near.x, near.y)


def kinks(
    times: np.ndarray, places: np.ndarray, fps: float, reach: float, curve: float, least: float
) -> list[tuple[float, float]]:
    """Where the slope of ``places`` (N,) over ``times`` (N,) jumps: the instants and half of each jump.

    Around each instant t, within ``reach`` seconds, places are fitted by a + b (times - t) + s |times - t|. Kinks are
    where s, of ``least`` and more, explains most, ``reach`` apart from each other. The instant is the one within a
    frame, or 0.12 s, of it that fits best when ``curve`` (times - t)^2 is taken off the places first.
    """
    if len(times) < 5:
        return []
    grid = np.arange(times[0], times[-1], 0.25 / fps)
    jumps, gains = np.array([_fit(times, places, t, reach, 0.0)[::2] for t in grid]).T
    gains = np.where(np.abs(jumps) >= least, gains, 0)
    found: list[tuple[float, float]] = []
    for index in np.argsort(-gains, kind="stable"):
        if gains[index] <= 0:
            break
        if all(abs(grid[index] - time) >= reach for time, _ in found):
            time = grid[index]
            for step, count in ((0.25 / fps, round(max(1, 0.12 * fps) * 4)), (0.02 / fps, 20)):
                near = time + step * np.arange(-count, count + 1)
                time = near[int(np.argmin([_fit(times, places, t, reach, curve)[1] for t in near]))]
            found.append((float(time), float(jumps[index])))
    return found


def _fit(times: np.ndarray, places: np.ndarray, t: float, reach: float, curve: float) -> tuple[float, float, float]:
    """Of the fit of :func:`kinks` at ``t``: s, the mean squared error, and by how much s lowers the sum of squares. At
    least two places are on each side; otherwise s is 0 and the error infinite."""
    first, last = np.searchsorted(times, (t - reach, t + reach))
    since = times[first:last] - t
    if len(since) < 5 or since[1] >= 0 or since[-2] <= 0:
        return 0.0, np.inf, 0.0
    wanted = places[first:last] - curve * since**2
    line, _ = np.linalg.qr(np.stack([np.ones_like(since), since], axis=1))
    wanted, bend = wanted - line @ (line.T @ wanted), np.abs(since) - line @ (line.T @ np.abs(since))
    gain = float(bend @ wanted) ** 2 / float(bend @ bend)
    return float(bend @ wanted / (bend @ bend)), (float(wanted @ wanted) - gain) / len(since), gain


DETECTORS: dict[str, Callable[[View], list[Found]]] = {
    "bounce": contacts,
    "pendulum": passages,
    "rain": hits,
    "fireworks": bursts,
}
