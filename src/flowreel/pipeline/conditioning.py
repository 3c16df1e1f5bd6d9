"""What a person gives to a generation (a sound, a picture, a clip to go on from), as known latents on a timeline.

Frame 0 of the timeline is the oldest frame of the window that sampling starts with: with a prefix of P frames these are
frames 0 .. P and what is generated begins at P; a given sound or picture begins where generation begins.

Shape legend: B batch, T frames, S audio samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

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


@dataclass(frozen=True)
class Given:
    """Known latents of one sample ``{stream: (T, ...)}`` in model space, and the media they came from.

    ``prefix``: how many frames at the beginning are history, ``last`` the last of them as it was, with its sound.
    ``frames`` (T, H, W, 3) and ``audio`` (S,) belong to the generated part and replace what decoding would give: the
    output keeps the sound or picture that was given.
    """

    latents: Latents = field(default_factory=dict)
    prefix: int = 0
    frames: np.ndarray | None = None
    audio: np.ndarray | None = None
    last: Clip | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that are given beyond the prefix."""
        return tuple(k for k, v in self.latents.items() if len(v) > self.prefix)

    @property
    def length(self) -> int | None:
        """Frames that can be generated before what is given ends; None where nothing is."""
        lengths = [len(self.latents[k]) - self.prefix for k in self.streams]
        return min(lengths) if lengths else None

    def window(self, start: int, frames: int) -> tuple[Latents, dict[str, Tensor]]:
        """Frames ``start .. start + frames`` of the timeline, (1, frames, ...), and masks (1, frames) of what is known.

        Beyond the end of what was given its last frame is repeated, and the mask is False.
        """
        latents, masks = {}, {}
        for k, v in self.latents.items():
            places = torch.arange(start, start + frames, device=v.device)
            latents[k] = v[places.clamp(max=len(v) - 1)][None]
            masks[k] = (places < len(v))[None]
        return latents, masks

    def last_frame(self, sample: int = 0) -> Clip | None:  # noqa: ARG002
        """Of the history that a sample goes on from, if it is known."""
        return self.last

    def fits(self, batch: int) -> bool:  # noqa: ARG002
        """Whether it can be given to ``batch`` samples in step."""
        return True

    def put_back(self, clip: Clip, start: int, sample: int = 0) -> Clip:  # noqa: ARG002
        """``clip`` of a sample, which begins at generated frame ``start``, with the given picture or sound in place of
        its own."""
        frames, audio, end = clip.frames, clip.audio, start + len(clip.frames)
        if self.frames is not None:
            mine = self.frames[start:end]
            frames = np.concatenate([mine, frames[len(mine) :]])
        if self.audio is not None and audio is not None:
            first = samples_for(start, clip.fps, clip.sample_rate)
            mine = self.audio[first : first + len(audio)]
            audio = np.concatenate([mine, audio[len(mine) :]])
        return replace(clip, frames=frames, audio=audio)


@dataclass(frozen=True)
class Each(Given):
    """What is given to each of B samples that are made in step: their windows are (B, frames, ...)."""

    parts: tuple[Given, ...] = ()

    def window(self, start: int, frames: int) -> tuple[Latents, dict[str, Tensor]]:
        windows = [part.window(start, frames) for part in self.parts]
        latents = {k: torch.cat([known[k] for known, _ in windows]) for k in self.latents}
        masks = {k: torch.cat([mask[k] for _, mask in windows]) for k in self.latents}
        return latents, masks

    def last_frame(self, sample: int = 0) -> Clip | None:
        return self.parts[sample].last_frame()

    def fits(self, batch: int) -> bool:
        return batch == len(self.parts)

    def put_back(self, clip: Clip, start: int, sample: int = 0) -> Clip:
        return self.parts[sample].put_back(clip, start)


def each(givens: Sequence[Given]) -> Given:
    """What is given to samples that are made in step, one for each of them.

    Raises:
        InputError: there is none, they don't last equally long, or not the same is given to all.
    """
    lengths = [({k: len(v) for k, v in given.latents.items()}, given.prefix) for given in givens]
    if not lengths or any(length != lengths[0] for length in lengths):
        raise InputError(f"what is given to samples in step must be of the same kind and length, not {lengths}")
    return Each(givens[0].latents, givens[0].prefix, parts=tuple(givens))


def give(
    codec: Codec,
    config: PipelineConfig,
    *,
    context: int,
    audio: Media | None = None,
    video: Media | None = None,
    prefix: Media | None = None,
    seconds: float | None = None,
) -> Given:
    """Read and encode what was given.

    Args:
        codec: of the pipeline that ``config`` is of.
        seconds: how much of a given sound or picture is wanted; None for all.
        context: frames of history that the model takes; 0 if it was not trained with any.

    Raises:
        InputError: the model has no such stream, everything is given, the prefix is too short or can't be used.
    """
    for name, media in (("audio", audio), ("video", video), ("prefix", prefix)):
        if media is not None and not isinstance(media, Clip | str | Path):
            raise InputError(f"{name} must be a Clip or the path of a file, not {type(media).__name__}")
    if audio is not None and "audio" not in config.shape.streams:
        raise InputError("a sound was given, but this model makes no sound: leave audio out")
    if audio is not None and video is not None:
        raise InputError("both a sound and a picture were given, so nothing is left to generate: give one of them")
    if prefix is not None and not context:
        raise InputError("a clip to go on from was given, but this model was trained without context: it can't use one")
    known: dict[str, list[Tensor]] = {}
    frames = sound = last = None
    if prefix is not None:
        history, last = _history(codec, config, prefix, context)
        for k, v in history.items():
            known.setdefault(k, []).append(v)
    if audio is not None:
        sound = _sound(codec, audio, seconds)
        known.setdefault("audio", []).append(codec.to_model({"audio": codec.encode_audio(sound)})["audio"])
    if video is not None:
        frames = _read(codec, config.picture, video, seconds=seconds, sound=False).frames
        known.setdefault("video", []).append(codec.to_model({"video": codec.encode_video(frames)})["video"])
    latents = {k: torch.cat(v) for k, v in known.items()}
    return Given(latents, context if prefix is not None else 0, frames, sound, last)


def _sound(codec: Codec, media: Media, seconds: float | None) -> np.ndarray:
    """The sound of a clip or file, (S,) float32, cut to whole video frames."""
    timing = codec.timing
    if isinstance(media, Clip):
        if media.audio is None or media.sample_rate != timing.sample_rate:
            what = "no sound" if media.audio is None else f"sound at {media.sample_rate} Hz"
            raise InputError(f"the clip given as audio has {what}; this model needs {timing.sample_rate} Hz")
        sound = media.audio
    else:
        from flowreel.media import read_sound

        sound = read_sound(media, timing.sample_rate, codec.config.audio.channel if codec.config.audio else "mean")
    whole = len(sound) // timing.samples(1)
    whole = whole if seconds is None else min(whole, timing.frames(seconds))
    if whole == 0:
        raise InputError(f"the given sound lasts {len(sound) / timing.sample_rate:.3f} s, less than one video frame")
    return sound[: timing.samples(whole)]


def _read(
    codec: Codec,
    size: tuple[int, int],
    media: Media,
    start: float = 0.0,
    seconds: float | None = None,
    sound: bool = True,
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
            audio=sound and timing.has_audio,
        )
    height, width = media.frames.shape[1:3]
    if (height, width) != size or abs(media.fps - timing.fps) > 1e-6:
        raise InputError(
            f"the given clip is {height} x {width} at {media.fps:g} frames a second, this model makes "
            f"{size[0]} x {size[1]} at {timing.fps:g}: read it with Clip.read(path, fps={timing.fps:g}, size={size})"
        )
    return media


def _history(codec: Codec, config: PipelineConfig, media: Media, context: int) -> tuple[Latents, Clip]:
    """The last ``context`` frames of a clip, in model space, and the last one as it is. A little more is read, for the
    spectrogram's window."""
    timing = codec.timing
    start = 0.0
    levelled = codec.config.audio is not None and codec.config.audio.peak > 0
    if not isinstance(media, Clip) and not levelled:  # the level that training brought clips to is of the whole clip
        from flowreel.media import probe

        start = max(0.0, probe(media).seconds - timing.seconds(context + 8))
    clip = _read(codec, config.picture, media, start)
    if len(clip.frames) < context:
        raise InputError(
            f"the clip to go on from has {len(clip.frames)} frames at {timing.fps:g} a second, but this model needs "
            f"{context} frames of history ({timing.seconds(context):.2f} s)"
        )
    streams = config.shape.streams
    if "audio" in streams and clip.audio is None:
        raise InputError("the clip to go on from has no sound, but this model goes on from picture and sound together")
    stored = codec.encode(clip)
    first, end = (timing.samples(len(clip.frames) - n) for n in (1, 0))
    sound = None if clip.audio is None else clip.audio[first:end].copy()
    last = Clip(clip.frames[-1:].copy(), sound, clip.fps, clip.sample_rate)  # a view would hold the whole clip
    return codec.to_model({k: stored[k][-context:] for k in streams}), last
