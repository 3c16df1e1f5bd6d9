"""What can be chosen for the commands that don't train. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from flowreel.config.base import check, check_scale
from flowreel.config.pipeline import MelConfig


@dataclass(frozen=True)
class PrepareConfig:
    """A run of ``flowreel prepare``.

    ``codec`` a folder of train-codec, a hub id or a path; without it the small autoencoder is fitted on the clips
    first, for ``codec_steps``. ``posterior``: the mean of its latents, or a sample. ``dtype``, ``shard_mb``: how
    latents are stored. ``batch`` frames are encoded together. ``size`` pixels a side, or [height, width]; ``fit``:
    "crop" the centre, "letterbox" (R-FLAV, bicubic), "stretch", or "random" crops (GenerativeFlow), ``crops`` of each
    clip. ``flip`` also encodes every clip mirrored left-right, for data.flip of train. ``audio``: "auto" keeps sound
    if every clip has it, "require" skips clips without, "silence" fills in, "none" drops it. ``channel``: "mean" or
    the "first" (R-FLAV) of a stereo track. ``peak`` normalises each clip's loudest sample to it (R-FLAV 0.95); 0
    leaves it. Without them they are those of the codec, if it has been used with sound, else the mean and 0.
    ``vocoder`` a folder of train-vocoder, for the codec that is kept beside the latents. ``workers`` processes encode
    clips: 1 is this process alone, 0 as many as there are cores, at most 8, and this process alone where there is
    little to do; the shards are the same.
    """

    codec: str = ""
    size: int | tuple[int, int] = 64
    fps: float = 10.0
    fit: Literal["crop", "letterbox", "stretch", "random"] = "crop"
    crops: int = 1
    flip: bool = False
    audio: Literal["auto", "require", "silence", "none"] = "auto"
    channel: Literal["mean", "first"] | None = None
    peak: float | None = None
    posterior: Literal["mean", "sample"] = "mean"
    dtype: Literal["float16", "float32"] = "float16"
    shard_mb: int = 64
    batch: int = 32
    seed: int = 0
    mel: MelConfig = field(default_factory=MelConfig)
    codec_steps: int = 1200
    vocoder: str = ""
    workers: int = 0

    @property
    def height_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])


def _check_guidance(scale: float | None) -> None:
    if scale is not None:
        check_scale("--guidance", scale)


@dataclass(frozen=True)
class GenerateConfig:
    """A run of ``flowreel generate``. What is None follows from the model.

    ``out`` a file (.mp4, .mkv, .gif, .webp, .png, .wav), or a folder for several; ``label`` a class name or index;
    ``audio``, ``video``, ``prefix`` a file, or a folder for one output per clip in it; ``batch`` samples are made in
    step. A folder keeps a note of what its files were made from: the same command makes what is missing. The sampling
    options are those of :class:`flowreel.pipeline.resolve.Settings`.
    """

    out: str = "generated"
    label: str | None = None
    count: int = 1
    seconds: float | None = None
    seed: int = 0
    guidance: float | None = None
    steps: int | None = None
    warmup_steps: int | None = None
    solver: Literal["euler", "heun"] | None = None
    block: int | None = None
    context: int | None = None
    lookahead: int | None = None
    window: int | None = None
    fps: float | None = None
    audio: str | None = None
    video: str | None = None
    prefix: str | None = None
    method: Literal["auto", "hold", "gradient"] = "auto"
    gradient_scale: float = 25.0
    precision: Literal["float32", "bfloat16"] = "float32"
    batch: int = 1
    device: str | None = None
    audio_scale: float | None = None
    autoencoder: str | None = None
    vocoder: str | None = None

    def __post_init__(self) -> None:
        check(self.count >= 1, f"--count must be at least 1, not {self.count}")
        check(self.batch >= 1, f"--batch must be at least 1, not {self.batch}")
        _check_guidance(self.guidance)
        check_scale("--gradient_scale", self.gradient_scale)


@dataclass(frozen=True)
class LoadConfig:
    """How a checkpoint is read, where it does not say everything itself (see ``flowreel.load``)."""

    audio_scale: float | None = None
    autoencoder: str | None = None
    vocoder: str | None = None


@dataclass(frozen=True)
class ServeConfig(LoadConfig):
    """A run of ``flowreel serve``. ``host`` other than this machine's own addresses needs a ``token``, which viewers
    give as ?token=..., or ``no_token``. ``allow_host``: further names that the server answers to, such as that of a
    proxy before it, as A,B. ``max_viewers``: 0 is as many as this machine rolls for in real time, at least
    one. ``broadcast``: one generation, which all viewers see and nobody steers. ``label``, ``seed``, ``guidance``,
    ``steps`` and ``window`` (frames): what a viewer sees who asks for nothing; without a seed each sees another.
    ``precision`` "bfloat16" is faster on GPUs and on CPUs that know it. Requests may bring at most ``upload_mb`` and
    ``media_seconds``, and ask for clips of at most ``clip_seconds``."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    no_token: bool = False
    allow_host: tuple[str, ...] = ()
    max_viewers: int = 0
    broadcast: bool = False
    label: str | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None
    window: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str | None = None
    upload_mb: float = 32.0
    media_seconds: float = 60.0
    clip_seconds: float = 30.0

    def __post_init__(self) -> None:
        check(0 <= self.port <= 65535, f"--port must be from 0 (any that is free) to 65535, not {self.port}")
        check(self.max_viewers >= 0, f"--max-viewers must be 0 or more, not {self.max_viewers}")
        check(self.seed is None or self.seed >= 0, f"--seed must be 0 or more, not {self.seed}")
        _check_guidance(self.guidance)
        for name in ("upload_mb", "media_seconds", "clip_seconds"):
            check(getattr(self, name) > 0, f"--{name} must be above 0, not {getattr(self, name)}")
        check(
            not self.token or re.fullmatch(r"[\w~.-]{8,200}", self.token) is not None,
            "--token must have 8 to 200 letters, digits or any of _ - . ~",
        )
        for name in self.allow_host:
            check(
                re.fullmatch(r"[\w.-]+", name) is not None or _is_address(name),
                f"--allow-host takes host names without scheme and port, such as video.example.org, not {name!r}",
            )
        own = self.host in ("127.0.0.1", "::1", "localhost")
        check(
            own or bool(self.token) or self.no_token,
            f"--host {self.host} lets others in: give --token TEXT, which they must know, or say --no-token",
        )


def _is_address(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class ConvertConfig(LoadConfig):
    """A run of ``flowreel convert``. ``dtype`` of the weights as they are stored: float16 takes half the room.
    ``steps`` (solver steps per turn) and ``guidance`` become what the pipeline samples with by default."""

    dtype: Literal["float32", "float16"] = "float32"
    steps: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        check(self.steps is None or self.steps >= 1, f"--steps must be at least 1, not {self.steps}")
        _check_guidance(self.guidance)


@dataclass(frozen=True)
class WorldConfig:
    """A run of ``flowreel world``. ``count`` clips of ``seconds`` each, at ``size`` pixels a side and ``fps`` frames a
    second; the same ``seed`` gives the same clips. ``classes``: of bounce, pendulum, rain, fireworks, which take turns;
    none is all. ``test`` is the share that goes to OUT/test. ``lossless`` writes Matroska (FFV1, PCM) instead of mp4
    (H.264, AAC)."""

    count: int = 400
    seconds: float = 8.0
    seed: int = 0
    size: int = 64
    fps: float = 10.0
    classes: tuple[str, ...] = ()
    test: float = 0.1
    lossless: bool = False

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("size", 8)):
            check(getattr(self, name) >= least, f"--{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("seconds", "fps"):
            check(getattr(self, name) > 0, f"--{name} must be above 0, not {getattr(self, name)}")
        check(self.seed >= 0, f"--seed must be 0 or more, not {self.seed}")
        check(0 <= self.test < 1, f"--test must be a share from 0 to below 1, not {self.test}")


@dataclass(frozen=True)
class SynchronyConfig:
    """A run of ``flowreel synchrony``. ``label``: the class of all clips; without it the names of their folders say it,
    and where they don't it is guessed from the pictures. ``json``: a file that gets the figures."""

    label: str = ""
    json: str = ""
