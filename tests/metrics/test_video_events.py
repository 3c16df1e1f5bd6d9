"""What is seen to hit something is found, by the truth of the world."""

from __future__ import annotations

import numpy as np
import pytest

from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.metrics import Events, Found, Synchrony, classify, compare, events_of, find_video_events, match, pooled
from flowreel.world.canvas import Canvas
from flowreel.world.render import CLASSES, Event, render
from tests.metrics.spoiling import spoiled

SHAPES = [(64, 10.0), (96, 20.0), (32, 8.0), (48, 30.0)]


def against_truth(clip: Clip, events: list[Event], found: list[Found]) -> Synchrony:
    """Of the truth in the place of the picture and ``found`` in that of the sound, within a frame."""
    truth = tuple(Found(event.time, event.note) for event in events)
    return compare(Events(clip.label or "", clip.seconds, clip.fps, truth, tuple(found)))


@pytest.mark.parametrize(("size", "fps"), SHAPES)
@pytest.mark.parametrize("name", CLASSES)
def test_events_of_rendered_clips(name: str, size: int, fps: float) -> None:
    parts = []
    for seed in range(2 if size <= 64 else 1):
        clip, events = render(name, seed, 5, size, fps)
        parts.append(against_truth(clip, events, find_video_events(clip, name)))
        assert classify(clip) == name
    total = pooled(parts)
    assert total.f1 >= 0.98
    assert total.note_agreement >= 0.99
    assert abs(total.offset) < 5
    assert np.median(np.abs(total.offsets)) < 0.01


@pytest.mark.parametrize("name", CLASSES)
def test_events_after_compression(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    clip, events = render(name, 11, 8)
    read = Clip.read(clip.save(tmp_path / "x.mp4"))
    found = events_of(read, name)
    for some in (found.picture, found.sound):
        score = against_truth(clip, events, list(some))
        assert score.f1 >= 0.98
        assert score.note_agreement >= 0.99
    assert classify(read) == name


@pytest.mark.parametrize("name", CLASSES)
def test_events_of_imperfect_clips(name: str) -> None:
    pictures, sounds = [], []
    for seed in range(2):
        clip, events = render(name, seed, 8)
        bad = spoiled(clip, seed)
        found = events_of(bad, name)
        pictures.append(against_truth(clip, events, list(found.picture)))
        sounds.append(against_truth(clip, events, list(found.sound)))
        assert classify(bad) == name
    assert pooled(pictures).f1 >= 0.95
    assert pooled(sounds).f1 >= 0.95


def test_a_drop_that_vanishes_hits_nothing() -> None:
    clip, events = render("rain", 3, 4)
    frames = clip.frames.copy()
    frames[:, 22:] = frames[:, :1, :1]
    assert len(find_video_events(clip, "rain")) >= len(events) - 1 > 0
    assert find_video_events(Clip(frames), "rain") == []


def test_a_ring_without_a_spark_is_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world has none, but what a model generates may."""
    draw = Canvas.disc
    monkeypatch.setattr(Canvas, "disc", lambda *_: None)  # the spark; particles are drawn by another
    clips = [render("fireworks", seed, 8, fps=10) for seed in range(6)]
    monkeypatch.setattr(Canvas, "disc", draw)
    matched = missed = more = 0
    for clip, events in clips:
        truth = [Found(e.time, e.note, 1.0, e.x, e.y) for e in events if 0.3 < e.time < 7.7]
        found = [f for f in find_video_events(clip, "fireworks") if 0.2 < f.time < 7.8]
        pairs = match(truth, found, 0.1)
        assert all(event.note == seen.note for event, seen in pairs)
        matched, missed, more = matched + len(pairs), missed + len(truth) - len(pairs), more + len(found) - len(pairs)
    assert matched > 40
    assert missed + more <= 0.06 * matched


def test_a_spark_without_a_ring_is_no_burst() -> None:
    clip, events = render("fireworks", 1, 4, fps=10)
    first = next(event for event in events if event.time > 1)
    before = clip.frames[: int(first.time * 10) + 1].copy()
    rest = np.broadcast_to(before[:1, :1, :1], (12, *before.shape[1:]))
    found = find_video_events(Clip(np.concatenate([before, rest])), "fireworks")
    assert all(abs(event.time - first.time) > 0.15 for event in found)


def test_a_ball_that_turns_in_mid_air_sideways_hits_no_wall() -> None:
    clip, events = render("bounce", 0, 6)
    wide = np.zeros((*clip.frames.shape[:2], 160, 3), np.uint8) + clip.frames[0, 0, 0]
    wide[:, :, 48:112] = clip.frames
    floors = sum(event.kind == "floor" for event in events)
    assert floors - 1 <= len(find_video_events(Clip(wide), "bounce")) <= floors


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_is_seen_in_the_dark(name: str) -> None:
    rng = np.random.default_rng(0)
    dark = Clip(np.zeros((30, 64, 64, 3), np.uint8))
    noise = Clip(rng.integers(0, 24, (30, 64, 64, 3), dtype=np.uint8))
    still = Clip(np.repeat(render(name, 0, 1)[0].frames[5:6], 30, axis=0))
    grey = Clip(np.repeat(rng.integers(0, 256, (30, 64, 64, 1), dtype=np.uint8), 3, axis=3))
    one = Clip(render(name, 0, 0.1)[0].frames)
    for clip in (dark, noise, grey, still, one):
        assert [event for event in find_video_events(clip, name) if event.time > 0.3] == []
    assert classify(dark) == classify(grey) == "nothing"


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(InputError, match="has no class 'snow'"):
        find_video_events(Clip(np.zeros((3, 32, 32, 3), np.uint8)), "snow")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_events_of_many_clips(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    pictures, sounds, right = [], [], 0
    for seed in range(100):
        clip, events = render(name, 1000 + seed, 8)
        read = Clip.read(clip.save(tmp_path / f"{seed}.mp4"))
        found = events_of(read, name)
        pictures.append(against_truth(clip, events, list(found.picture)))
        sounds.append(against_truth(clip, events, list(found.sound)))
        right += classify(read) == name
    for total in (pooled(pictures), pooled(sounds)):
        assert total.f1 >= 0.98
        assert total.note_agreement >= 0.99
    assert right >= 99
