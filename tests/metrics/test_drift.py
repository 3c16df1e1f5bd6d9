"""Figures along a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from flowreel.errors import InputError
from flowreel.media import Clip, samples_for
from flowreel.metrics import drift
from flowreel.metrics.drift import windows
from flowreel.world.render import render
from tests.metrics.spoiling import late


def chunks(clip: Clip, frames: int) -> Iterator[Clip]:
    assert clip.audio is not None
    for start in range(0, len(clip.frames), frames):
        part = clip.frames[start : start + frames]
        cuts = (samples_for(n, clip.fps, clip.sample_rate) for n in (start, start + len(part)))
        yield replace(clip, frames=part, audio=clip.audio[slice(*cuts)])


@pytest.mark.parametrize(("frames", "fps"), [(1, 10.0), (7, 12.5), (64, 10.0), (1000, 7.3)])
def test_windows_are_the_stream(frames: int, fps: float) -> None:
    clip, _ = render("rain", 0, 9, 32, fps)
    cut = list(windows(chunks(clip, frames), 4))
    assert [len(part.frames) for part in cut[:-1]] == [round(4 * fps)] * (len(cut) - 1)
    joined = Clip.join(cut)
    assert np.array_equal(joined.frames, clip.frames)
    assert np.array_equal(joined.audio, clip.audio)
    for number, part in enumerate(cut[1:], 1):
        start = samples_for(number * round(4 * fps), fps, 16000)
        assert np.array_equal(part.audio, clip.audio[start : start + len(part.audio)])


def test_a_steady_stream_does_not_drift() -> None:
    clip, _ = render("bounce", 1, 32, 48)
    found = drift(chunks(clip, 5), seconds=10)
    assert [span.start for span in found.spans] == [0, 10, 20]
    assert all(span.synchrony.f1 > 0.9 and span.seen == span.name == "bounce" for span in found.spans)
    assert all(span.frozen == span.silent == 0 for span in found.spans)
    assert abs(found.differences["loudness"]) < 1
    assert abs(found.differences["brightness"]) < 1
    assert found.differences["f1"] == pytest.approx(0, abs=0.1)


def test_what_goes_wrong_is_seen() -> None:
    good, _ = render("pendulum", 1, 10, 48)
    frozen = replace(good, frames=np.repeat(good.frames[:1], 100, axis=0))
    quiet = replace(good, audio=np.zeros_like(good.audio), frames=good.frames // 2)
    found = drift([good, frozen, late(good, 0.3), quiet], seconds=10)
    first, second, third, last = found.spans
    assert (first.frozen, second.frozen, third.frozen, last.frozen) == (0, 1, 0, 0)
    assert (first.silent, second.silent, last.silent) == (0, 0, 1)
    assert first.synchrony.f1 > 0.9 > 0.2 > third.synchrony.f1
    assert last.loudness == -120
    assert found.differences["brightness"] == pytest.approx(-first.brightness / 2, abs=1)
    assert found.differences["f1"] == -first.synchrony.f1
    assert np.isnan(found.differences["offset"])


def test_streams_that_cant_be_measured_are_refused() -> None:
    with pytest.raises(InputError, match="no clips"):
        drift([])
    with pytest.raises(InputError, match="4 seconds or more"):
        drift(render("rain", 0, 1, 32)[0], seconds=1)


def test_a_black_stream_without_sound() -> None:
    found = drift(Clip(np.zeros((50, 32, 32, 3), np.uint8)))
    assert found.first is found.last
    assert (found.first.name, found.first.frozen, found.first.silent, found.first.synchrony.f1) == ("nothing", 1, 1, 0)
