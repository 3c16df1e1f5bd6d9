"""The figures of synchrony tell what belongs together from what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowreel.media import Clip
from flowreel.metrics import Events, Found, Synchrony, compare, events_of, floor, pooled, synchrony
from flowreel.world.render import CLASSES, NOTE_SECONDS, render, render_audio, scene
from tests.metrics.spoiling import late


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [render(name, seed, 6, 48)[0] for name in CLASSES for seed in range(2)]


@pytest.fixture(scope="module")
def found(clips: list[Clip]) -> list[Events]:
    return [events_of(clip) for clip in clips]


def test_rendered_clips_are_in_step(found: list[Events]) -> None:
    total = pooled(map(compare, found))
    assert total.f1 >= 0.99
    assert total.note_agreement == 1
    assert abs(total.offset) < 5
    assert total.clips == len(found)
    assert total.seconds == pytest.approx(6 * len(found))
    assert total.picture_rate == pytest.approx(total.sound_rate, abs=0.15)
    assert floor(found).f1 < 0.5


def test_late_sound_falls_to_the_floor(clips: list[Clip], found: list[Events]) -> None:
    shifted = pooled(synchrony(late(clip, 0.3)) for clip in clips)
    assert shifted.f1 < floor(found).f1 + 0.05
    near = pooled(synchrony(late(clip, 0.05)) for clip in clips[:4])
    assert near.f1 > 0.95
    assert near.offset == pytest.approx(50, abs=5)


def test_wrong_pitches_lower_the_agreement_alone() -> None:
    parts = []
    for name in CLASSES:
        clip, _ = render(name, 5, 6)
        wrong = [replace(event, note=(event.note + 1) % 5) for event in scene(name, 5).events(-NOTE_SECONDS, 6)]
        parts.append(synchrony(replace(clip, audio=render_audio(wrong, 6))))
    assert pooled(parts).f1 >= 0.99
    assert pooled(parts).note_agreement == 0


@pytest.mark.parametrize("name", CLASSES)
def test_silent_and_black_clips_score_nothing(name: str) -> None:
    clip, _ = render(name, 2, 4)
    black = np.zeros_like(clip.frames)
    for bad in (
        replace(clip, audio=None),
        replace(clip, audio=np.zeros(64000, np.float32)),
        replace(clip, frames=black),
        Clip(black, None),
        Clip(black[:1], None, label=name),
    ):
        score = synchrony(bad)
        assert score.f1 == 0
        assert score.missing > 0
        assert np.isnan(score.offset)
        assert np.isnan(score.note_agreement)
        assert score.figures()["offset_ms"] is None


def test_an_empty_clip_costs_as_much_as_a_wrong_one() -> None:
    shown = tuple(Found(time, 0) for time in (1.0, 2.0, 3.0))
    right = compare(Events("rain", 5, 10, shown, shown))
    silent = compare(Events("rain", 5, 10, shown, ()))
    empty = compare(Events("rain", 5, 10, (), ()))
    assert (right.f1, silent.f1, empty.f1) == (1, 0, 0)
    assert pooled([right, silent]).f1 == 0.5
    assert empty.missing == 2 * round(1.4 * 4.7)
    assert pooled([]).f1 == Synchrony().f1 == 0


def test_what_the_ends_hide_does_not_count() -> None:
    inner = tuple(Found(time, 0) for time in (1.0, 2.0))
    ends = Events("bounce", 4, 10, inner, (Found(0.05, 0), *inner, Found(3.8, 0)))
    assert compare(ends).f1 == 1
    assert compare(ends).heard == 4
    assert compare(replace(ends, sound=(Found(0.2, 0), *inner))).f1 == 0.8
    both = compare(replace(ends, picture=(*inner, Found(3.85, 0))))
    assert (both.matched, both.picture, both.sound) == (3, 3, 3)


@pytest.mark.parametrize("fps", [10, 12.5, 25, 60])
def test_events_match_within_a_tenth_of_a_second(fps: float) -> None:
    shown = (Found(1.0, 0), Found(2.0, 1))
    heard = (Found(1.1, 0), Found(2.101, 1))
    assert compare(Events("rain", 4, fps, shown, heard)).matched == 1
    assert compare(Events("rain", 4, fps, shown, heard), tolerance=0.11).matched == 2


def test_the_floor_crosses_clips_of_one_class() -> None:
    a, b = (tuple(Found(time, 0) for time in some) for some in ((1.0, 2.0), (1.5, 2.5, 5.0)))
    apart = [Events("rain", 4, 10, a, a), Events("rain", 6, 10, b, b)]
    assert floor(apart).f1 == 0
    assert floor(apart).clips == 2
    assert floor([apart[0], apart[0]]).f1 == 1
    assert floor([apart[0], replace(apart[1], name="bounce")]).clips == 0
