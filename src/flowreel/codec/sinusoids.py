"""A harmonic-plus-noise vocoder: a small network controls oscillators and filtered noise.

Sinusoids plus noise (Serra & Smith, Computer Music Journal 14(4), 1990), their controls learned as in DDSP (Engel et
al., arXiv 2001.04643). An oscillator integrates its frequency, so that a steady log-mel gives a steady tone, which a
network of convolutions alone can't: what it gives for a steady input repeats with every mel step.

The network looks at one band of the log-mel and its neighbours, and is the same for all bands: what it has learned of a
tone in one place holds in any other.

Shapes: B batch, M mel bins, N mel steps, ``hop`` samples per mel step, K bands, C channels, P points: a mel step has
``points`` of them, ``size`` samples apart, and what is controlled moves linearly from one to the next.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowreel.codec import folder as weights
from flowreel.codec import mel
from flowreel.codec.conv_stream import Pieces, Run, Whole
from flowreel.codec.griffin_lim import Stream
from flowreel.config import MelConfig, from_dict
from flowreel.errors import InputError

MOST = 4.0
"""The highest ratio of an amplitude to the one that :func:`fit` reads from the log-mel."""
_KERNEL = 3
_REACH = 3  # bands to either side that the network sees
_NATS = 4.0  # of the log-mel, which are a unit for the network
_FIRST_RATIO = 0.25
_SILENT = 1e-9  # an amplitude, as its logarithm is taken
_NOISE_SAMPLES = 2**15  # after which the noise begins again: two seconds at 16 kHz
_NOISE_SEED = 1990
_TURN = (math.sqrt(5) - 1) / 2  # oscillators begin this part of a period apart: no two together
_BLOCK = 100  # mel steps whose oscillators are held at a time


@dataclass(frozen=True)
class SinusoidsConfig:
    """The log-mel ``mel`` that it makes audio of; ``bands``, each some bins of it, with an oscillator and a noise;
    ``points``, at how many instants of a mel step amplitudes are controlled; ``width`` and ``layers`` of the network.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    bands: int = 64
    points: int = 4
    width: int = 48
    layers: int = 3

    def __post_init__(self) -> None:
        for name in ("bands", "points", "width", "layers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.mel.bins % self.bands:
            raise InputError(f"bands {self.bands} does not divide the {self.mel.bins} mel bins (mel.bins)")
        if self.mel.hop % self.points:
            raise InputError(f"points {self.points} does not divide the {self.mel.hop} samples of a mel step (mel.hop)")

    @classmethod
    def from_json(cls, values: dict[str, Any], where: Path) -> SinusoidsConfig:
        """Read what :meth:`SinusoidalVocoder.save` wrote."""
        return from_dict(cls, {name: value for name, value in values.items() if name != "kind"}, str(where))

    @property
    def num_mels(self) -> int:
        return self.mel.bins

    @property
    def hop(self) -> int:
        """Samples per mel step."""
        return self.mel.hop

    @property
    def centres(self) -> tuple[Tensor, Tensor]:
        """Centre and width in Hz of each band, (K,) float64 each."""
        bins = self.mel.bins
        places = mel.evenly_spaced(self.mel, 2 * bins + 3)  # edges and centres of the mel's filters, in turns
        edges = places[1 :: 2 * (bins // self.bands)]
        return (edges[1:] + edges[:-1]) / 2, edges.diff()


class Controls(NamedTuple):
    """Per-band synthesis parameters. ``frequency`` (B, N, K): of oscillators in periods a sample, at each mel step's
    end; ``amplitude`` (B, P, 2 * K): at each point, first of all oscillators, the peak, then of all noises, the root
    of the mean square."""

    frequency: Tensor
    amplitude: Tensor


class SinusoidalVocoder(nn.Module):
    """log_mel (B, M, N) -> waveform (B, N * hop), not limited to [-1, 1].

    The network gives each oscillator's frequency within its band and its two neighbours, and of all amplitudes their
    ratio to the ones that :func:`fit` reads from the log-mel: what is at its floor is silent, whatever the weights. The
    points of a mel step differ by how the log-mel changes alone: where it is steady, so is the tone.
    """

    kind: Literal["sinusoids"] = "sinusoids"
    projection: Tensor
    centre: Tensor
    spacing: Tensor

    def __init__(self, config: SinusoidsConfig) -> None:
        super().__init__()
        self.config = config
        seen = (2 * _REACH + 1) * (config.mel.bins // config.bands)
        self.first = nn.Conv1d(seen, config.width, _KERNEL, padding=_KERNEL // 2)
        self.place = nn.Parameter(torch.zeros(config.bands, config.width, 1))  # bands differ a little
        self.blocks = nn.ModuleList(_Block(config.width) for _ in range(config.layers))
        self.last = nn.Conv1d(config.width, 3, 1)
        self.change = nn.Conv1d(config.width, 2 * config.points, _KERNEL, padding=_KERNEL // 2, bias=False)
        for layer in (self.last, self.change):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.last.bias)
        parametrize.register_parametrization(self.change, "weight", _Odd())
        # They follow from the config, so that they are neither saved nor trained.
        centre, spacing = (hz.float()[:, None] / config.mel.sample_rate for hz in config.centres)
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("spacing", spacing, persistent=False)
        self.register_buffer("projection", fit(config).clone(), persistent=False)

    @property
    def hop(self) -> int:
        """Samples per mel step."""
        return self.config.hop

    @property
    def context(self) -> tuple[int, int]:
        """How many mel steps before and after its own the samples of one mel step depend on, but for the phase, which
        all steps before have a part in. The step before is where amplitudes come from."""
        reach = (2 + self.config.layers) * (_KERNEL // 2)
        return reach + 1, reach

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel (B, M, N) -> (B, N * hop). Raises InputError for another number of mel bins."""
        return self.sound(self.controls(log_mel, Whole()), Sounding())

    def controls(self, log_mel: Tensor, run: Run) -> Controls:
        """What the network reads from the log-mel (B, M, N), or from a piece of it."""
        self._check(log_mel)
        config = self.config
        level = log_mel.clamp(math.log(config.mel.floor), math.log(config.mel.ceiling))
        x = run.layer(self.first, self._around(level))  # (B * K, C, N)
        x = (x.unflatten(0, (-1, config.bands)) + self.place).flatten(0, 1)
        for block in self.blocks:
            x = block(x, run)
        x = F.gelu(x)
        voice, *levels = run.layer(self.last, x).split(1, 1)
        steady = torch.cat((voice, *(each.expand(-1, config.points, -1) for each in levels)), 1)
        x = run.add(self.last, steady, F.pad(run.layer(self.change, x), (0, 0, 1, 0)))  # (B * K, 1 + 2 * points, N)
        x = x.to(level.dtype).unflatten(0, (-1, config.bands)).transpose(1, 2)  # (B, 1 + 2 * points, K, N)
        frequency = self.centre + self.spacing * torch.tanh(x[:, 0])
        x = run.add(self.change, torch.cat((frequency[:, None], _log_ratio(x[:, 1:])), 1), self._read(level))
        points = x[:, 1:].unflatten(1, (2, config.points)).permute(0, 4, 2, 1, 3)  # (B, N, points, 2, K)
        return Controls(x[:, 0].transpose(1, 2), points.flatten(3).flatten(1, 2).exp())

    def _around(self, level: Tensor) -> Tensor:
        """Each band and its neighbours, 0 where it is silent and beyond the first and the last: (B * K, bins, N)."""
        each = self.config.mel.bins // self.config.bands
        above = (level - math.log(self.config.mel.floor)) / _NATS
        padded = F.pad(above, (0, 0, _REACH * each, _REACH * each))
        return padded.unfold(1, (2 * _REACH + 1) * each, each).transpose(2, 3).flatten(0, 1)

    def _read(self, level: Tensor) -> Tensor:
        """The logarithms of the amplitudes that fit the log-mel, for each point the same, after a 0 for the frequency:
        (B, 1 + 2 * points, K, N)."""
        loud = (level.exp() - self.config.mel.floor).clamp(min=0)
        fitting = torch.log(self.projection @ loud + _SILENT).unflatten(1, (2, -1))
        return F.pad(fitting.repeat_interleave(self.config.points, 1), (0, 0, 0, 0, 1, 0))

    def sound(self, controls: Controls, sounding: Sounding) -> Tensor:
        """The samples (B, N * hop) of N mel steps more, where ``sounding`` has come to; it moves on."""
        with torch.autocast(controls.amplitude.device.type, enabled=False):
            parts = [
                sounding.on(Controls(*block), self.config)
                for block in zip(
                    controls.frequency.split(_BLOCK, 1),
                    controls.amplitude.split(_BLOCK * self.config.points, 1),
                    strict=True,
                )
            ]
        return torch.cat(parts, 1)

    def _check(self, log_mel: Tensor) -> None:
        if log_mel.ndim != 3 or log_mel.shape[1] != self.config.num_mels:
            raise InputError(
                f"this vocoder takes a log-mel (B, {self.config.num_mels}, N), not shape {tuple(log_mel.shape)}"
            )

    def stream(self) -> Stream:
        """For ``StreamingVocoder``."""
        return functools.partial(self._continue, Pieces(), Sounding())

    def _continue(self, pieces: Pieces, sounding: Sounding, log_mel: Tensor, last: bool) -> Tensor:
        pieces.last = last
        return self.sound(self.controls(log_mel, pieces), sounding)

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which ``vocoder.load`` reads."""
        weights.write(Path(folder), {"kind": self.kind, **dataclasses.asdict(self.config)}, self)


class _Block(nn.Module):
    """Two convolutions, the one in time, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2)
        self.conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, run: Run) -> Tensor:
        y = run.layer(self.conv2, F.gelu(run.layer(self.conv1, F.gelu(x))))
        return run.add(self.conv1, x, y)


class _Odd(nn.Module):
    """A kernel made antisymmetric: its convolution of what is steady is 0."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight - weight.flip(-1)) / 2


def _log_ratio(x: Tensor) -> Tensor:
    """Any number to the logarithm of a ratio below ``MOST``, at first the same for all."""
    first = math.sqrt(_FIRST_RATIO / MOST)
    return math.log(MOST) + 2 * F.logsigmoid(x + math.log(first / (1 - first)))


# --- oscillators and noise ----------------------------------------------------------------------------------------


class Sounding:
    """Oscillator state: the last point's frequency (B, 1, K) and amplitude (B, 1, 2 * K), the oscillators' phase
    (B, 1, K) in periods, modulo 1 in float64, so that it is as exact after days, and the place in the noise."""

    def __init__(self) -> None:
        self.frequency: Tensor | None = None
        self.amplitude: Tensor | None = None
        self.phase: Tensor | None = None
        self.place = 0

    def on(self, controls: Controls, config: SinusoidsConfig) -> Tensor:
        """The samples of some mel steps more, (B, n)."""
        if controls.frequency.shape[1] == 0:
            return controls.amplitude.new_zeros(len(controls.amplitude), 0)
        size = config.hop // config.points
        frequency, amplitude = self._join(controls, config.points)
        phase = self._turn(frequency.detach().double(), size).to(frequency.dtype)
        waves = _oscillate(phase, frequency.detach(), size)  # (B, P, K, size)
        noise = self._noise(amplitude.shape[1] - 1, size, config, amplitude)  # (P, K, size)
        of_waves, of_noise = torch.stack((amplitude[:, :-1], amplitude[:, 1:]), 2).chunk(2, 3)
        ends = of_waves @ waves + of_noise @ noise  # (B, P, 2, size): as loud as at the one point, and as at the next
        share = torch.arange(size, device=ends.device, dtype=ends.dtype) / size
        return torch.lerp(ends[:, :, 0], ends[:, :, 1], share).flatten(1)

    def _join(self, controls: Controls, points: int) -> tuple[Tensor, Tensor]:
        """Frequencies (B, P + 1, K) and amplitudes (B, P + 1, 2 * K) of all points, the last one before in front."""
        frequency, amplitude = controls
        if self.frequency is None or self.amplitude is None:
            self.frequency, self.amplitude = frequency[:, :1].detach(), torch.zeros_like(amplitude[:, :1])
        steps = torch.cat((self.frequency, frequency), 1)
        share = torch.arange(1, points + 1, device=steps.device, dtype=steps.dtype)[:, None] / points
        between = torch.lerp(steps[:, :-1, None], steps[:, 1:, None], share).flatten(1, 2)
        joined = torch.cat((self.amplitude, amplitude), 1)
        before, self.frequency, self.amplitude = self.frequency, _last(steps), _last(joined)
        return torch.cat((before, between), 1), joined

    def _turn(self, frequency: Tensor, size: int) -> Tensor:
        """The phase at each point but the last, (B, P, K), from the frequencies (B, P + 1, K) in float64."""
        if self.phase is None:
            number = torch.arange(frequency.shape[2], device=frequency.device, dtype=frequency.dtype)
            self.phase = (number * _TURN % 1).expand(len(frequency), 1, -1)
        moved = (frequency[:, :-1] + frequency[:, 1:]) * (size / 2)
        phase = torch.cat((self.phase, self.phase + moved.cumsum(1)), 1) % 1
        self.phase = _last(phase)
        return phase[:, :-1]

    def _noise(self, points: int, size: int, config: SinusoidsConfig, like: Tensor) -> Tensor:
        noise = noise_bands(config, like.device).to(like.dtype)
        place = torch.arange(self.place, self.place + points * size, device=like.device) % _NOISE_SAMPLES
        self.place = (self.place + points * size) % _NOISE_SAMPLES
        return noise[:, place].unflatten(1, (points, size)).transpose(0, 1)


def _last(x: Tensor) -> Tensor:
    """The last along the second axis, to be kept: a view would keep the whole."""
    return x[:, -1:].detach().clone()


def _oscillate(phase: Tensor, frequency: Tensor, size: int) -> Tensor:
    """Sines (B, P, K, size), beginning at ``phase`` (B, P, K), whose frequency moves linearly from each of the points
    (B, P + 1, K) to the next."""
    at = torch.arange(size, device=phase.device, dtype=phase.dtype)
    bend = frequency.diff(dim=1)[..., None] / (2 * size)
    periods = torch.addcmul(phase[..., None], torch.addcmul(frequency[:, :-1, :, None], bend, at), at)
    return torch.sin(periods.mul_(2 * math.pi))


@functools.lru_cache(maxsize=8)
def noise_bands(config: SinusoidsConfig, device: torch.device) -> Tensor:
    """White noise cut into the bands, which overlap, (K, samples), of mean square 1 each: always the same, and going
    round without a break."""
    white = torch.randn(_NOISE_SAMPLES, generator=torch.Generator().manual_seed(_NOISE_SEED), dtype=torch.float64)
    hz = torch.linspace(0, config.mel.sample_rate / 2, _NOISE_SAMPLES // 2 + 1, dtype=torch.float64)
    centre, _ = config.centres
    ends = torch.tensor([[config.mel.fmin], [config.mel.fmax]], dtype=torch.float64)
    places = torch.cat((ends[:1], centre[:, None], ends[1:]))
    ramp = (hz - places[:-1]) / places.diff(dim=0)
    share = torch.minimum(ramp[:-1], 1 - ramp[1:]).clamp(0, 1).sqrt()  # of the power: together they are white again
    bands = torch.fft.irfft(torch.fft.rfft(white) * share)
    return (bands / bands.square().mean(1, keepdim=True).sqrt()).float().to(device)


@functools.lru_cache(maxsize=8)
@torch.no_grad()
def fit(config: SinusoidsConfig) -> Tensor:
    """The matrix (2 * K, M) that reads amplitudes from mel magnitudes, by least squares for each alone: 1 from those of
    a tone of amplitude 1 in the middle of an oscillator's band, and from those of a band of noise."""
    samples = 4 * config.mel.n_fft + config.mel.hop
    centre, _ = config.centres
    time = torch.arange(samples, dtype=torch.float64) / config.mel.sample_rate
    tones = torch.sin(2 * math.pi * centre[:, None] * time).float()
    noise = noise_bands(config, torch.device("cpu"))
    seen = [mel.log_mel(audio, config.mel).exp() for audio in (tones, noise)]
    middle = seen[0].shape[2] // 2
    magnitude = torch.cat((seen[0][:, :, middle], seen[1].mean(2)))
    return magnitude / magnitude.square().sum(1, keepdim=True)
