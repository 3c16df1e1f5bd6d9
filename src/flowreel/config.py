"""Every setting and every derived length, as frozen dataclasses. Torch-free, so that the command line starts at once.

Knows: what can be chosen, its defaults, and which combinations are impossible. Does not know: how anything is done.
The named sizes of the published systems and the shipped presets are in ``presets.py``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from flowreel.errors import InputError

FORMAT_VERSION = 1


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


# --- time ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """The clocks of one pipeline. Every length in frames, samples or mel steps is derived here and nowhere else.

    ``fps`` video frames a second; ``sample_rate`` audio samples a second and ``hop`` samples per mel step, or both 0
    where there is no sound. With sound, ``sample_rate / (hop * fps)`` (mel steps per video frame, F) must be whole.
    """

    fps: float = 10.0
    sample_rate: int = 16000
    hop: int = 160

    def __post_init__(self) -> None:
        _check(self.fps > 0, f"fps must be above 0, not {self.fps}")
        if not self.has_audio:
            _check(self.hop == 0, f"hop is {self.hop} but sample_rate is 0: without sound both are 0")
            return
        _check(
            self.sample_rate > 0 and self.hop > 0, f"sample_rate {self.sample_rate} and hop {self.hop} must be positive"
        )
        if not self._fits(self.fps):
            whole = [rate for rate in range(1, 121) if self._fits(rate)]
            raise InputError(
                f"fps {self.fps:g} does not divide the {self.sample_rate / self.hop:g} mel steps a second of "
                f"{self.sample_rate} Hz with hop {self.hop}: choose one of {', '.join(map(str, whole))}, "
                "or prepare video only"
            )

    def _fits(self, fps: float) -> bool:
        steps = self.sample_rate / (self.hop * fps)
        return self.sample_rate % self.hop == 0 and steps >= 1 and abs(steps - round(steps)) < 1e-9

    @property
    def has_audio(self) -> bool:
        return self.sample_rate != 0

    @property
    def mel_steps(self) -> int:
        """Mel steps per video frame, F; 0 without sound."""
        return round(self.sample_rate / (self.hop * self.fps)) if self.has_audio else 0

    def frames(self, seconds: float) -> int:
        """The number of video frames nearest to ``seconds``, at least 1."""
        _check(math.isfinite(seconds), f"seconds must be a number, not {seconds}")
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
    ``floor``, reflect padding of (n_fft - hop)/2, no centring. ``ceiling`` is the magnitude that maps to 1."""

    sample_rate: int = 16000
    n_fft: int = 2048
    win_length: int = 1024
    hop: int = 160
    bins: int = 256
    fmin: float = 0.0
    fmax: float = 8000.0
    floor: float = 1e-5
    ceiling: float = 200.0

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "win_length", "hop", "bins"):
            _check(getattr(self, name) >= 1, f"mel.{name} must be at least 1, not {getattr(self, name)}")
        _check(
            self.hop <= self.win_length <= self.n_fft,
            f"mel needs hop <= win_length <= n_fft, not {self.hop}, {self.win_length}, {self.n_fft}",
        )
        _check(
            0 <= self.fmin < self.fmax <= self.sample_rate / 2,
            f"mel needs 0 <= fmin < fmax <= half the sample rate {self.sample_rate}, not {self.fmin}, {self.fmax}",
        )
        _check(0 < self.floor < self.ceiling, f"mel needs 0 < floor < ceiling, not {self.floor}, {self.ceiling}")


VideoKind = Literal["tiny", "AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"]


@dataclass(frozen=True)
class VideoCodecConfig:
    """Which autoencoder turns frames into latents, and how stored latents become model latents.

    ``source`` is a hub id or a path for the diffusers kinds (loaded at first use), "" for weights that lie in the
    codec's own folder. ``model = (stored - shift) * scale``, per channel. ``fit`` is how pictures were brought to
    size, for those that are given when sampling.
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
    """How sound becomes stored log-mel and model latents: ``model = (unit(log_mel) - shift) * scale`` where ``unit``
    maps [log floor, log ceiling] to [-1, 1]. ``peak`` and ``channel`` are how the sound was brought to one level and
    one channel. ``vocoder`` "" inverts with Griffin-Lim, "hifigan" takes the weights in
    the codec's folder. ``scale`` 0 means unknown: published checkpoints don't carry it (see ``flowreel.load``)."""

    mel: MelConfig = field(default_factory=MelConfig)
    shift: float = 0.0
    scale: float = 1.0
    peak: float = 0.0
    channel: Literal["mean", "first"] = "mean"
    vocoder: Literal["", "hifigan"] = ""


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
    """The architecture, as far as it is chosen (shapes come from the data).

    ``positions``: FLAV takes "learned" (as published) or "rope"; FlowField "sincos", "learned" (over patches) or
    "rope". ``fusion`` (FLAV): "mean" (a), "joint" (b), "mean_time" (c, the published one). ``drop_path`` and
    ``temporal_attention`` are FlowField's.
    """

    kind: Literal["flav", "flowfield"] = "flav"
    dim: int = 128
    depth: int = 6
    heads: int = 4
    patch: int = 2
    mlp_ratio: float = 4.0
    positions: Literal["learned", "sincos", "rope"] = "rope"
    fusion: Literal["mean", "joint", "mean_time"] = "mean_time"
    causal: bool = False
    qk_norm: bool = False
    class_dropout: float = 0.1
    drop_path: float = 0.0
    temporal_attention: bool = True

    def __post_init__(self) -> None:
        for name, known in (
            ("kind", ("flav", "flowfield")),
            ("positions", ("learned", "sincos", "rope")),
            ("fusion", ("mean", "joint", "mean_time")),
        ):
            _check(
                getattr(self, name) in known,
                f"model.{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}",
            )
        for name in ("dim", "depth", "heads", "patch"):
            _check(getattr(self, name) >= 1, f"model.{name} must be at least 1, not {getattr(self, name)}")
        _check(self.dim % self.heads == 0, f"model.dim {self.dim} is not a multiple of model.heads {self.heads}")
        _check(0 <= self.class_dropout <= 1, f"model.class_dropout must be in [0, 1], not {self.class_dropout}")
        _check(0 <= self.drop_path < 1, f"model.drop_path must be in [0, 1), not {self.drop_path}")
        if self.kind == "flav":
            _check(
                self.positions != "sincos",
                "model.positions 'sincos' is FlowField's: for flav choose 'learned' or 'rope'",
            )
            _check(self.drop_path == 0, "model.drop_path is FlowField's: for flav leave it at 0")
            _check(self.temporal_attention, "model.temporal_attention=false is FlowField's: flav always has it")
        else:
            _check(not self.causal, "model.causal is FLAV's: flowfield attends both ways in time")
        if self.positions == "rope":
            head = self.dim // self.heads
            _check(head % 2 == 0, f"rotary positions need an even head size, not {head} (model.dim / model.heads)")


# --- objective ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoleShares:
    """How often a training sample plays each role. Shares are relative: they are divided by their sum.

    ``joint``: both streams share one progress u; ``independent``: each stream has its own u; ``audio_clean`` and
    ``video_clean``: that stream is given (t = 1); ``context``: the oldest frames are given. A video-only model uses
    ``joint`` and ``context`` alone.
    """

    joint: float = 1.0
    independent: float = 0.0
    audio_clean: float = 0.0
    video_clean: float = 0.0
    context: float = 0.0

    def __post_init__(self) -> None:
        shares = dataclasses.asdict(self)
        _check(all(share >= 0 for share in shares.values()), f"role shares must be 0 or more: {shares}")
        _check(sum(shares.values()) > 0, "at least one role share must be above 0")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What training draws: roles, the share of warm-up (``ramp``) among rolling samples, blocks and contexts (each
    drawn evenly from its list; ``contexts`` are for the role ``context``), the law of u, the per-frame weight."""

    roles: RoleShares = field(default_factory=RoleShares)
    warmup: float = 0.2
    blocks: tuple[int, ...] = (1,)
    contexts: tuple[int, ...] = ()
    progress: Literal["uniform", "logit_normal"] = "uniform"
    weight: Literal["none", "logit_normal"] = "none"

    def __post_init__(self) -> None:
        _check(0 <= self.warmup <= 1, f"objective.warmup must be in [0, 1], not {self.warmup}")
        known = {"progress": ("uniform", "logit_normal"), "weight": ("none", "logit_normal")}
        for name, options in known.items():
            value = getattr(self, name)
            _check(value in options, f"objective.{name} must be {' or '.join(options)}, not {value!r}")
        _check(
            bool(self.blocks) and min(self.blocks) >= 1,
            f"objective.blocks must list whole numbers from 1, not {self.blocks}",
        )
        if self.roles.context > 0:
            _check(bool(self.contexts), "objective.roles.context is above 0: list objective.contexts, for example [4]")


# --- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataConfig:
    """Windows of ``window`` frames, every ``stride``-th frame, flipped left-right with probability ``flip``; of the
    first ``limit`` clips alone if above 0 (for over-fitting on purpose)."""

    window: int = 10
    stride: int = 1
    flip: float = 0.0
    limit: int = 0
    workers: int = 0


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with weight decay on matrices alone, linear warm-up, then constant or cosine down to ``final`` * lr."""

    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.02
    warmup: int = 50
    schedule: Literal["constant", "cosine"] = "constant"
    final: float = 0.1
    clip: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        _check(self.lr > 0, f"optim.lr must be above 0, not {self.lr}")
        for name in ("beta1", "beta2"):
            _check(0 <= getattr(self, name) < 1, f"optim.{name} must be in [0, 1), not {getattr(self, name)}")
        for name in ("eps", "weight_decay", "warmup", "clip"):
            _check(getattr(self, name) >= 0, f"optim.{name} must be 0 or more, not {getattr(self, name)}")
        _check(0 <= self.final <= 1, f"optim.final must be in [0, 1], not {self.final}")


@dataclass(frozen=True)
class EMAConfig:
    """The moving average of the weights: ``power`` decays with 1 - (1 + step)^-power up to ``decay``; ``fixed`` with
    ``decay``; ``none`` exports the raw weights."""

    kind: Literal["power", "fixed", "none"] = "power"
    power: float = 0.75
    decay: float = 0.9999

    def __post_init__(self) -> None:
        _check(0 <= self.decay < 1, f"ema.decay must be in [0, 1), not {self.decay}")
        _check(self.power > 0, f"ema.power must be above 0, not {self.power}")


@dataclass(frozen=True)
class LoopConfig:
    """What every training run has, of a flow or of a codec. ``batch`` is the global batch, over all processes and
    accumulation steps. ``precision`` "bfloat16" is autocast. ``checkpointing`` recomputes blocks to save memory. Every
    ``log`` steps a line, every ``save`` steps a checkpoint (the newest ``keep`` stay), every ``preview`` steps a
    preview; ``preview`` 0 draws none. ``tracker``: curves for TensorBoard beside the loss picture."""

    steps: int = 1000
    batch: int = 16
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    checkpointing: bool = False
    log: int = 10
    save: int = 200
    keep: int = 2
    preview: int = 200
    tracker: Literal["none", "tensorboard"] = "none"
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log", "save", "keep"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        _check(
            self.optim.accumulate >= 1 and self.batch % self.optim.accumulate == 0,
            f"batch {self.batch} is not a multiple of optim.accumulate {self.optim.accumulate}",
        )


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """A run of ``flowreel train``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        window, objective = self.data.window, self.objective
        contexts = objective.contexts if objective.roles.context > 0 else ()
        for block in objective.blocks:
            for context in (0, *contexts):
                _check(
                    context < window and context % block == 0 and (window - context) % block == 0,
                    f"data.window {window} with context {context} can't be cut into blocks of {block}: "
                    "window and context must be multiples of every block, and context smaller than the window",
                )


@dataclass(frozen=True)
class CodecTrainConfig(LoopConfig):
    """A run of ``flowreel train-codec``: our small autoencoder on single frames. ``frames`` is how many, drawn evenly
    from the clips, are held in memory."""

    steps: int = 1200
    batch: int = 8
    save: int = 300
    preview: int = 300
    size: int = 64
    fps: float = 10.0
    frames: int = 4000
    channels: int = 8
    width: int = 32
    kl: float = 1e-4
    fit: Literal["crop", "letterbox", "stretch"] = "crop"
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3, beta2=0.95, warmup=50, schedule="cosine"))
    ema: EMAConfig = field(default_factory=lambda: EMAConfig(kind="fixed", decay=0.99))


@dataclass(frozen=True)
class PrepareConfig:
    """A run of ``flowreel prepare``.

    ``codec`` a folder of train-codec, a hub id or a path; without it the small autoencoder is fitted on the clips
    first, for ``codec_steps``. ``posterior``: the mean of its latents, or a sample. ``dtype``, ``shard_mb``: how
    latents are stored. ``batch`` frames are encoded together. ``size`` pixels a side, or [height, width]; ``fit``:
    "crop" the centre, "letterbox" (R-FLAV, bicubic), "stretch", or "random" crops (GenerativeFlow), ``crops`` of each
    clip. ``audio``: "auto" keeps sound if every clip has it, "require" skips clips without, "silence" fills in,
    "none" drops it. ``channel``: "mean" or the "first" (R-FLAV) of a stereo track. ``peak`` normalises each clip's
    loudest sample to it (R-FLAV 0.95); 0 leaves it.
    """

    codec: str = ""
    size: int | tuple[int, int] = 64
    fps: float = 10.0
    fit: Literal["crop", "letterbox", "stretch", "random"] = "crop"
    crops: int = 1
    audio: Literal["auto", "require", "silence", "none"] = "auto"
    channel: Literal["mean", "first"] = "mean"
    peak: float = 0.0
    posterior: Literal["mean", "sample"] = "mean"
    dtype: Literal["float16", "float32"] = "float16"
    shard_mb: int = 64
    batch: int = 32
    seed: int = 0
    mel: MelConfig = field(default_factory=MelConfig)
    codec_steps: int = 1200

    @property
    def height_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])


@dataclass(frozen=True)
class GenerateConfig:
    """A run of ``flowreel generate``. What is None follows from the model.

    ``out`` a file (.mp4, .mkv, .gif, .webp, .png, .wav), or a folder for several; ``label`` a class name or index;
    ``audio``, ``video``, ``prefix`` a file, or a folder for one output per clip in it; ``batch`` samples are made in
    step. The sampling options are those of :class:`flowreel.generation.Settings`.
    """

    out: str = "generated"
    label: str | None = None
    count: int = 1
    seconds: float | None = None
    seed: int = 0
    guidance: float | None = None
    steps: int | None = None
    solver: Literal["euler", "heun"] | None = None
    block: int | None = None
    context: int | None = None
    window: int | None = None
    fps: float | None = None
    audio: str | None = None
    video: str | None = None
    prefix: str | None = None
    method: Literal["auto", "hold", "gradient"] = "auto"
    gradient_scale: float = 25.0
    batch: int = 1
    device: str | None = None
    audio_scale: float | None = None
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        _check(self.count >= 1, f"--count must be at least 1, not {self.count}")
        _check(self.batch >= 1, f"--batch must be at least 1, not {self.batch}")


@dataclass(frozen=True)
class LoadConfig:
    """How a checkpoint is read, where it does not say everything itself (see ``flowreel.load``)."""

    audio_scale: float | None = None
    autoencoder: str | None = None


# --- checkpoint folder --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What a model has seen in training: other values are refused or warned about when sampling."""

    window: int
    blocks: tuple[int, ...] = (1,)
    contexts: tuple[int, ...] = (0,)
    roles: tuple[str, ...] = ("joint",)
    step: int = 0


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
    def num_classes(self) -> int:
        return len(self.classes)


# --- JSON ---------------------------------------------------------------------------------------------------------

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A plain dict (JSON-able) of a config."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build the config ``cls`` from a plain dict, recursively; unknown keys are an :class:`InputError`."""
    import typing

    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(
            f"{where or cls.__name__}: unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    converted = {name: _convert(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in values.items()}
    try:
        return cls(**converted)
    except TypeError as error:
        raise InputError(f"{where or cls.__name__} is incomplete or has values of a wrong type: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    import typing

    options = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)] if typing.get_args(hint) else []
    if dataclasses.is_dataclass(hint):
        options = [hint]
    if options and isinstance(value, dict):
        return from_dict(options[0], value, where)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or say what is wrong with the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, not an object")
    return values
