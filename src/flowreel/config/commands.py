"""The options of the commands that don't train. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from flowreel.config.base import check, check_fields, hidden
from flowreel.config.pipeline import MelConfig
from flowreel.config.sampling import Precision, SamplingConfig


@dataclass(frozen=True)
class PrepareConfig:
    """The options of ``flowreel prepare``."""

    codec: str = ""
    """autoencoder: a folder of train-codec, a pipeline, a hub id or a path; without it one is fitted on the clips"""
    size: int | tuple[int, int] = 64
    """frame size in pixels"""
    fps: float = 10.0
    """video frames a second"""
    fit: Literal["crop", "letterbox", "stretch", "random"] = "crop"
    """how frames are brought to size: crop the centre, letterbox (R-FLAV), stretch, or random crops (GenerativeFlow)"""
    crops: int = 1
    """random crops of each clip"""
    flip: bool = False
    """also encode every clip mirrored left-right, for train --data.flip"""
    audio: Literal["auto", "require", "silence", "none"] = "auto"
    """keep audio if every clip has it, require it (skip clips without), fill in silence, or drop it"""
    channel: Literal["mean", "first"] | None = None
    """which channel of a stereo track; default: that of the codec, else the mean"""
    peak: float | None = None
    """peak that each clip is normalised to (R-FLAV 0.95), 0 leaves it; default: that of the codec, else 0"""
    posterior: Literal["mean", "sample"] = "mean"
    """store the mean of the autoencoder's latents, or a sample"""
    dtype: Literal["float16", "float32"] = "float16"
    """number format of the stored latents"""
    shard_mb: int = hidden(64)
    batch: int = 32
    """frames that are encoded together"""
    seed: int = 0
    """seed of crops and samples"""
    mel: MelConfig = field(default_factory=MelConfig)
    codec_steps: int = 1200
    """steps of fitting an autoencoder, where no codec was named"""
    vocoder: str = ""
    """folder of train-vocoder, to be kept with the codec"""
    workers: int = 0
    """processes that encode clips: 1 is this one alone, 0 as many as there are cores, up to 8"""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check(min(self.height_width) >= 1, f"--size must be pixels from 1, not {self.size}")
        check(
            self.crops == 1 or self.fit == "random",
            f"--crops is {self.crops}, but --fit {self.fit} always cuts the same: choose --fit random",
        )

    @property
    def height_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])


@dataclass(frozen=True)
class GenerateConfig(SamplingConfig):
    """The options of ``flowreel generate``: those of sampling, and which files to make."""

    out: str = "generated"
    """file to write (.mp4 .mkv .gif .webp .png .wav), or a folder for several"""
    label: str | None = None
    """class name or index; default: drawn from the seed"""
    count: int = 1
    """how many clips"""
    seconds: float | None = None
    """length; default: that of the conditioning, of a clip model's window, or 4 s"""
    seed: int = 0
    """seed of the noise"""
    fps: float | None = None
    """frames a second; other rates than the trained one need rotary positions"""
    audio: str | None = None
    """audio to make video for: a file, or a folder for one clip per file"""
    video: str | None = None
    """video to make audio for: a file, or a folder for one clip per file"""
    prefix: str | None = None
    """clip to continue: a file, or a folder for one clip per file"""
    batch: int = 1
    """clips that are made together"""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; default: a GPU where there is one"""
    vocoder: str | None = None
    """folder of a vocoder to make audio with; default: the pipeline's"""

    def __post_init__(self) -> None:
        check_fields(self, "--")

    @property
    def sampling(self) -> SamplingConfig:
        """The options of sampling alone."""
        return SamplingConfig(**{name: getattr(self, name) for name in SamplingConfig.__dataclass_fields__})


@dataclass(frozen=True)
class ServeConfig:
    """The options of ``flowreel serve``."""

    host: str = "127.0.0.1"
    """address to listen on; others than this machine's own need a token"""
    port: int = 8000
    """port to listen on; 0 takes any that is free"""
    token: str = ""
    """secret that viewers give as ?token=..."""
    no_token: bool = False
    """let anybody in who can reach the address"""
    allow_host: tuple[str, ...] = ()
    """further host names that the server answers to, such as that of a proxy before it"""
    max_viewers: int = 0
    """viewers at a time; 0 is as many as this machine generates for in real time, at least one"""
    broadcast: bool = False
    """one stream that all viewers see and nobody steers"""
    label: str | None = None
    """class of a stream that asks for none; default: random"""
    steps: int | None = None
    """solver steps of a stream that asks for none"""
    window: int | None = None
    """frames in the window; fewer are faster"""
    precision: Precision = "float32"
    """arithmetic of the network; bfloat16 is faster on GPUs and on CPUs that have it"""
    device: str | None = None
    """cpu, cuda, cuda:1, ...; default: a GPU where there is one"""
    vocoder: str | None = None
    """folder of a vocoder to make audio with; default: the pipeline's"""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check(
            not self.token or re.fullmatch(r"[\w~.-]{8,200}", self.token) is not None,
            "--token must have 8 to 200 letters, digits or any of _ - . ~",
        )
        for name in self.allow_host:
            check(
                re.fullmatch(r"[\w.-]+", name) is not None or _is_address(name),
                f"--allow_host takes host names without scheme and port, such as video.example.org, not {name!r}",
            )
        own = self.host in ("127.0.0.1", "::1", "localhost")
        check(
            own or bool(self.token) or self.no_token,
            f"--host {self.host} lets others in: give --token TEXT, which they must know, or say --no_token",
        )


def _is_address(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class ConvertConfig:
    """The options of ``flowreel convert``."""

    dtype: Literal["float32", "float16"] = "float32"
    """number format of the stored weights; float16 takes half the space"""
    steps: int | None = None
    """solver steps per turn that the pipeline samples with by default"""
    guidance: float | None = None
    """guidance scale that the pipeline samples with by default"""
    audio_scale: float | None = None
    """scale of the audio latents, for R-FLAV checkpoints other than the two known ones"""
    autoencoder: str | None = None
    """hub id or path of the autoencoder, where the checkpoint does not name the right one"""
    vocoder: str | None = None
    """folder of a vocoder to make audio with; default: the pipeline's"""

    def __post_init__(self) -> None:
        check_fields(self, "--")


@dataclass(frozen=True)
class InfoConfig:
    """The options of ``flowreel info``: none."""


@dataclass(frozen=True)
class WorldConfig:
    """The options of ``flowreel world``."""

    count: int = 400
    """clips in all"""
    seconds: float = 8.0
    """length of each clip"""
    seed: int = 0
    """the same seed gives the same clips"""
    size: int = 64
    """pixels a side"""
    fps: float = 10.0
    """frames a second"""
    classes: tuple[str, ...] = ()
    """of bounce, pendulum, rain, fireworks, which take turns; default: all"""
    test: float = 0.1
    """share of the clips that goes to OUT/test"""
    lossless: bool = False
    """write Matroska (FFV1, PCM) instead of mp4 (H.264, AAC)"""

    def __post_init__(self) -> None:
        check_fields(self, "--")
        check(self.size >= 8, f"--size must be at least 8, not {self.size}")


@dataclass(frozen=True)
class SynchronyConfig:
    """The options of ``flowreel synchrony``."""

    label: str = ""
    """class of all clips; default: the names of their folders, else what the video looks like"""
    json: str = ""
    """file to write the figures to"""
