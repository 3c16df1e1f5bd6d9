"""Training objective of the harmonic-plus-noise vocoder: spectral loss for amplitudes, regression for frequencies.

A frequency can't be found by the gradient of a spectral distance, which has a local minimum for every partial that an
oscillator could match (Turian & Henry, arXiv 2012.04572). So frequencies are regressed on the instantaneous frequency
of the true audio, the derivative of its phase (Flanagan & Golden, Phase Vocoder, 1966), and amplitudes and noise are
trained by a multi-resolution spectral distance (arXiv 1910.11480, 2001.04643) whose gradient does not reach the
frequencies.

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
    """Training without a discriminator."""

    networks: tuple[str, ...] = ()
    loss_names: tuple[str, ...] = ("spectrum", "mel", "frequency")

    def __init__(self, config: VocoderTrainConfig) -> None:
        self.config, self.options = config, config.sinusoids
        vocoder = SinusoidalVocoder(architecture(config))
        self.averaged: nn.Module = vocoder
        self.module: nn.Module = Resynthesis(vocoder)

    def sample(self, log_mel: Tensor, audio: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Replace a share ``exercises`` of the samples by synthetic tones, and disturb the log-mel of all."""
        if torch.rand((), generator=generator) < self.options.exercises:
            log_mel, audio = exercise(self.config.mel, log_mel.shape[1], generator)
        return disturbed(log_mel, self.config.mel, self.options.disturbance, generator), audio

    def losses(self, module: nn.Module, batch: Batch, network: str = "") -> dict[str, Tensor]:  # noqa: ARG002
        """``spectrum``: :func:`spectral_distance`; ``mel``: :func:`mel_distance`, by which vocoders are validated;
        ``frequency``: :func:`frequency_distance` of the oscillators."""
        options, audio = self.options, batch["audio"]
        made, frequency = module(batch["log_mel"])
        with torch.autocast(made.device.type, enabled=False):
            made, frequency = made.float(), frequency.float()
            return {
                "spectrum": options.spectrum_weight * spectral_distance(made, audio, self.config.mel.sample_rate),
                "mel": options.mel_weight * mel_distance(made, audio, self.config.mel),
                "frequency": options.frequency_weight * frequency_distance(frequency, audio, self._shape),
            }

    @property
    def _shape(self) -> SinusoidsConfig:
        return architecture(self.config)

    def plain(self, module: nn.Module) -> SinusoidalVocoder:
        assert isinstance(module, SinusoidalVocoder)
        return copy.deepcopy(module).eval()


class Resynthesis(nn.Module):
    """The vocoder with a forward pass that also returns its frequencies: log-mel (B, M, N) -> audio (B, N * hop), and
    the oscillators' frequencies (B, N, K) in periods per sample."""

    def __init__(self, vocoder: SinusoidalVocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        controls = self.vocoder.controls(log_mel, Whole())
        return _synthesise(self.vocoder, controls), controls.frequency


def architecture(config: VocoderTrainConfig) -> SinusoidsConfig:
    """The vocoder's configuration."""
    options = config.sinusoids
    bands = options.bands or next(n for n in range(MOST_BANDS, 0, -1) if config.mel.bins % n == 0)
    return SinusoidsConfig(config.mel, bands, options.points, options.width, options.layers)


# --- training samples ---------------------------------------------------------------------------------------------


def disturbed(log_mel: Tensor, config: MelConfig, most: float, generator: torch.Generator) -> Tensor:
    """A log-mel (M, N) with blur and noise, like one that a model has generated.

    Strengths are random, at most ``most``: the standard deviation of the noise in nats and, times 3, that of the blur
    in bins and in mel steps.
    """
    blur, strength = most * torch.rand(2, generator=generator).square()
    noise = strength * torch.randn(log_mel.shape, generator=generator)
    bell = torch.exp(-torch.arange(-2, 3).square() / (2 * (3 * blur).clamp(min=0.05).square()))
    bell = bell / bell.sum()
    padded = F.pad(log_mel[None, None], (2, 2, 2, 2), mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, bell[None, None, None]), bell[None, None, :, None])[0, 0]
    return (blurred + noise).clamp(min=math.log(config.floor))


def exercise(config: MelConfig, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Synthetic tones that start, glide and fade, with a little noise: log-mel (M, steps) and audio (steps * hop,).

    They let a vocoder generalise from few clips: tones at any frequency, steady or not, alone or with others.
    """
    around = math.ceil(config.n_fft / config.hop)  # the log-mel at a segment's ends depends on the audio around it
    samples = (steps + 2 * around) * config.hop
    length = samples / config.sample_rate

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(_TONES, 1, generator=generator)

    time = torch.arange(samples) / config.sample_rate
    low, high = max(60.0, config.fmin), 0.95 * config.fmax
    begin = low * (high / low) ** between(0, 1)
    glide = begin * between(-1, 1) ** 5 / length  # mostly near 0
    since = time - between(-0.5, 1) * length
    level = 10 ** between(-3, -0.3) * (between(0, 1) < 0.5)
    fade = torch.exp(-since.clamp(min=0) * between(0, 20) * (between(0, 1) < 0.7))
    rise = (since / between(1e-3, 5e-2)).clamp(0, 1)
    tones = level * rise * fade * torch.sin(2 * math.pi * (begin * time + glide * time.square() / 2))
    noise = 10 ** between(-6, -1)[0] * torch.randn(samples, generator=generator) * rise[0] * fade[0]
    audio = tones.sum(0) + noise
    audio = audio / audio.abs().max().clamp(min=1)
    heard = mel.log_mel(audio[None], config)[0, :, around : around + steps]
    return heard, audio[around * config.hop :][: steps * config.hop]


# --- distances ----------------------------------------------------------------------------------------------------


def spectral_distance(made: Tensor, audio: Tensor, rate: int) -> Tensor:
    """The spectral distance of two waveforms (B, S), a mean over ``WINDOWS``: the difference of magnitudes relative to
    the true ones, plus that of their logarithms in nats."""
    far = [_spectral_distance(made, audio, 2 * round(seconds * rate / 2)) for seconds in WINDOWS]
    return torch.stack(far).mean()


def _spectral_distance(made: Tensor, audio: Tensor, size: int) -> Tensor:
    a, b = (_magnitude(x, size) for x in (made, audio))
    linear = (a - b).abs().sum() / b.sum().clamp(min=_QUIET * b.numel())
    return linear + (torch.log(a + _QUIET) - torch.log(b + _QUIET)).abs().mean()


def _magnitude(audio: Tensor, size: int) -> Tensor:
    """(B, S) -> (B, L, steps): amplitudes of tones, with Hann windows of ``size`` samples and a hop of a quarter."""
    window = torch.hann_window(size, device=audio.device)
    spectrum = torch.stft(audio, size, size // 4, window=window, pad_mode="constant", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.sqrt(power + 1e-12) * (2 / window.sum())  # the root has no gradient at 0


def frequency_distance(frequency: Tensor, audio: Tensor, config: SinusoidsConfig) -> Tensor:
    """The distance of frequencies (B, N, K), in periods per sample, from the tones of ``audio`` (B, S) in their bands,
    in widths of the band; a mean over the tones, weighted by :func:`tones`."""
    true, weight = tones(audio, config)
    _, width = config.centres
    far = (frequency * config.mel.sample_rate - true).abs() / width.to(true)
    return (weight * far).sum() / weight.sum().clamp(min=1.0)


@torch.no_grad()
def tones(audio: Tensor, config: SinusoidsConfig) -> tuple[Tensor, Tensor]:
    """The instantaneous frequency in Hz in each oscillator's band at the end of each mel step of ``audio`` (B, S), and
    its weight as a tone, in [0, 1]: (B, N, K) each.

    Frequencies are averaged with the squared energy as weight, so that the strongest one dominates. Where they differ
    within a band, there is noise or several tones, and the weight is low. A tone in a neighbouring band counts as far
    as it is audible in this one.
    """
    hop, rate = config.mel.hop, config.mel.sample_rate
    ends = F.pad(audio, (0, hop))[:, hop // 2 :]  # a spectrum is centred on the middle of its hop
    now, after = (mel.stft(x, config.mel)[..., : audio.shape[1] // hop] for x in (ends[:, :-1], ends[:, 1:]))
    advance = torch.angle(after * now.conj()) * (rate / (2 * math.pi))  # Hz: one sample's
    amplitude = now.abs() * (4 / config.mel.win_length)
    weight = _members(config).to(audio) @ amplitude.pow(4) + 1e-30
    mean, square = (_members(config).to(audio) @ (amplitude.pow(4) * advance.pow(n)) / weight for n in (1, 2))
    steady = 1 / (1 + (square - mean.square()).clamp(min=0) / _STEADY**2)
    loud = weight.pow(1 / 4)
    centre, width = (hz.to(mean)[:, None] for hz in config.centres)
    within = (mean - centre).abs() <= width  # a tone further away is in this band only as a side lobe of its window
    heard = steady * torch.where(within & (loud > _FAINT), loud.sqrt(), 0)
    return mean.transpose(1, 2), heard.transpose(1, 2)


def _members(config: SinusoidsConfig) -> Tensor:
    """Which linear frequencies belong to which band, (K, L) of 0 and 1; at least the nearest one does."""
    centre, width = config.centres
    hz = torch.linspace(0, config.mel.sample_rate / 2, config.mel.n_fft // 2 + 1, dtype=centre.dtype)
    far = (hz - centre[:, None]).abs()
    return ((far <= width[:, None] / 2) | (far == far.amin(1, keepdim=True))).float()


@torch.compiler.disable  # the oscillators' state would be recompiled at every step
def _synthesise(vocoder: SinusoidalVocoder, controls: Controls) -> Tensor:
    return vocoder.sound(controls, Sounding())
