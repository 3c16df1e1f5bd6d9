"""Oscillators and noise: steady from what is steady, silent from silence, chunk by chunk the same as the whole."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowreel.codec import mel, sinusoids
from flowreel.codec.conv_stream import Whole
from flowreel.codec.sinusoids import SinusoidalVocoder, SinusoidsConfig, Sounding
from flowreel.codec.vocoder import StreamingVocoder, kind_of, load, load_for
from flowreel.config import MelConfig
from flowreel.errors import InputError
from tests.conftest import GOLDEN

RATE = 4000
MEL = MelConfig(sample_rate=RATE, n_fft=256, win_length=160, hop=40, bins=20, fmax=2000)
CONFIG = SinusoidsConfig(MEL, bands=10, points=4, width=8, layers=2)
PUBLISHED = SinusoidsConfig(MelConfig(), bands=64)


def build(config: SinusoidsConfig = CONFIG) -> SinusoidalVocoder:
    """One that does something of everything."""
    torch.manual_seed(3)
    vocoder = SinusoidalVocoder(config)
    for weight in vocoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return vocoder.eval()


def some_log_mel(steps: int, batch: int = 2, config: MelConfig = MEL) -> Tensor:
    return torch.randn(batch, config.bins, steps) * 2 - 4


@torch.no_grad()
def stream(vocoder: SinusoidalVocoder, log_mel: Tensor, chunks: Iterable[int]) -> Tensor:
    streaming = StreamingVocoder(vocoder, len(log_mel))
    pieces = [streaming.push(part) for part in log_mel.split(list(chunks), -1)]
    return torch.cat([*pieces, streaming.finish()], 1)


# --- sound --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_steady_log_mel_gives_steady_tones_without_a_comb_at_the_hop() -> None:
    """Whatever the weights: beside the oscillators' own frequencies there is nothing, at 100 Hz or elsewhere."""
    vocoder = build()
    controls = vocoder.controls(some_log_mel(1, 1).expand(-1, -1, 240), Whole())
    quiet = controls._replace(amplitude=controls.amplitude.clone())
    quiet.amplitude[..., CONFIG.bands :] = 0  # noise is not steady
    settled = vocoder.sound(quiet, Sounding())[0, 1600:8000].double().numpy()
    level = np.abs(np.fft.rfft(settled * np.hanning(len(settled)) ** 4)) / len(settled)
    heard = np.abs(controls.frequency[0, 120].double().numpy()) * len(settled)
    away = np.abs(np.arange(len(level))[:, None] - heard).min(1) > 12
    assert away.sum() > len(level) / 2
    assert level[away].max() < 1e-5 * level.max()


@torch.no_grad()
@pytest.mark.parametrize("config", [CONFIG, PUBLISHED], ids=["small", "R-FLAV's"])
def test_silence_is_silent_and_nothing_is_infinite(config: SinusoidsConfig) -> None:
    vocoder = build(config)
    for value, loudest in ((math.log(config.mel.floor), 1e-6), (-1e9, 1e-6), (math.log(config.mel.ceiling), 1e9)):
        sound = vocoder(torch.full((1, config.mel.bins, 12), value))
        assert sound.shape == (1, 12 * config.mel.hop)
        assert sound.abs().max() < loudest


@torch.no_grad()
def test_amplitudes_are_read_from_the_log_mel() -> None:
    """Of a tone in the middle of a band, and of noise in one."""
    centre, _ = CONFIG.centres
    time = torch.arange(RATE) / RATE
    tone = 0.25 * torch.sin(2 * math.pi * centre[4].item() * time)[None]
    noise = 0.1 * sinusoids.noise_bands(CONFIG, torch.device("cpu"))[6:7]
    fit = sinusoids.fit(CONFIG)
    oscillators, noises = (fit @ mel.log_mel(sound, MEL).exp()[0] for sound in (tone, noise))
    torch.testing.assert_close(oscillators[4, 20:80].mean().item(), 0.25, rtol=0.02, atol=0)
    torch.testing.assert_close(noises[CONFIG.bands + 6].mean().item(), 0.1, rtol=0.02, atol=0)


def test_noise_of_all_bands_is_white_and_goes_round() -> None:
    noise = sinusoids.noise_bands(CONFIG, torch.device("cpu"))
    torch.testing.assert_close(noise.square().mean(1), torch.ones(CONFIG.bands), rtol=1e-3, atol=0)
    assert (noise[:, 0] - noise[:, -1]).abs().max() <= noise.diff(dim=1).abs().max()
    power = torch.fft.rfft(noise[5]).abs().square()
    hz = torch.linspace(0, RATE / 2, len(power))
    centre, _ = CONFIG.centres
    assert power[(hz < centre[4]) | (hz > centre[6])].sum() < 1e-6 * power.sum()


# --- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks", [(1,) * 40, (40,), (3, 1, 0, 20, 2, 2, 12), (0, 39, 1), (7,) * 5 + (5,)], ids=lambda c: f"{len(c)} chunks"
)
@torch.no_grad()
def test_any_chunking_equals_the_whole(chunks: tuple[int, ...]) -> None:
    vocoder, log_mel = build().double(), some_log_mel(40).double()
    whole = vocoder(log_mel)
    torch.testing.assert_close(stream(vocoder, log_mel, chunks), whole.float(), atol=1e-6, rtol=0)
    single = stream(build(), log_mel.float(), chunks)
    torch.testing.assert_close(single, whole.float(), atol=1e-4 * whole.abs().max().item(), rtol=0)


@torch.no_grad()
def test_a_batch_is_in_step_and_its_samples_alone() -> None:
    vocoder, log_mel = build(), some_log_mel(12, 3)
    torch.testing.assert_close(vocoder(log_mel)[1:2], vocoder(log_mel[1:2]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_long_ones_are_made_in_blocks_that_join(monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder, log_mel = build().double(), some_log_mel(40).double()
    whole = vocoder(log_mel)
    monkeypatch.setattr(sinusoids, "_BLOCK", 7)
    torch.testing.assert_close(vocoder(log_mel), whole, atol=1e-9, rtol=0)


@torch.no_grad()
def test_samples_come_as_soon_as_they_are_final_from_a_bounded_memory() -> None:
    vocoder = build()
    _, after = vocoder.context
    streaming = StreamingVocoder(vocoder, 1)
    made, held = 0, []
    for step in range(1, 60):
        made += streaming.push(some_log_mel(1, 1)).shape[1]
        assert made == max(0, step - after) * vocoder.hop
        pieces, sounding = streaming._advance.args  # type: ignore[attr-defined]
        parts = [*pieces._before.values(), *(part for parts in pieces._waiting.values() for part in parts)]
        parts += [value for value in vars(sounding).values() if isinstance(value, Tensor)]
        held.append(sum(part.untyped_storage().nbytes() for part in parts))
    assert len(set(held[20:])) == 1
    assert held[-1] < 1e5


@torch.no_grad()
def test_phase_is_as_exact_after_a_day() -> None:
    """A tone at a frequency that float32 holds exactly goes on where arithmetic says."""
    sounding, frequency, steps = Sounding(), 0.1875, 1000
    controls = sinusoids.Controls(
        torch.full((1, steps, CONFIG.bands), frequency), torch.zeros(1, steps * CONFIG.points, 2 * CONFIG.bands)
    )
    sounding.on(controls, CONFIG)
    assert sounding.phase is not None
    first = sounding.phase.clone()
    for _ in range(20):
        sounding.on(controls, CONFIG)
    assert sounding.phase.dtype == torch.float64
    turned = (20 * steps * CONFIG.hop * frequency) % 1
    torch.testing.assert_close(sounding.phase, (first + turned) % 1, atol=1e-9, rtol=0)
    assert 0 <= sounding.place < 2**15


def test_length_and_context_are_exact() -> None:
    """The gradient of one step's samples vanishes outside the context, and not at its two ends; but for phases."""
    vocoder = build().double()
    before, after = vocoder.context
    middle, steps = before + 3, before + after + 7
    log_mel = some_log_mel(steps, 1).double().requires_grad_()
    waveform = vocoder(log_mel)
    (gradient,) = torch.autograd.grad(waveform[0, middle * vocoder.hop :][: vocoder.hop].square().sum(), log_mel)
    seen = (gradient != 0).any(1)[0]
    assert seen.nonzero()[[0, -1], 0].tolist() == [middle - before, middle + after]


# --- files --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_save_then_load(tmp_path: Path) -> None:
    vocoder, log_mel = build(), some_log_mel(9)
    vocoder.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, SinusoidalVocoder)
    assert (again.config, again.training) == (CONFIG, False)
    assert torch.equal(again(log_mel), vocoder(log_mel))
    assert (kind_of(tmp_path), kind_of(GOLDEN / "vocoder_0")) == ("sinusoids", "hifigan")


def test_weights_of_the_usual_size_are_small() -> None:
    vocoder = SinusoidalVocoder(SinusoidsConfig(MelConfig(n_fft=1024, win_length=800, hop=320, bins=64)))
    assert sum(value.numel() for value in vocoder.state_dict().values()) < 50_000


def test_what_is_not_such_a_vocoder_is_refused(tmp_path: Path) -> None:
    build().save(tmp_path)
    with pytest.raises(InputError, match="was trained on"):
        load_for(tmp_path, dataclasses.replace(MEL, fmin=50))
    with pytest.raises(InputError, match="takes 20 mel bins"):
        load_for(tmp_path, dataclasses.replace(MEL, bins=40))
    values = json.loads((tmp_path / "config.json").read_text())
    for changed, message in (
        ({"kind": "wavenet"}, "of kind 'wavenet': known are hifigan and sinusoids"),
        ({"octaves": 3}, "unknown key.*octaves"),
        ({"width": 9}, "does not fit the config"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**values, **changed}))
        with pytest.raises(InputError, match=message):
            load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": 0}, "at least 1"),
        ({"bands": 7}, "does not divide the 20 mel bins"),
        ({"points": 3}, "does not divide the 40 samples"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_other_mel_bins_are_refused() -> None:
    with pytest.raises(InputError, match=r"takes a log-mel \(B, 20, N\)"):
        build()(torch.zeros(1, 5, 4))
