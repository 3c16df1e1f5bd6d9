"""Notes that are struck are heard: when and which."""

from __future__ import annotations

import numpy as np
import pytest

from flowreel.errors import InputError
from flowreel.metrics import Found, find_audio_events, match
from flowreel.world.render import CLASSES, NOTE_SECONDS, NOTES, Event, render_audio, scene


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
@pytest.mark.parametrize("name", CLASSES)
def test_every_note_is_heard_in_time(name: str, rate: int) -> None:
    missed = extra = 0
    for seed in range(4):
        shown = scene(name, seed)
        audio = render_audio(shown.events(-NOTE_SECONDS, 8), 8, rate)
        truth = [Found(event.time, event.note) for event in shown.events(0, 8)]
        found = find_audio_events(audio, rate)
        pairs = match(truth, found, 0.02)
        missed += sum(0.05 < event.time < 7.95 for event in set(truth) - {a for a, _ in pairs})
        extra += len(found) - len(pairs)
        assert all(a.note == b.note for a, b in pairs)
        assert np.median([abs(a.time - b.time) for a, b in pairs]) < 0.003
    assert missed == extra == 0


def test_notes_over_each_other_neither_hide_nor_make_onsets() -> None:
    struck = [Event(0.5, 0, 0, 0, ""), Event(0.75, 0, 0, 0, ""), Event(0.95, 1, 0, 0, "", 0.0), Event(1.1, 4, 0, 0, "")]
    heard = find_audio_events(render_audio(struck, 2), 16000)
    assert [event.note for event in heard] == [0, 0, 1, 4]
    assert [event.time for event in heard] == pytest.approx([0.5, 0.75, 0.95, 1.1], abs=0.01)


def test_two_notes_at_once_are_two_events() -> None:
    assert [
        e.note for e in find_audio_events(render_audio([Event(0.5, 1, 0, 0, ""), Event(0.5, 3, 0, 0, "")], 1), 16000)
    ] in (
        [1, 3],
        [3, 1],
    )


def test_what_is_no_note_is_no_event() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(32000) / 16000
    crack = np.float32(0.4 * rng.uniform(-1, 1, 32000) * np.exp(-np.abs(time - 1) / 0.01) * (time > 1))
    steady = np.float32(0.3 * np.sin(2 * np.pi * NOTES[2].pitch * time))
    for audio in (np.zeros(32000, np.float32), np.float32(rng.normal(0, 0.02, 32000)), crack, steady):
        assert find_audio_events(audio, 16000) == []
    assert find_audio_events(None, 16000) == find_audio_events(np.zeros(10, np.float32), 16000) == []


def test_a_pitch_between_the_notes_is_heard_and_is_none_of_them() -> None:
    time = np.arange(16000) / 16000
    between = 0.4 * np.sin(2 * np.pi * 720 * time) * np.exp(-(time - 0.5) / 0.1) * (time > 0.5)
    (event,) = find_audio_events(np.float32(between), 16000)
    assert event.note == -1
    assert event.time == pytest.approx(0.5, abs=0.005)


def test_ghosts_far_below_the_loudest_note_dont_count() -> None:
    audio = render_audio([Event(0.5, 0, 0, 0, "")], 2) + 0.05 * render_audio([Event(1.2, 2, 0, 0, "")], 2)
    assert [event.note for event in find_audio_events(audio, 16000)] == [0]


def test_rates_that_have_no_notes_are_refused() -> None:
    with pytest.raises(InputError, match="4000"):
        find_audio_events(np.zeros(1000, np.float32), 2000)
