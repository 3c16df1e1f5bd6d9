"""Training the vocoder of oscillators and noise: its losses, samples, resuming, and the exported folder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowreel.codec.mel import log_mel
from flowreel.codec.sinusoids import SinusoidalVocoder
from flowreel.codec.vocoder import load
from flowreel.config import SinusoidsTrainConfig, VocoderTrainConfig
from flowreel.data.sources import find_clips
from flowreel.errors import InputError
from flowreel.training.sinusoids import (
    architecture,
    disturbed,
    exercise,
    frequency_distance,
    spectral_distance,
    tones,
)
from flowreel.training.vocoder import VocoderTask, train_vocoder
from tests.runs import check_shown_again, same
from tests.training.test_vocoder import MEL, RATE, quiet, write


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "train" / "a.mkv", 2)
    write(folder / "train" / "b.mkv", 1, 700)
    write(folder / "test" / "d.mkv", 1, 500)
    return folder


def config(options: dict[str, float] | None = None, **changes: object) -> VocoderTrainConfig:
    base = VocoderTrainConfig(
        kind="sinusoids", steps=4, batch=4, log=1, save=2, preview=0, validate=0, segment=16, mel=MEL
    )
    options = {"width": 16, "layers": 1, **(options or {})}
    return replace(base, sinusoids=SinusoidsTrainConfig(**options), **changes)  # type: ignore[arg-type]


def task(clips: Path, **changes: object) -> VocoderTask:
    return VocoderTask(find_clips(clips), config(**changes), quiet)  # type: ignore[arg-type]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tone(hz: float, seconds: float = 1.0, level: float = 0.3) -> torch.Tensor:
    return level * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * RATE)) / RATE)[None]


# --- frequencies --------------------------------------------------------------------------------------------------


def test_the_frequency_of_a_tone_is_seen_in_its_band_and_beside_it() -> None:
    shape = architecture(config())
    centre, width = shape.centres
    hz = centre[6].item() + 0.3 * width[6].item()
    true, weight = tones(tone(hz), shape)
    assert true.shape == weight.shape == (1, 100, 20)
    heard = weight[0, 10:90].mean(0)
    assert heard.argmax() == 6
    assert heard[[0, 1, 2, 10, 11, 12]].max() < 0.01 * heard[6]  # a side lobe is no tone of a band far away
    torch.testing.assert_close(true[0, 10:90, 6], torch.full((80,), hz), atol=0.1, rtol=0)


def test_noise_and_silence_have_no_tones() -> None:
    shape = architecture(config())
    noise = 0.3 * torch.randn(1, RATE, generator=draws())
    _, of_tone = tones(tone(500), shape)
    _, of_noise = tones(noise, shape)
    assert of_noise.amax(2).mean() < 0.5 * of_tone.amax(2).mean()
    _, of_silence = tones(torch.zeros(1, RATE), shape)
    assert not of_silence.any()
    frequency = torch.rand(1, 100, 20)
    assert frequency_distance(frequency, torch.zeros(1, RATE), shape) == 0


def test_the_distance_of_frequencies_is_in_widths_of_the_band() -> None:
    shape = architecture(config())
    true, _ = tones(tone(500), shape)
    _, width = shape.centres
    assert frequency_distance(true / RATE, tone(500), shape) < 1e-6
    off = (true + 0.5 * width) / RATE
    torch.testing.assert_close(frequency_distance(off.float(), tone(500), shape).item(), 0.5, atol=1e-3, rtol=0)


def test_the_spectral_distance() -> None:
    audio = tone(500)
    assert spectral_distance(audio, audio, RATE) == 0
    assert spectral_distance(audio, 1.1 * audio, RATE) < spectral_distance(audio, tone(520), RATE)
    silent = torch.zeros(1, RATE, requires_grad=True)
    spectral_distance(silent, audio, RATE).backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


# --- what it learns from ------------------------------------------------------------------------------------------


def test_an_exercise_is_audio_and_its_log_mel() -> None:
    for seed in range(8):
        heard, audio = exercise(MEL, 16, draws(seed))
        assert (heard.shape, audio.shape) == ((20, 16), (640,))
        assert audio.abs().max() <= 1
        inner = slice(4, 12)  # what is further out reaches beyond the segment
        torch.testing.assert_close(heard[:, inner], log_mel(audio[None], MEL)[0, :, inner], atol=1e-3, rtol=0)
    first, second = (exercise(MEL, 16, draws(seed))[1] for seed in (1, 2))
    assert not torch.equal(first, second)


def test_a_disturbed_log_mel_is_near_and_no_disturbance_is_none() -> None:
    clean = log_mel(tone(500), MEL)[0]
    assert torch.equal(disturbed(clean, MEL, 0.0, draws()), clean)
    far = [(disturbed(clean, MEL, 0.2, draws(seed)) - clean).abs().mean() for seed in range(20)]
    assert 0 < min(far) < 0.1 < max(far) < 1
    assert disturbed(clean, MEL, 2.0, draws()).min() >= math.log(MEL.floor)


def test_sample_depends_on_its_number_alone(clips: Path) -> None:
    whole = list(task(clips).batches(0, 0, 1))[1]
    later = next(task(clips).batches(1, 0, 1))
    cut = [next(task(clips).batches(1, rank, 2)) for rank in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(value, later[name])
        assert torch.equal(value, torch.cat([part[name] for part in cut]))


def test_no_frequency_learns_from_the_spectrum(clips: Path) -> None:
    held = task(clips)
    vocoder = held.averaged
    assert isinstance(vocoder, SinusoidalVocoder)
    batch = next(held.batches(0, 0, 1))
    losses = held.losses(held.module, batch)
    assert set(losses) == {"spectrum", "mel", "frequency"}
    voice, levels = [], []
    for loss in losses.values():
        (gradient,) = torch.autograd.grad(loss, vocoder.last.weight, retain_graph=True)
        voice.append(bool(gradient[0].any()))
        levels.append(bool(gradient[1:].any()))
    assert (voice, levels) == ([False, False, True], [True, True, False])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 16}, "for kind hifigan alone: width;"),
        ({"adversarial": 0.0, "rates": (8, 5)}, "for kind hifigan alone: rates, adversarial;"),
        ({"options": {"exercises": -0.1}}, r"sinusoids\.exercises must be at least 0"),
        ({"options": {"bands": 3}}, "bands 3 does not divide the 20 mel bins"),
        ({"options": {"points": 7}}, "points 7 does not divide the 40 samples"),
    ],
)
def test_impossible_settings_are_refused(clips: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task(clips, **changes)


def test_bands_are_as_many_as_divide_the_bins() -> None:
    found = [architecture(config(mel=replace(MEL, bins=bins))).bands for bins in (20, 64, 80, 100, 128, 256)]
    assert found == [20, 64, 40, 50, 64, 64]


# --- runs ---------------------------------------------------------------------------------------------------------


def test_four_steps_equal_two_and_two_to_the_bit(clips: Path, tmp_path: Path) -> None:
    train_vocoder(clips, tmp_path / "whole", config(), quiet)
    for steps in (2, 4):
        optim = replace(config().optim, schedule="constant")
        train_vocoder(clips, tmp_path / "parts", config(steps=steps, optim=optim), quiet)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_run_folder_is_a_vocoder(clips: Path, tmp_path: Path) -> None:
    said: list[str] = []
    out = train_vocoder(clips, tmp_path / "vocoder", config(preview=4, validate=2), said.append)
    vocoder = load(out)
    assert isinstance(vocoder, SinusoidalVocoder)
    assert vocoder.config == architecture(config())
    assert vocoder(torch.zeros(1, 20, 5)).shape == (1, 200)
    assert (out / "previews" / "4" / "spectrograms.png").is_file()
    assert any("of training audio, " in line and "of held-out audio" in line for line in said)
    check_shown_again(out, lambda: train_vocoder(clips, out, config(preview=4, validate=2), quiet))


def test_steady_tones_are_in_tune_after_a_short_training(clips: Path, tmp_path: Path) -> None:
    optim = replace(config().optim, lr=5e-3)
    settings = config({"exercises": 0.9, "frequency_weight": 5.0}, steps=200, save=200, log=200, optim=optim)
    vocoder = load(train_vocoder(clips, tmp_path / "vocoder", settings, quiet))
    for hz in (310.0, 442.0, 777.0):
        column = log_mel(tone(hz), MEL)[:, :, 50:51]
        with torch.no_grad():
            audio = vocoder(column.expand(-1, -1, 200))[0, RATE // 2 : 3 * RATE // 2].numpy()
        level = np.abs(np.fft.rfft(audio * np.hanning(RATE)))  # a second: bins are 1 Hz
        assert abs(level.argmax() - hz) < 20, (hz, level.argmax())  # bands are 95 Hz wide
        comb = [level[round(hz) + step * RATE // MEL.hop] for step in (-1, 1)]
        assert max(comb) < 0.03 * level.max()
