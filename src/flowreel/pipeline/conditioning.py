"""Conditioning: audio, video or a prefix clip, encoded as known latents on a timeline.

Frame 0 of the timeline is the oldest frame of the first window. With a prefix of P frames these are frames 0 .. P, and
generation begins at P; audio or video conditioning begins where generation begins.

Shape legend: B samples, or 1 that all samples share; T frames, S audio samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowreel.codec import Codec
from flowreel.config import PipelineConfig
from flowreel.errors import InputError
from flowreel.flow.types import Latents
from flowreel.media import Clip, samples_for

Media = Clip | str | Path
"""A clip, or the path of a file."""


class KnownMedia(NamedTuple):
    """The media that a sample's known latents came from.

    ``frames`` (T, H, W, 3) and ``audio`` (S,) of the generated part replace what decoding would give. ``last`` is the
    last frame of the prefix with its audio.
    """

    frames: np.ndarray | None = None
    audio: np.ndarray | None = None
    last: Clip | None = None

    def replace_in(self, clip: Clip, start: int) -> Clip:
        """``clip``, which begins at generated frame ``start``, with these frames or this audio in place of its own."""
        frames, audio, end = clip.frames, clip.audio, start + len(clip.frames)
        if self.frames is not None:
            known = self.frames[start:end]
            frames = np.concatenate([known, frames[len(known) :]])
        if self.audio is not None and audio is not None:
            first = samples_for(start, clip.fps, clip.sample_rate)
            known = self.audio[first : first + len(audio)]
            audio = np.concatenate([known, audio[len(known) :]])
        return replace(clip, frames=frames, audio=audio)


@dataclass(frozen=True)
class Conditioning:
    """Known latents ``{stream: (B, T, ...)}`` in model space, of which the first ``prefix`` frames are history.

    ``media`` has one item per sample. With B = 1 all samples share it.
    """

    latents: Latents = field(default_factory=dict)
    prefix: int = 0
    media: tuple[KnownMedia, ...] = (KnownMedia(),)

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that are known beyond the prefix."""
        return tuple(k for k, v in self.latents.items() if v.shape[1] > self.prefix)

    @property
    def length(self) -> int | None:
        """Frames that can be generated before the conditioning ends; None where there is none."""
        lengths = [self.latents[k].shape[1] - self.prefix for k in self.streams]
        return min(lengths) if lengths else None

    def window(self, start: int, frames: int) -> tuple[Latents, dict[str, Tensor]]:
        """Frames ``start .. start + frames`` of the timeline, (B, frames, ...), and masks (B, frames) of what is known.

        Beyond its end the last known frame is repeated, and the mask is False.
        """
        latents, masks = {}, {}
        for k, v in self.latents.items():
            places = torch.arange(start, start + frames, device=v.device)
            latents[k] = v[:, places.clamp(max=v.shape[1] - 1)]
            masks[k] = (places < v.shape[1]).expand(len(v), -1)
        return latents, masks

    def media_of(self, sample: int) -> KnownMedia:
        return self.media[sample if len(self.media) > 1 else 0]


def stack(samples: Sequence[Conditioning]) -> Conditioning:
    """The conditioning of samples that are made in step, from one for each of them.

    Raises:
        InputError: there is none, or they differ in kind or length.
    """
    shapes = [({k: v.shape[1] for k, v in sample.latents.items()}, sample.prefix) for sample in samples]
    if not shapes or any(shape != shapes[0] for shape in shapes):
        raise InputError(f"the conditioning of samples in step must be of the same kind and length, not {shapes}")
    latents = {k: torch.cat([sample.latents[k] for sample in samples]) for k in samples[0].latents}
    return Conditioning(latents, samples[0].prefix, tuple(media for sample in samples for media in sample.media))


def encode_conditioning(
    codec: Codec,
    config: PipelineConfig,
    *,
    context: int,
    audio: Media | None = None,
    video: Media | None = None,
    prefix: Media | None = None,
    seconds: float | None = None,
) -> Conditioning:
    """Read and encode the conditioning of one sample.

    Args:
        codec: of the pipeline that ``config`` is of.
        seconds: how much of the audio or video is wanted; None for all.
        context: frames of history that the model takes; 0 if it was not trained with any.

    Raises:
        InputError: the model has no such stream, both streams are known, the prefix is too short or can't be used.
    """
    for name, media in (("audio", audio), ("video", video), ("prefix", prefix)):
        if media is not None and not isinstance(media, Clip | str | Path):
            raise InputError(f"{name} must be a Clip or the path of a file, not {type(media).__name__}")
    if audio is not None and "audio" not in config.shape.streams:
        raise InputError("audio was given, but this model makes no audio: leave it out")
    if audio is not None and video is not None:
        raise InputError("both audio and video were given, so nothing is left to generate: give one of them")
    if prefix is not None and not context:
        raise InputError("a prefix was given, but this model was trained without context: it can't continue a clip")
    known: dict[str, list[Tensor]] = {}
    frames = samples = last = None
    if prefix is not None:
        history, last = _history(codec, config, prefix, context)
        for k, v in history.items():
            known.setdefault(k, []).append(v)
    if audio is not None:
        samples = _audio(codec, audio, seconds)
        known.setdefault("audio", []).append(codec.to_model({"audio": codec.encode_audio(samples)})["audio"])
    if video is not None:
        frames = _read(codec, config.frame_size, video, seconds=seconds, audio=False).frames
        known.setdefault("video", []).append(codec.to_model({"video": codec.encode_video(frames)})["video"])
    latents = {k: torch.cat(v)[None] for k, v in known.items()}
    return Conditioning(latents, context if prefix is not None else 0, (KnownMedia(frames, samples, last),))


def _audio(codec: Codec, media: Media, seconds: float | None) -> np.ndarray:
    """The audio of a clip or file, (S,) float32, cut to whole video frames."""
    timing = codec.timing
    if isinstance(media, Clip):
        if media.audio is None or media.sample_rate != timing.sample_rate:
            what = "no audio" if media.audio is None else f"audio at {media.sample_rate} Hz"
            raise InputError(f"the clip given as audio has {what}; this model needs {timing.sample_rate} Hz")
        audio = media.audio
    else:
        from flowreel.media import read_audio

        audio = read_audio(media, timing.sample_rate, codec.config.audio.channel if codec.config.audio else "mean")
    whole = len(audio) // timing.samples(1)
    whole = whole if seconds is None else min(whole, timing.frames(seconds))
    if whole == 0:
        raise InputError(f"the audio lasts {len(audio) / timing.sample_rate:.3f} s, less than one video frame")
    return audio[: timing.samples(whole)]


def _read(
    codec: Codec,
    size: tuple[int, int],
    media: Media,
    start: float = 0.0,
    seconds: float | None = None,
    audio: bool = True,
) -> Clip:
    """A file as the training data was read, or a clip that is checked to fit."""
    timing = codec.timing
    if not isinstance(media, Clip):
        return Clip.read(
            media,
            fps=timing.fps,
            sample_rate=timing.sample_rate or 16000,
            size=size,
            fit=codec.config.video.fit,
            start=start,
            seconds=seconds,
            channel=codec.config.audio.channel if codec.config.audio else "mean",
            audio=audio and timing.has_audio,
        )
    height, width = media.frames.shape[1:3]
    if (height, width) != size or abs(media.fps - timing.fps) > 1e-6:
        raise InputError(
            f"the clip is {height} x {width} at {media.fps:g} frames a second, this model makes "
            f"{size[0]} x {size[1]} at {timing.fps:g}: read it with Clip.read(path, fps={timing.fps:g}, size={size})"
        )
    return media


def _history(codec: Codec, config: PipelineConfig, media: Media, context: int) -> tuple[Latents, Clip]:
    """The last ``context`` frames of a clip, in model space, and the last one itself. A little more is read, for the
    spectrogram's window."""
    timing = codec.timing
    start = 0.0
    levelled = codec.config.audio is not None and codec.config.audio.peak > 0
    if not isinstance(media, Clip) and not levelled:  # the level that training brought clips to is of the whole clip
        from flowreel.media import probe

        start = max(0.0, probe(media).seconds - timing.seconds(context + 8))
    clip = _read(codec, config.frame_size, media, start)
    if len(clip.frames) < context:
        raise InputError(
            f"the prefix has {len(clip.frames)} frames at {timing.fps:g} a second, but this model needs "
            f"{context} frames of history ({timing.seconds(context):.2f} s)"
        )
    streams = config.shape.streams
    if "audio" in streams and clip.audio is None:
        raise InputError("the prefix has no audio, but this model continues video and audio together")
    stored = codec.encode(clip)
    first, end = (timing.samples(len(clip.frames) - n) for n in (1, 0))
    audio = None if clip.audio is None else clip.audio[first:end].copy()
    last = Clip(clip.frames[-1:].copy(), audio, clip.fps, clip.sample_rate)  # a view would hold the whole clip
    return codec.to_model({k: stored[k][-context:] for k in streams}), last
