"""Audio as a log-mel spectrogram, and back by Griffin-Lim.

Shapes: B batch, S audio samples, M mel bins, N mel steps, K = n_fft/2 + 1 linear frequencies.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowreel.config import MelConfig
from flowreel.errors import InputError

_HZ_PER_MEL = 200 / 3  # Slaney: linear below 1 kHz
_LOG_FROM_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27  # and 27 mels per factor of 6.4 above
_MAGNITUDE_EPS = 1e-9
_BLOCK = 3000  # mel steps whose spectrum is held at a time
_INVERSE_STEPS = 12
_TINY = 1e-12


def evenly_spaced(config: MelConfig, count: int) -> Tensor:
    """``count`` frequencies in Hz from ``fmin`` to ``fmax``, evenly spaced in Slaney's mels: (count,) float64."""
    return _mel_to_hz(torch.linspace(_hz_to_mel(config.fmin), _hz_to_mel(config.fmax), count, dtype=torch.float64))


def peak_normalise(waveform: Tensor, peak: float = 0.95) -> Tensor:
    """Scale each waveform ``(..., S)`` so that its loudest sample has magnitude ``peak``; silence stays silence."""
    loudest = waveform.abs().amax(-1, keepdim=True)
    return torch.where(loudest > 0, waveform / loudest.clamp(min=torch.finfo(waveform.dtype).tiny) * peak, waveform)


def log_mel(waveform: Tensor, config: MelConfig | None = None) -> Tensor:
    """The natural logarithm of the mel spectrogram, clamped below at ``config.floor``.

    waveform (B, S) in [-1, 1] -> (B, M, N) with N = S // hop. Raises InputError for another number of dimensions or
    less than one hop of audio.
    """
    config = config or MelConfig()
    if waveform.ndim != 2 or waveform.shape[1] < config.hop:
        raise InputError(
            f"log_mel needs a waveform (B, S) of at least a hop ({config.hop} samples), not {tuple(waveform.shape)}"
        )
    bank = _bank(config).to(waveform)
    padded = _padded(waveform, config)
    steps = (padded.shape[1] - config.n_fft) // config.hop + 1
    parts = []
    for first in range(0, steps, _BLOCK):  # in blocks, as the spectrum of an hour would not fit into memory
        last = min(first + _BLOCK, steps)
        spectrum = _spectrum(padded[:, first * config.hop : (last - 1) * config.hop + config.n_fft], config)
        magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + _MAGNITUDE_EPS)
        parts.append(torch.log((bank @ magnitude).clamp(min=config.floor)))
    return torch.cat(parts, dim=2)


def unit(log_mel: Tensor, config: MelConfig | None = None) -> Tensor:
    """Map a log-mel from [log floor, log ceiling] to [-1, 1], linearly and without clamping."""
    low, high = _log_range(config or MelConfig())
    return 2 * (log_mel - low) / (high - low) - 1


def from_unit(unit: Tensor, config: MelConfig | None = None) -> Tensor:
    """The inverse of :func:`unit`."""
    low, high = _log_range(config or MelConfig())
    return (unit + 1) / 2 * (high - low) + low


def griffin_lim(log_mel: Tensor, config: MelConfig | None = None, iterations: int = 32, seed: int = 0) -> Tensor:
    """A waveform whose log-mel is near this one: log_mel (B, M, N) -> (B, N * hop).

    The fast Griffin-Lim algorithm (Perraudin, Balazs, Sondergaard, WASPAA 2013) from a random phase, which is the same
    for every sample of the batch. Deterministic for a ``seed``.
    """
    config = config or MelConfig()
    magnitude = linear_magnitude(log_mel, config)
    return find_phase(magnitude, random_phase(magnitude, seed), config, iterations)


def linear_magnitude(log_mel: Tensor, config: MelConfig) -> Tensor:
    """A non-negative linear spectrum with this mel spectrum: (B, M, N) -> (B, K, N).

    Starts from the adjoint of the filter bank and refines it by multiplicative updates (Lee and Seung, NIPS 2000).
    """
    bank, adjoint = (matrix.to(log_mel.device) for matrix in _sparse_bank(config))
    target = adjoint @ log_mel.exp().transpose(0, 1).flatten(1)  # (K, B * N)
    magnitude = target / (adjoint @ bank.sum(1).to_dense()[:, None]).clamp(min=_TINY)
    for _ in range(_INVERSE_STEPS):
        magnitude = magnitude * target / (adjoint @ (bank @ magnitude)).clamp(min=_TINY)
    return magnitude.unflatten(1, (log_mel.shape[0], -1)).transpose(0, 1)


def random_phase(magnitude: Tensor, seed: int) -> Tensor:
    """Complex numbers of modulus 1 for a magnitude (B, K, N), drawn on the CPU, equal for all B."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(magnitude.shape[1:], generator=generator, dtype=torch.float64) * 2 * math.pi
    return torch.polar(torch.ones_like(angle), angle).to(magnitude.device, torch.complex64).expand(magnitude.shape)


def find_phase(
    magnitude: Tensor,
    phase: Tensor,
    config: MelConfig,
    iterations: int,
    known: Tensor | None = None,
    momentum: float = 0.99,
) -> Tensor:
    """Griffin-Lim from a first ``phase``: magnitude, phase (B, K, N) -> waveform (B, N * hop).

    ``known`` (B, n): the first n samples are known, and steer the phases of what follows.
    """
    envelope = _envelope(magnitude.shape[-1], config).to(magnitude)
    estimate, previous = phase, torch.zeros_like(phase)
    for step in range(iterations + 1):
        waveform = _istft(magnitude * estimate.sgn(), envelope, config)
        if known is not None:
            waveform = torch.cat((known, waveform[:, known.shape[1] :]), 1)
        if step < iterations:
            spectrum = stft(waveform, config)
            estimate, previous = spectrum + momentum * (spectrum - previous), spectrum
    return waveform


def stft(waveform: Tensor, config: MelConfig) -> Tensor:
    """(B, S) -> complex (B, K, S // hop). Step n is centred on the middle of its hop; the ends are reflected."""
    return _spectrum(_padded(waveform, config), config)


def _padded(waveform: Tensor, config: MelConfig) -> Tensor:
    """(B, S) with its ends reflected as far as the first and the last step look."""
    before, after = _padding(config)
    samples = waveform.shape[1]
    # Reflection by index, because torch's refuses audio shorter than the padding.
    position = torch.arange(-before, samples + after, device=waveform.device).abs() % max(2 * samples - 2, 1)
    return waveform[:, torch.minimum(position, 2 * samples - 2 - position)]


def _spectrum(padded: Tensor, config: MelConfig) -> Tensor:
    window = _window(config).to(padded)
    return torch.stft(padded, config.n_fft, config.hop, window=window, center=False, return_complex=True)


def _istft(spectrum: Tensor, envelope: Tensor, config: MelConfig) -> Tensor:
    """The least-squares inverse of :func:`stft` within the audio: (B, K, N) -> (B, N * hop)."""
    steps = torch.fft.irfft(spectrum, config.n_fft, dim=1) * _window(config).to(envelope)[:, None]
    return _overlap_add(steps, config) / envelope


def _envelope(steps: int, config: MelConfig) -> Tensor:
    """The sum of the squared windows over each sample, (1, N * hop)."""
    squared = _window(config).square()[None, :, None].expand(1, config.n_fft, steps)
    return _overlap_add(squared, config).clamp(min=1e-8)


def _overlap_add(steps: Tensor, config: MelConfig) -> Tensor:
    """(B, n_fft, N) -> (B, N * hop)."""
    before, after = _padding(config)
    samples = steps.shape[-1] * config.hop
    padded = F.fold(steps, (1, before + samples + after), (1, config.n_fft), stride=(1, config.hop))
    return padded[:, 0, 0, before : before + samples]


@functools.lru_cache(maxsize=8)
def _window(config: MelConfig) -> Tensor:
    """The Hann window, which is periodic, in the middle of n_fft samples."""
    left = (config.n_fft - config.win_length) // 2
    return F.pad(torch.hann_window(config.win_length), (left, config.n_fft - config.win_length - left))


def _padding(config: MelConfig) -> tuple[int, int]:
    total = config.n_fft - config.hop
    return total // 2, total - total // 2


def _log_range(config: MelConfig) -> tuple[float, float]:
    return math.log(config.floor), math.log(config.ceiling)


@functools.lru_cache(maxsize=8)
def _bank(config: MelConfig) -> Tensor:
    """Triangular filters (M, K) of equal area, evenly spaced in Slaney's mels (Auditory Toolbox, 1998)."""
    edges = evenly_spaced(config, config.bins + 2)
    hz = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
    width = edges.diff()[:, None]
    ramp = hz[None] - edges[:, None]
    triangle = torch.minimum(ramp[:-2] / width[:-1], -ramp[2:] / width[1:]).clamp(min=0)
    return (triangle * 2 / (edges[2:] - edges[:-2])[:, None]).float()


@functools.lru_cache(maxsize=8)
def _sparse_bank(config: MelConfig) -> tuple[Tensor, Tensor]:
    """The filters and their adjoint (K, M) as sparse matrices: a frequency is in two filters at most."""
    bank = _bank(config)
    return bank.to_sparse().coalesce(), bank.T.to_sparse().coalesce()


def _hz_to_mel(hz: float) -> float:
    linear = hz / _HZ_PER_MEL
    return linear if hz < _LOG_FROM_HZ else _LOG_FROM_HZ / _HZ_PER_MEL + math.log(hz / _LOG_FROM_HZ) / _LOG_STEP


def _mel_to_hz(mel: Tensor) -> Tensor:
    start = _LOG_FROM_HZ / _HZ_PER_MEL
    return torch.where(mel < start, mel * _HZ_PER_MEL, _LOG_FROM_HZ * torch.exp((mel - start).clamp(min=0) * _LOG_STEP))
