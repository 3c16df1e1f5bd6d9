"""How the vocoder of oscillators and noise learns what to do: amplitudes by ear, frequencies from the true sound.

A frequency can't be found by the gradient of a spectral distance, which has a valley for every partial that an
oscillator might land on (Turian & Henry, arXiv 2012.04572). So frequencies are regressed on the instantaneous frequency
of the true sound, the advance of its phase (Flanagan & Golden, Phase Vocoder, 1966), and amplitudes and noise learn by
a spectral distance of several resolutions (arXiv 1910.11480, 2001.04643) that no frequency has a gradient of.

Knows: what is minimised. Does not know: where sound comes from and how a vocoder is shown and measured
(``train_vocoder.py``), how it is built (``codec/sinusoids.py``).

Shapes: B batch, S audio samples, M mel bins, N mel steps, K oscillators, L linear frequencies.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.codec import mel
from flowreel.codec.conv_stream import Whole
from flowreel.codec.sinusoids import Controls, SinusoidalVocoder, SinusoidsConfig, Sounding
from flowreel.config import MelConfig, VocoderTrainConfig
from flowreel.training.audio_segments import mel_distance
from flowreel.training.task import Batch

MOST_BANDS = 64
WINDOWS = (0.008, 0.016, 0.032, 0.064, 0.128)
"""Seconds: the resolutions of the spectral distance."""
_QUIET = 1e-5  # of full scale: below it loudness is not compared
_STEADY = 6.0  # Hz that frequencies within a band may differ by: then it is one tone
_TONES = 4  # of an exercise, half of them silent
_FAINT = 1e-4  # of full scale: below it there is no frequency to learn


class SinusoidsTraining:
    """The vocoder alone: nobody judges it."""

    players: tuple[str, ...] = ()

    def __init__(self, config: VocoderTrainConfig) -> None:
        self.config, self.options = config, config.sinusoids
        vocoder = SinusoidalVocoder(architecture(config))
        self.averaged: nn.Module = vocoder
        self.module: nn.Module = Resynthesis(vocoder)

    def sample(self, log_mel: Tensor, sound: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of a share ``exercises`` of the samples, sounds of our own instead; of all, the log-mel disturbed."""
        if torch.rand((), generator=generator) < self.options.exercises:
            log_mel, sound = exercise(self.config.mel, log_mel.shape[1], generator)
        return disturbed(log_mel, self.config.mel, self.options.disturbance, generator), sound

    def losses(self, module: nn.Module, batch: Batch, player: str = "") -> dict[str, Tensor]:  # noqa: ARG002
        """``spectrum``: :func:`spectral_distance`; ``mel``: the distance that vocoders are judged by; ``frequency``: of
        the oscillators from the tones of the true sound, in widths of their bands."""
        options, sound = self.options, batch["sound"]
        made, frequency = module(batch["log_mel"])
        with torch.autocast(made.device.type, enabled=False):
            made, frequency = made.float(), frequency.float()
            return {
                "spectrum": options.spectrum_weight * spectral_distance(made, sound, self.config.mel.sample_rate),
                "mel": options.mel_weight * mel_distance(made, sound, self.config.mel),
                "frequency": options.frequency_weight * frequency_distance(frequency, sound, self._shape),
            }

    @property
    def _shape(self) -> SinusoidsConfig:
        return architecture(self.config)

    def plain(self, module: nn.Module) -> SinusoidalVocoder:
        assert isinstance(module, SinusoidalVocoder)
        return copy.deepcopy(module).eval()


class Resynthesis(nn.Module):
    """The vocoder, its forward pass telling what it does: log-mel (B, M, N) -> sound (B, N * hop) and the oscillators'
    frequencies (B, N, K) in periods a sample."""

    def __init__(self, vocoder: SinusoidalVocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        controls = self.vocoder.controls(log_mel, Whole())
        return _sound(self.vocoder, controls), controls.frequency


def architecture(config: VocoderTrainConfig) -> SinusoidsConfig:
    """The vocoder that the settings ask for."""
    options = config.sinusoids
    bands = options.bands or next(n for n in range(MOST_BANDS, 0, -1) if config.mel.bins % n == 0)
    return SinusoidsConfig(config.mel, bands, options.points, options.width, options.layers)


# --- what it learns from ------------------------------------------------------------------------------------------


def disturbed(log_mel: Tensor, config: MelConfig, most: float, generator: torch.Generator) -> Tensor:
    """A log-mel (M, N) blurred and with noise in it, as one that a model has generated: of a strength between none and
    ``most``, which is the deviation of the noise in nats and, times 3, of the blur in bins and in mel steps."""
    blur, strength = most * torch.rand(2, generator=generator).square()
    noise = strength * torch.randn(log_mel.shape, generator=generator)
    bell = torch.exp(-torch.arange(-2, 3).square() / (2 * (3 * blur).clamp(min=0.05).square()))
    bell = bell / bell.sum()
    padded = F.pad(log_mel[None, None], (2, 2, 2, 2), mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, bell[None, None, None]), bell[None, None, :, None])[0, 0]
    return (blurred + noise).clamp(min=math.log(config.floor))


def exercise(config: MelConfig, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tones that set in, glide and fade, and a little noise: the log-mel (M, steps) and the sound (steps * hop,).

    They take a vocoder that hears few sounds beyond them: a tone in any place, steady or not, alone or with others.
    """
    around = math.ceil(config.n_fft / config.hop)  # what is outside of the segment is seen at its ends
    samples = (steps + 2 * around) * config.hop
    length = samples / config.sample_rate

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(_TONES, 1, generator=generator)

    time = torch.arange(samples) / config.sample_rate
    low, high = max(60.0, config.fmin), 0.95 * config.fmax
    begin = low * (high / low) ** between(0, 1)
    glide = begin * between(-1, 1) ** 5 / length  # most hardly
    since = time - between(-0.5, 1) * length
    level = 10 ** between(-3, -0.3) * (between(0, 1) < 0.5)
    fade = torch.exp(-since.clamp(min=0) * between(0, 20) * (between(0, 1) < 0.7))
    rise = (since / between(1e-3, 5e-2)).clamp(0, 1)
    tones = level * rise * fade * torch.sin(2 * math.pi * (begin * time + glide * time.square() / 2))
    noise = 10 ** between(-6, -1)[0] * torch.randn(samples, generator=generator) * rise[0] * fade[0]
    sound = tones.sum(0) + noise
    sound = sound / sound.abs().max().clamp(min=1)
    heard = mel.log_mel(sound[None], config)[0, :, around : around + steps]
    return heard, sound[around * config.hop :][: steps * config.hop]


# --- distances ----------------------------------------------------------------------------------------------------


def spectral_distance(made: Tensor, sound: Tensor, rate: int) -> Tensor:
    """How far two sounds (B, S) are apart, a mean over ``WINDOWS``: the difference of magnitudes as a share of the true
    ones, and that of their logarithms in nats."""
    far = [_spectral_distance(made, sound, 2 * round(seconds * rate / 2)) for seconds in WINDOWS]
    return torch.stack(far).mean()


def _spectral_distance(made: Tensor, sound: Tensor, size: int) -> Tensor:
    a, b = (_magnitude(x, size) for x in (made, sound))
    linear = (a - b).abs().sum() / b.sum().clamp(min=_QUIET * b.numel())
    return linear + (torch.log(a + _QUIET) - torch.log(b + _QUIET)).abs().mean()


def _magnitude(sound: Tensor, size: int) -> Tensor:
    """(B, S) -> (B, L, steps): amplitudes of tones, under Hann windows of ``size`` samples, a quarter of it apart."""
    window = torch.hann_window(size, device=sound.device)
    spectrum = torch.stft(sound, size, size // 4, window=window, pad_mode="constant", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.sqrt(power + 1e-12) * (2 / window.sum())  # the root has no gradient at 0


def frequency_distance(frequency: Tensor, sound: Tensor, config: SinusoidsConfig) -> Tensor:
    """How far frequencies (B, N, K), in periods a sample, are from the tones of ``sound`` (B, S) in their bands, in
    widths of the band; a mean over where there is a tone, louder ones having more weight."""
    true, weight = tones(sound, config)
    _, width = config.centres
    far = (frequency * config.mel.sample_rate - true).abs() / width.to(true)
    return (weight * far).sum() / weight.sum().clamp(min=1.0)


@torch.no_grad()
def tones(sound: Tensor, config: SinusoidsConfig) -> tuple[Tensor, Tensor]:
    """The instantaneous frequency in Hz in each oscillator's band at the end of each mel step of ``sound`` (B, S), and
    how much there is a tone, in [0, 1]: (B, N, K) each.

    Frequencies are weighed by the square of the energy, so that the strongest counts; where they differ within a band,
    it is no tone but noise, or several tones. A tone in a neighbour's band counts, as far as it is heard in this one.
    """
    hop, rate = config.mel.hop, config.mel.sample_rate
    ends = F.pad(sound, (0, hop))[:, hop // 2 :]  # a spectrum is centred on the middle of its hop
    now, after = (mel.stft(x, config.mel)[..., : sound.shape[1] // hop] for x in (ends[:, :-1], ends[:, 1:]))
    advance = torch.angle(after * now.conj()) * (rate / (2 * math.pi))  # Hz: one sample's
    amplitude = now.abs() * (4 / config.mel.win_length)
    weight = _members(config).to(sound) @ amplitude.pow(4) + 1e-30
    mean, square = (_members(config).to(sound) @ (amplitude.pow(4) * advance.pow(n)) / weight for n in (1, 2))
    steady = 1 / (1 + (square - mean.square()).clamp(min=0) / _STEADY**2)
    loud = weight.pow(1 / 4)
    centre, width = (hz.to(mean)[:, None] for hz in config.centres)
    within = (mean - centre).abs() <= width  # what is further away is heard here as the side lobe of its window
    heard = steady * torch.where(within & (loud > _FAINT), loud.sqrt(), 0)
    return mean.transpose(1, 2), heard.transpose(1, 2)


def _members(config: SinusoidsConfig) -> Tensor:
    """Which linear frequencies are in which band, (K, L) of 0 and 1; the nearest one is, where no other."""
    centre, width = config.centres
    hz = torch.linspace(0, config.mel.sample_rate / 2, config.mel.n_fft // 2 + 1, dtype=centre.dtype)
    far = (hz - centre[:, None]).abs()
    return ((far <= width[:, None] / 2) | (far == far.amin(1, keepdim=True))).float()


@torch.compiler.disable  # the state of the oscillators would be compiled anew with every step
def _sound(vocoder: SinusoidalVocoder, controls: Controls) -> Tensor:
    return vocoder.sound(controls, Sounding())
