"""A log-mel for every frame rate that people film at."""

from __future__ import annotations

import pytest

from flowreel.config import MelConfig
from flowreel.config.clocks import MELS, frame_rate_with_sound, has_whole_steps, mel_for, timing_with_sound
from flowreel.errors import InputError


@pytest.mark.parametrize("fps", [1, 5, 10, 12, 15, 20, 23.976, 24, 25, 29.97, 30, 48, 50, 59.94, 60, 100, 120])
def test_every_frame_has_whole_mel_steps(fps: float) -> None:
    mel = mel_for(fps)
    timing = timing_with_sound(fps, mel)
    assert timing.mel_steps * mel.hop * timing.fps == mel.sample_rate
    assert (mel == MelConfig()) == (100 % timing.fps == 0)


def test_ntsc_rates_have_whole_ones_beside_sound() -> None:
    assert [frame_rate_with_sound(fps) for fps in (23.98, 29.97, 59.94, 25, 12.5)] == [24, 30, 60, 25, 12.5]


def test_the_log_mels_span_the_same_time() -> None:
    for mel in MELS[1:]:
        assert mel.win_length / mel.sample_rate == MELS[0].win_length / MELS[0].sample_rate
        assert mel.fmax == mel.sample_rate / 2
        assert not has_whole_steps(17, mel)


def test_a_rate_that_does_not_fit_names_those_that_do() -> None:
    with pytest.raises(InputError, match=r"fps 17 .* 24, 25, 30,"):
        timing_with_sound(17, mel_for(17))
    with pytest.raises(InputError, match="does not divide"):
        timing_with_sound(24, MelConfig(hop=320))
