"""The rendered video and audio agree with the list of events."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flowreel.config import WorldConfig
from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.world import scenes
from flowreel.world.export import read_events, sidecar, write_world
from flowreel.world.render import CLASSES, NOTES, World, note_waveform, render, scene

SEEDS = range(6)


def bright(frame: np.ndarray) -> np.ndarray:
    """The pixels (H, W) of something that is not background, water or rod: bright and saturated."""
    return np.ptp(frame.astype(int), axis=-1) > 128


def loudness(clip: Clip, time: float) -> float:
    """The level of 15 ms of audio from ``time`` on."""
    assert clip.audio is not None
    start = round(time * clip.sample_rate)
    return float(np.abs(clip.audio[max(0, start) : start + 240]).mean())


# --- scenes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_the_same_seed_is_the_same_clip_and_a_longer_one_begins_with_it(name: str) -> None:
    short, events = render(name, 5, seconds=2)
    again, same_events = render(name, 5, seconds=2)
    long, more_events = render(name, 5, seconds=4)
    other, _ = render(name, 6, seconds=2)
    assert short.audio is not None
    assert long.audio is not None
    assert np.array_equal(short.frames, again.frames)
    assert events == same_events == [event for event in more_events if event.time < 2]
    assert np.array_equal(short.frames, long.frames[:20])
    assert np.array_equal(short.audio, long.audio[: len(short.audio)])
    assert not np.array_equal(short.frames, other.frames)


@pytest.mark.parametrize("name", CLASSES)
def test_size_and_rate_show_the_same_scene(name: str) -> None:
    plain, events = render(name, 3, seconds=2)
    large, same = render(name, 3, seconds=2, size=128, fps=20)
    assert events == same
    shrunk = large.frames[::2].reshape(20, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(shrunk - plain.frames).mean() < 1.5


@pytest.mark.parametrize("name", CLASSES)
def test_events_come_once_or_twice_a_second_and_never_together(name: str) -> None:
    lists = [[event.time for event in scene(name, seed).events(0, 60)] for seed in range(40)]
    assert 1.0 <= np.mean([len(times) / 60 for times in lists]) <= 2.0
    assert min(np.diff(times).min() for times in lists) > 0.2


@pytest.mark.parametrize("name", CLASSES)
def test_background_is_dark_objects_are_bright_and_audio_is_below_full_scale(name: str) -> None:
    for seed in SEEDS:
        clip, _ = render(name, seed, seconds=8)
        assert clip.audio is not None
        assert np.median(clip.frames.max(-1)) <= 30
        assert clip.frames[:, :4, :4].max() <= 30 or name in ("fireworks", "rain")
        assert clip.frames.max() == 255
        assert 0.2 < np.abs(clip.audio).max() < 0.95


# --- picture and sound against the events -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_every_event_is_audible_at_its_time_and_pitch(name: str) -> None:
    for seed in SEEDS:
        clip, events = render(name, seed, seconds=8)
        assert clip.audio is not None
        for event in (e for e in events if 0.1 < e.time < 7.7):
            assert loudness(clip, event.time) > 1.5 * loudness(clip, event.time - 0.016)
            start = round(event.time * 16000)
            sound = clip.audio[start : start + 3200] * np.hanning(3200)
            levels = [abs(np.sum(sound * np.exp(-2j * np.pi * n.pitch * np.arange(3200) / 16000))) for n in NOTES]
            assert np.argmax(levels) == event.note


@pytest.mark.parametrize("name", CLASSES)
def test_every_event_is_visible_in_its_colour_and_place(name: str) -> None:
    for seed in SEEDS:
        clip, events = render(name, seed, seconds=8, fps=50)
        for event in events:
            frame = clip.frames[round(event.time * 50) : round(event.time * 50) + 3][-1]
            rows, columns = np.nonzero(bright(frame))
            nearest = np.argmin(np.hypot((rows + 0.5) / 64 - event.y, (columns + 0.5) / 64 - event.x))
            assert np.hypot((rows + 0.5) / 64 - event.y, (columns + 0.5) / 64 - event.x)[nearest] < 0.15
            shown = frame[rows[nearest], columns[nearest]] / 255
            assert np.abs(shown / shown.max() - NOTES[event.note].colour / 255).max() < 0.35


def test_the_ball_turns_where_it_hits() -> None:
    for seed in SEEDS:
        ball = scenes.Bounce(np.random.default_rng(seed))
        for event in ball.events(1, 9):
            before, at, after = (np.array(ball.place(event.time + delta)) for delta in (-0.01, 0, 0.01))
            axis = 1 if event.kind == "floor" else 0
            assert (at - before)[axis] * (after - at)[axis] < 0
            assert at[axis] in (pytest.approx(ball.radius), pytest.approx(1 - ball.radius))


def test_a_faster_hit_is_louder() -> None:
    slow, fast = (note_waveform(523.25, strength, False, 16000) for strength in (0.2, 0.9))
    assert np.abs(fast).max() > 1.3 * np.abs(slow).max()
    assert np.abs(fast[-160:]).max() < 0.01


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InputError, match="no class 'ball'; it has bounce"):
        scene("ball", 0)
    with pytest.raises(InputError, match="seconds"):
        render("rain", 0, seconds=0)


# --- many clips ---------------------------------------------------------------------------------------------------


def test_a_world_is_a_sequence_of_clips() -> None:
    clips = World(count=6, seconds=1, seed=2)
    assert [clip.label for clip, _ in clips] == [*CLASSES, "bounce", "pendulum"]
    assert np.array_equal(clips[-1][0].frames, clips[5][0].frames)
    assert len(clips[1:3]) == 2
    with pytest.raises(IndexError):
        clips[6]


def test_files_are_the_world_and_a_higher_count_adds_to_them(tmp_path: Path) -> None:
    config = WorldConfig(count=4, seconds=1, seed=3, test=0.5, lossless=True)
    write_world(tmp_path / "w", config, print)
    paths = write_world(tmp_path / "w", WorldConfig(count=8, seconds=1, seed=3, test=0.5, lossless=True), print)
    assert [path.parent.parent.name for path in paths] == ["train"] * 4 + ["test"] * 4
    clip, events = World(8, 1, 3)[5]
    read = Clip.read(paths[5])
    assert read.audio is not None
    assert np.array_equal(read.frames, clip.frames)
    assert np.array_equal(read.audio, clip.audio)
    assert read_events(paths[5]) == events
    values = json.loads(sidecar(paths[5]).read_text())
    assert values["class"] == "pendulum"
    assert render("pendulum", values["seed"], 1)[1] == events
    with pytest.raises(InputError, match="seed: was 3, now 4"):
        write_world(tmp_path / "w", WorldConfig(count=4, seconds=1, seed=4, test=0.5, lossless=True), print)
    with pytest.raises(InputError, match="no class 'snow'"):
        write_world(tmp_path / "x", WorldConfig(classes=("snow",)), print)
    (tmp_path / "y").mkdir()
    (tmp_path / "y/other").touch()
    with pytest.raises(InputError, match="holds no clips of the world"):
        write_world(tmp_path / "y", WorldConfig(), print)
