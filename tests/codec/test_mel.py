"""The log-mel spectrogram against its golden values and definitions, and its inverse."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file

from flowreel.codec import mel
from flowreel.config import MelConfig
from flowreel.errors import InputError
from tests.conftest import GOLDEN, close

CONFIG = MelConfig()


def chirp(seconds: float = 1.0, low: float = 200.0, high: float = 2000.0) -> torch.Tensor:
    """A sound (1, S) whose pitch rises, with a quiet start."""
    t = torch.arange(round(seconds * 16000), dtype=torch.float64) / 16000
    sweep = torch.sin(2 * math.pi * (low * t + (high - low) / (2 * seconds) * t**2))
    return (0.5 * sweep * (t / seconds).clamp(max=1).sqrt()).float()[None]


def loud_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The mean error of the log-mel where it is within a factor of 1000 of the loudest."""
    loud = want > want.max() - math.log(1000)
    return (got - want).abs()[loud].mean().item()


# --- golden -------------------------------------------------------------------------------------------------------


def test_golden_values() -> None:
    golden = load_file(GOLDEN / "mel.safetensors")
    normalised = mel.peak_normalise(golden["waveform"])
    torch.testing.assert_close(normalised, golden["peak_normalised"], atol=0, rtol=1e-6)
    log_mel = mel.log_mel(normalised[None])
    close(log_mel[0], golden["log_mel"])
    close(mel.unit(log_mel)[0], golden["normalised"])
    close(mel.from_unit(golden["normalised"]), golden["log_mel"])


# --- forwards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [160, 161, 319, 900, 1600, 4000])
def test_one_step_per_hop_however_short(samples: int) -> None:
    log_mel = mel.log_mel(torch.randn(2, samples) * 0.1)
    assert log_mel.shape == (2, 256, samples // 160)
    assert torch.isfinite(log_mel).all()


@pytest.mark.parametrize("config", [MelConfig(n_fft=513, win_length=400, hop=100, bins=20), MelConfig(win_length=2048)])
def test_other_windows_keep_the_count(config: MelConfig) -> None:
    assert mel.log_mel(torch.randn(1, 3000), config).shape == (1, config.bins, 3000 // config.hop)


def test_silence_lies_near_the_floor_and_unit_maps_the_range() -> None:
    silence = mel.log_mel(torch.zeros(1, 1600))
    assert silence.min() == pytest.approx(math.log(CONFIG.floor), abs=1e-5)
    ends = torch.tensor([CONFIG.floor, CONFIG.ceiling]).log()
    torch.testing.assert_close(mel.unit(ends), torch.tensor([-1.0, 1.0]))
    x = torch.randn(50)
    torch.testing.assert_close(mel.unit(mel.from_unit(x)), x, atol=1e-5, rtol=0)


def test_filters_are_triangles_of_equal_area_centred_on_slaneys_scale() -> None:
    bank = mel._bank(dataclasses.replace(CONFIG, bins=40))
    hz = torch.linspace(0, 8000, 1025)
    torch.testing.assert_close(bank.sum(1) * 8000 / 1024, torch.ones(40), atol=0.05, rtol=0)
    peaks = hz[bank.argmax(1)]
    below = peaks[peaks < 900]  # Slaney: even steps in Hz up to 1 kHz
    assert (below.diff() - below.diff().mean()).abs().max() <= 8
    above = peaks[peaks > 1200].log()  # and even ratios from there
    assert (above.diff() - above.diff().mean()).abs().max() < 0.02
    assert (bank > 0).sum(0).max() == 2


def test_a_tone_is_loudest_in_its_bin() -> None:
    t = torch.arange(8000) / 16000
    low, high = (mel.log_mel(torch.sin(2 * math.pi * hz * t)[None])[0].mean(1).argmax() for hz in (440, 880))
    assert 0 < low < high < 256


def test_peak_keeps_silence_and_treats_each_row_alone() -> None:
    waveform = torch.stack([torch.zeros(100), torch.full((100,), -0.2), torch.linspace(0, 1e-30, 100)])
    normal = mel.peak_normalise(waveform, 0.5)
    torch.testing.assert_close(normal.abs().amax(1), torch.tensor([0.0, 0.5, 0.5]))


@pytest.mark.parametrize("shape", [(1600,), (1, 1, 1600), (1, 159), (1, 0)])
def test_bad_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(B, S\)"):
        mel.log_mel(torch.zeros(shape))


# --- and back -----------------------------------------------------------------------------------------------------


def test_inverse_transform_is_exact_for_a_consistent_spectrum() -> None:
    waveform = torch.randn(2, 4800)
    spectrum = mel.stft(waveform, CONFIG)
    again = mel.find_phase(spectrum.abs(), spectrum, CONFIG, iterations=0)
    torch.testing.assert_close(again, waveform, atol=1e-4, rtol=0)


def test_linear_magnitude_has_the_given_mel_spectrum_and_is_not_negative() -> None:
    log_mel = mel.log_mel(torch.cat([chirp(), torch.randn(1, 16000) * 0.1]))
    magnitude = mel.linear_magnitude(log_mel, CONFIG)
    assert magnitude.min() >= 0
    error = mel._bank(CONFIG) @ magnitude - log_mel.exp()
    assert error.norm() / log_mel.exp().norm() < 0.01
    torch.testing.assert_close(mel.linear_magnitude(log_mel[1:], CONFIG), magnitude[1:])
    assert mel.linear_magnitude(log_mel[..., :0], CONFIG).shape == (2, 1025, 0)


@pytest.mark.parametrize("sound", ["tone", "chirp"])
def test_griffin_lim_gives_back_the_log_mel(sound: str) -> None:
    waveform = 0.3 * torch.sin(torch.arange(16000) * 0.2)[None] if sound == "tone" else chirp()
    log_mel = mel.log_mel(waveform)
    again = mel.griffin_lim(log_mel)
    assert again.shape == waveform.shape
    assert loud_error(mel.log_mel(again), log_mel) < 0.25
    assert again.square().mean().sqrt() == pytest.approx(waveform.square().mean().sqrt().item(), rel=0.1)


def test_griffin_lim_is_deterministic_and_blind_to_the_batch() -> None:
    log_mel = mel.log_mel(torch.cat([chirp(0.3), chirp(0.3, 900, 300)]))
    torch.manual_seed(1)
    together = mel.griffin_lim(log_mel, iterations=4)
    torch.manual_seed(2)
    torch.testing.assert_close(mel.griffin_lim(log_mel[1:], iterations=4), together[1:], atol=1e-5, rtol=0)
    assert not torch.allclose(mel.griffin_lim(log_mel, iterations=4, seed=1), together, atol=1e-2)


def test_a_long_sound_is_transformed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = torch.randn(2, 160 * 50 + 37) * 0.1
    whole = mel.log_mel(waveform)
    monkeypatch.setattr(mel, "_BLOCK", 7)
    torch.testing.assert_close(mel.log_mel(waveform), whole, rtol=1e-5, atol=1e-5)
