"""Which events belong together."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from flowreel.metrics import Found, match
from flowreel.metrics.events import nearest_note


def at(*times: float) -> list[Found]:
    return [Found(time, 0) for time in times]


def times(pairs: list[tuple[Found, Found]]) -> list[tuple[float, float]]:
    return [(a.time, b.time) for a, b in pairs]


def test_as_many_pairs_as_there_can_be_come_before_near_ones() -> None:
    assert times(match(at(0.0, 0.1), at(0.09, 0.19), 0.1)) == [(0.0, 0.09), (0.1, 0.19)]
    assert times(match(at(0.0, 0.1), at(0.09), 0.1)) == [(0.1, 0.09)]
    assert times(match(at(1.0), at(1.1), 0.1)) == [(1.0, 1.1)]
    assert match(at(1.0), at(1.11), 0.1) == []
    assert match([], at(1.0), 0.1) == []


@pytest.mark.parametrize("seed", range(20))
def test_no_other_matching_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = (at(*rng.uniform(0, 1, size)) for size in (4, 5))
    pairs = match(left, right, 0.2)
    best = max(_quality(left, some, 0.2) for some in permutations(right, len(left)))
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert (len(pairs), -sum(abs(a.time - b.time) for a, b in pairs)) == pytest.approx(best)


def _quality(left: list[Found], right: tuple[Found, ...], tolerance: float) -> tuple[int, float]:
    off = [abs(a.time - b.time) for a, b in zip(left, right, strict=True) if abs(a.time - b.time) <= tolerance]
    return len(off), -sum(off)


def test_hues_between_the_notes_are_none_of_them() -> None:
    assert [nearest_note(hue) for hue in (0, 350, 62, 115, 190, 300, 240, 329, 331)] == [0, 0, 1, 2, 3, 4, -1, 4, 0]
