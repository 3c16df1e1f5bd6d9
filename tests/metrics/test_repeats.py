"""Files with more frames a second than pictures are measured as the pictures are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowreel.media import Clip
from flowreel.metrics import classify, compare, events_of, pooled
from flowreel.metrics.repeats import distinct_frames
from flowreel.world.render import CLASSES, render

RULES: dict[str, Callable[[float], int]] = {
    "down": math.floor,
    "nearest": lambda frames: math.floor(frames + 0.5),
    "up": math.ceil,
}


def repeated(clip: Clip, fps: float, rule: str = "nearest", noise: int = 0) -> Clip:
    """``clip`` at ``fps`` frames a second: picture k from the frame at its time on, rounded by ``rule``."""
    starts = [RULES[rule](round(k * fps / clip.fps, 6)) for k in range(len(clip.frames))]
    count = round(clip.seconds * fps)
    shown = np.searchsorted(starts, np.arange(count), side="right") - 1
    frames = clip.frames[shown].astype(int)
    frames += np.random.default_rng(0).integers(-noise, noise + 1, frames.shape)
    return replace(clip, frames=np.clip(frames, 0, 255).astype(np.uint8), fps=fps)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [render(name, 4, 5, 48)[0] for name in CLASSES]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fps", [15, 24, 25, 30, 48, 50, 60])
def test_the_pictures_are_found(clips: list[Clip], fps: float, rule: str) -> None:
    for clip in clips:
        pictures, begin = distinct_frames(repeated(clip, fps, rule))
        assert pictures.fps == 10
        assert begin == 0
        assert np.array_equal(pictures.frames, clip.frames)


def test_pictures_of_24_a_second_are_found_among_60_frames() -> None:
    clip, _ = render("pendulum", 1, 3, 48, fps=24)
    pictures, begin = distinct_frames(repeated(clip, 60))
    assert (pictures.fps, begin) == (24, 0)
    assert np.array_equal(pictures.frames, clip.frames)


def test_frames_without_repeats_are_left_as_they_are(clips: list[Clip]) -> None:
    for clip in (*clips, *(render(name, 2, 3, 48, fps=fps)[0] for name in CLASSES for fps in (12, 25))):
        assert distinct_frames(clip)[0] is clip
    still = replace(clips[0], frames=np.repeat(clips[0].frames[:1], 75, axis=0), fps=25)
    assert distinct_frames(still)[0] is still
    single = replace(still, frames=still.frames[:1])
    assert distinct_frames(single)[0] is single


def test_a_cut_within_a_picture_is_seen(clips: list[Clip]) -> None:
    """Of pictures that last six frames, the first four frames are cut off."""
    whole = repeated(clips[0], 60)
    pictures, begin = distinct_frames(replace(whole, frames=whole.frames[4:]))
    assert begin == pytest.approx(-4 / 60, abs=1 / 60)
    assert np.array_equal(pictures.frames, clips[0].frames)


@pytest.mark.parametrize("fps", [15, 25, 30, 50])
def test_repeated_pictures_score_as_the_pictures_do(clips: list[Clip], fps: float) -> None:
    again = [repeated(clip, fps, noise=4) for clip in clips]
    assert [classify(clip) for clip in again] == list(CLASSES)
    for clip, other in zip(clips, again, strict=True):
        before, after = events_of(clip), events_of(other)
        assert (after.fps, after.seconds) == (before.fps, before.seconds)
        assert [e.time for e in after.picture] == pytest.approx([e.time for e in before.picture], abs=0.02)
    assert pooled(compare(events_of(clip)) for clip in again).f1 >= 0.99


def test_files_that_were_encoded_again_score_as_before(clips: list[Clip], tmp_path: Path) -> None:
    parts = []
    for number, clip in enumerate(clips):
        path = repeated(clip, 25).save(tmp_path / f"{number}.mp4")
        parts.append(compare(events_of(replace(Clip.read(path), label=clip.label))))
    assert pooled(parts).f1 >= 0.99
    assert abs(pooled(parts).offset) < 10
