"""Events of video and audio, and which of them belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flowreel.world.scenes import NOTES


class Found(NamedTuple):
    """An event at ``time`` seconds of one of the notes 0 to 4, or -1 where hue or pitch is none of them.

    ``strength``: of a sound its amplitude, full scale 1; of a picture how vivid the object is, 0 to 1. ``x``, ``y`` in
    [0, 1] from the left and from the top; of a sound 0.
    """

    time: float
    note: int
    strength: float = 1.0
    x: float = 0.0
    y: float = 0.0


def nearest_note(hue: float) -> int:
    """The note of a ``hue`` in degrees; -1 if it is more than 30 degrees off every note's."""
    distances = [abs((hue - note.hue + 180) % 360 - 180) for note in NOTES]
    nearest = distances.index(min(distances))
    return nearest if distances[nearest] <= 30 else -1


def match(picture: Sequence[Found], sound: Sequence[Found], tolerance: float) -> list[tuple[Found, Found]]:
    """Pairs of events at most ``tolerance`` seconds apart, each event in one pair at most, in the order of time.

    As many pairs as there can be; of the ways to have so many, the one with the smallest sum of distances. On a line
    some best matching has no crossings, so the two lists are aligned like strings, cluster by cluster.
    """
    pairs = []
    for left, right in _clusters(sorted(picture), sorted(sound), tolerance + 1e-9):
        pairs += _aligned(left, right, tolerance + 1e-9)
    return pairs


def _clusters(left: list[Found], right: list[Found], tolerance: float) -> Iterator[tuple[list[Found], list[Found]]]:
    """Parts of both lists that are further than ``tolerance`` from the other parts."""
    merged = sorted([(event.time, 0, event) for event in left] + [(event.time, 1, event) for event in right])
    group: tuple[list[Found], list[Found]] = ([], [])
    before = -float("inf")
    for time, side, event in merged:
        if time - before > tolerance:
            yield group
            group = ([], [])
        group[side].append(event)
        before = time
    yield group


def _aligned(left: list[Found], right: list[Found], tolerance: float) -> list[tuple[Found, Found]]:
    """The best matching of two short sorted lists, by dynamic programming."""
    best = [[(0, 0.0)] * (len(right) + 1) for _ in range(len(left) + 1)]  # most pairs, then minus their distance
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            options = [best[i][j + 1], best[i + 1][j]]
            distance = abs(a.time - b.time)
            if distance <= tolerance:
                options.append((best[i][j][0] + 1, best[i][j][1] - distance))
            best[i + 1][j + 1] = max(options)
    pairs, i, j = [], len(left), len(right)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((left[i], right[j]))
    return pairs[::-1]
