"""The config of a checkpoint folder: clocks, codec, architecture, shapes, and how it was trained.

Torch-free. Every length in frames, samples or mel steps is derived in :class:`Timing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from flowreel.config.base import check, check_fields, hidden
from flowreel.config.rates import exact_rate
from flowreel.errors import InputError

FORMAT_VERSION = 1

# --- time ---------------------------------------------------------------------------------------------------------


def has_whole_steps(fps: float, sample_rate: int, hop: int) -> bool:
    """Whether a frame lasts a whole number of mel steps of ``hop`` samples, and at least one."""
    steps = sample_rate / (hop * fps)
    return sample_rate % hop == 0 and steps >= 1 and abs(steps - round(steps)) < 1e-9


@dataclass(frozen=True)
class Timing:
    """The clocks of one pipeline. Every length in frames, samples or mel steps is derived here and nowhere else.

    ``fps`` video frames a second, any real number (29.97 becomes 30000/1001); ``sample_rate`` audio samples a
    second and ``hop`` samples per mel step, or both 0 where there is no audio. With audio,
    ``sample_rate / (hop * fps)`` (mel steps per video frame, F) must be whole.
    """

    fps: float = 10.0
    sample_rate: int = 16000
    hop: int = 160

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", float(exact_rate(self.fps)))
        if not self.has_audio:
            check(self.hop == 0, f"hop is {self.hop} but sample_rate is 0: without audio both are 0")
            return
        check(
            self.sample_rate > 0 and self.hop > 0, f"sample_rate {self.sample_rate} and hop {self.hop} must be positive"
        )
        if not has_whole_steps(self.fps, self.sample_rate, self.hop):
            whole = [rate for rate in range(1, 121) if has_whole_steps(rate, self.sample_rate, self.hop)]
            raise InputError(
                f"fps {self.fps:g} does not divide the {self.sample_rate / self.hop:g} mel steps a second of "
                f"{self.sample_rate} Hz with hop {self.hop}: choose one of {', '.join(map(str, whole))}, "
                "or prepare video only"
            )

    @property
    def has_audio(self) -> bool:
        return self.sample_rate != 0

    @property
    def mel_steps(self) -> int:
        """Mel steps per video frame, F; 0 without audio."""
        return round(self.sample_rate / (self.hop * self.fps)) if self.has_audio else 0

    def frames(self, seconds: float) -> int:
        """The number of video frames nearest to ``seconds``, at least 1."""
        check(math.isfinite(seconds), f"seconds must be a number, not {seconds}")
        return max(1, round(seconds * self.fps))

    def seconds(self, frames: int) -> float:
        return frames / self.fps

    def samples(self, frames: int) -> int:
        """Audio samples that ``frames`` video frames last."""
        return frames * self.mel_steps * self.hop


# --- codec --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MelConfig:
    """A log-mel spectrogram. The defaults are R-FLAV's (arXiv 2503.08307): Slaney mels, natural log clamped at
    ``floor``, reflect padding of (n_fft - hop)/2, no centring."""

    sample_rate: int = 16000
    """audio samples a second"""
    n_fft: int = 2048
    """length of the Fourier transform, in samples"""
    win_length: int = 1024
    """length of the Hann window, in samples"""
    hop: int = 160
    """samples per mel step"""
    bins: int = 256
    """mel bins"""
    fmin: float = 0.0
    """lowest frequency, in Hz"""
    fmax: float = 8000.0
    """highest frequency, in Hz"""
    floor: float = 1e-5
    """smallest magnitude"""
    ceiling: float = 200.0
    """magnitude that maps to 1"""

    def __post_init__(self) -> None:
        check_fields(self, "mel.")
        check(
            self.hop <= self.win_length <= self.n_fft,
            f"mel needs hop <= win_length <= n_fft, not {self.hop}, {self.win_length}, {self.n_fft}",
        )
        check(
            0 <= self.fmin < self.fmax <= self.sample_rate / 2,
            f"mel needs 0 <= fmin < fmax <= half the sample rate {self.sample_rate}, not {self.fmin}, {self.fmax}",
        )
        check(0 < self.floor < self.ceiling, f"mel needs 0 < floor < ceiling, not {self.floor}, {self.ceiling}")


VideoKind = Literal["tiny", "AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"]


@dataclass(frozen=True)
class VideoCodecConfig:
    """Which autoencoder turns frames into latents, and how stored latents become model latents.

    ``source`` is a hub id or a path for the diffusers kinds (loaded at first use), "" for weights that lie in the
    codec's own folder. ``model = (stored - shift) * scale``, per channel. ``fit`` is how frames were brought to
    size, for conditioning.
    """

    kind: VideoKind = "tiny"
    source: str = ""
    revision: str = ""
    channels: int = 8
    factor: int = 8
    width: int = 32
    posterior: Literal["mean", "sample"] = "mean"
    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    fit: Literal["crop", "letterbox", "stretch"] = "crop"


@dataclass(frozen=True)
class AudioCodecConfig:
    """How audio becomes stored log-mel and model latents: ``model = (unit(log_mel) - shift) * scale`` where ``unit``
    maps [log floor, log ceiling] to [-1, 1]. ``peak`` and ``channel`` are how the audio was brought to one level and
    one channel. ``vocoder`` "" inverts with Griffin-Lim, "hifigan" and "sinusoids" take the weights in the codec's
    folder. ``scale`` 0 means unknown: published checkpoints don't carry it (see ``flowreel.load``)."""

    mel: MelConfig = field(default_factory=MelConfig)
    shift: float = 0.0
    scale: float = 1.0
    peak: float = 0.0
    channel: Literal["mean", "first"] = "mean"
    vocoder: Literal["", "hifigan", "sinusoids"] = ""


@dataclass(frozen=True)
class CodecConfig:
    video: VideoCodecConfig = field(default_factory=VideoCodecConfig)
    audio: AudioCodecConfig | None = None


# --- model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatentShape:
    """The shape of one frame of model latents, known from the data: video (C, H, W), audio (1, M, F) or M = F = 0."""

    channels: int
    height: int
    width: int
    mel_bins: int = 0
    mel_steps: int = 0
    fps: float = 10.0

    @property
    def streams(self) -> dict[str, tuple[int, int, int]]:
        shapes = {"video": (self.channels, self.height, self.width)}
        if self.mel_bins:
            shapes["audio"] = (1, self.mel_bins, self.mel_steps)
        return shapes


@dataclass(frozen=True)
class ModelConfig:
    """The architecture, as far as it is chosen: shapes come from the data."""

    kind: Literal["flav", "flowfield"] = "flav"
    """flav rolls video with audio (R-FLAV); flowfield makes clips of video alone (GenerativeFlow)"""
    dim: int = 128
    """width of the network"""
    depth: int = 6
    """blocks"""
    heads: int = 4
    """attention heads"""
    patch: int = 2
    """side of a patch of video latents"""
    mlp_ratio: float = hidden(4.0)
    positions: Literal["learned", "sincos", "rope"] = "rope"
    """position embeddings; flav: learned (as published) or rope, flowfield: sincos (as published), learned or rope"""
    fusion: Literal["mean", "joint", "mean_time"] = "mean_time"
    """flav: how the streams modulate each other, R-FLAV's variants a, b and c"""
    causal: bool = False
    """flav: frames see no later frames"""
    qk_norm: bool = False
    """normalise queries and keys"""
    fusion_norm: bool = False
    """flav: normalise the means of the fusion, which can grow without bound on unseen inputs otherwise"""
    class_dropout: float = 0.1
    """probability that a class is left out, so that classifier-free guidance works"""
    drop_path: float = 0.0
    """flowfield: probability that a branch is left out (stochastic depth)"""
    temporal_attention: bool = hidden(True)

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        check(self.dim % self.heads == 0, f"model.dim {self.dim} is not a multiple of model.heads {self.heads}")
        if self.kind == "flav":
            check(
                self.positions != "sincos",
                "model.positions 'sincos' is FlowField's: for flav choose 'learned' or 'rope'",
            )
            check(self.drop_path == 0, "model.drop_path is FlowField's: for flav leave it at 0")
            check(self.temporal_attention, "model.temporal_attention=false is FlowField's: flav always has it")
        else:
            check(not self.causal, "model.causal is FLAV's: flowfield attends both ways in time")
        if self.positions == "rope":
            head = self.dim // self.heads
            check(head % 2 == 0, f"rotary positions need an even head size, not {head} (model.dim / model.heads)")


# --- checkpoint folder --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a model has seen in training: other values are refused or warned about when sampling. ``cuts``: windows of
    which the class changes from one frame to the next. ``guidance``: the scale that it learnt and has in one pass,
    ``conditioned_guidance``, if it is another, the one where a whole stream is known."""

    window: int
    blocks: tuple[int, ...] = (1,)
    contexts: tuple[int, ...] = (0,)
    roles: tuple[str, ...] = ("joint",)
    step: int = 0
    cuts: bool = False
    guidance: float = 1.0
    conditioned_guidance: float | None = None
    lookaheads: tuple[int, ...] = ()


@dataclass(frozen=True)
class PipelineConfig:
    """The ``config.json`` of a checkpoint folder."""

    model: ModelConfig
    shape: LatentShape
    timing: Timing
    codec: CodecConfig
    classes: tuple[str, ...]
    trained: Trained
    steps: int = 4
    solver: Literal["euler", "heun"] = "euler"
    guidance: float = 1.0
    source: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the generated frames, in pixels."""
        factor = self.codec.video.factor
        return self.shape.height * factor, self.shape.width * factor

    @property
    def num_classes(self) -> int:
        return len(self.classes)
