"""Tells which class of the world a clip shows, by how things move.

A ball and a bob are large and always alone; the bob stays as far from its pivot, the ball does not. Drops fall and
sparks rise.
"""

from __future__ import annotations

import numpy as np

from flowreel.media.clip import Clip
from flowreel.metrics.repeats import distinct_frames
from flowreel.metrics.tracking import Track, View, compact, largest, linked
from flowreel.world.scenes import Pendulum

NOTHING = "nothing"
"""What a clip shows in which nothing is vivid."""

_LARGE = 0.075
_BALL = 0.78  # share of that disc that a ball covers at least, and a drop does not
_BOB = 0.65
_SMALL = 0.05
_STIFF = 0.05  # heights by which the bob's distance to its pivot may vary
_STEP = 1.2  # heights a second: the mean of what drops and sparks do, and more


def classify(clip: Clip) -> str:
    """The class of the world that ``clip`` shows, or :data:`NOTHING`. Looks at the frames alone.

    Always one of the four where something is vivid: the rule tells the classes from each other, not from all else.
    """
    view = View(distinct_frames(clip)[0])
    if view.empty:
        return NOTHING
    large = float(np.median(view.coverage(_LARGE).max(axis=(1, 2))))
    if large >= _BOB and _stiff(view):
        return "pendulum"
    if large >= _BALL:
        return "bounce"
    return "rain" if _downwards(view) > 0 else "fireworks"


def _stiff(view: View) -> bool:
    """Whether the object keeps its distance to the pendulum's pivot, and stays in the lower half."""
    places = np.array([(blob.x, blob.y) for blob in largest(view, 0.1)])
    if len(places) == 0:
        return False
    distance = np.hypot(places[:, 0] - Pendulum.PIVOT[0], places[:, 1] - Pendulum.PIVOT[1])
    spread = float(np.percentile(distance, 90) - np.percentile(distance, 10))
    return spread < _STIFF and bool(np.median(distance) > 0.45)


def _downwards(view: View) -> float:
    """By how much more things move down than up, in heights, over tracks of three frames and more."""
    frames = [[blob for blob in blobs if 0.04 < blob.y < 0.96] for blobs in compact(view, _SMALL, least=0.5)]
    tracks = linked(frames, view.fps, _anywhere, gap=0)
    moves = [track.last.y - track.blobs[0].y for track in tracks if len(track.blobs) >= 3]
    return float(sum(moves))


def _anywhere(track: Track, time: float) -> tuple[float, float]:
    """See :data:`tracking.Expected`: up or down, as it went before."""
    since = time - track.last.time
    if len(track.blobs) == 1:
        return track.last.y, _STEP * since + 0.02
    before = track.blobs[-2]
    return track.last.y + (track.last.y - before.y) / (track.last.time - before.time) * since, 0.06
