"""Measures how the figures change along a long stream, window by window, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from flowreel.errors import InputError
from flowreel.media.clip import Clip
from flowreel.metrics.classifier import classify
from flowreel.metrics.synchrony import Synchrony, synchrony
from flowreel.world.scenes import CLASSES

SILENCE = -120.0
"""Loudness in dBFS that stands for none at all."""

_FROZEN_FOR = 1.0  # seconds; in every class of the world something moves in every second
_SILENT_FOR = 2.0
_QUIET = -50.0  # dBFS, of the loudest 50 ms
_CHANGED = 24  # of 255, by which a pixel must change
_LEAST_CHANGED = 0.002  # share of the pixels; a spark of the world that moves changes 0.01


@dataclass(frozen=True)
class Span:
    """The figures of one window that begins at ``start`` seconds and lasts ``seconds``.

    ``name`` is the class that was measured, ``seen`` the one that the window seems to be. ``loudness`` in dBFS (RMS);
    ``colour`` the mean red, green and blue and ``brightness`` their mean, 0 to 255; ``contrast`` the standard deviation
    of the brightness over pixels and frames; ``frozen`` the share of seconds in which no 0.2 % of the pixels change;
    ``silent`` the share of stretches of 2 s that stay below -50 dBFS.
    """

    start: float
    seconds: float
    name: str
    seen: str
    synchrony: Synchrony
    loudness: float
    colour: tuple[float, float, float]
    brightness: float
    contrast: float
    frozen: float
    silent: float

    def figures(self) -> dict[str, float]:
        """Those that can be compared, by name; the offset in ms."""
        sync = {name: getattr(self.synchrony, name) for name in ("f1", "offset", "note_agreement")}
        rates = {name: getattr(self.synchrony, name) for name in ("picture_rate", "sound_rate")}
        own = {n: getattr(self, n) for n in ("loudness", "brightness", "contrast", "frozen", "silent")}
        colour = dict(zip(("red", "green", "blue"), self.colour, strict=True))
        return {**sync, **rates, **own, **colour, "class_agreement": float(self.seen == self.name)}


@dataclass(frozen=True)
class Drift:
    """The windows of a stream, in order."""

    spans: tuple[Span, ...]

    @property
    def first(self) -> Span:
        return self.spans[0]

    @property
    def last(self) -> Span:
        return self.spans[-1]

    @property
    def differences(self) -> dict[str, float]:
        """Each figure of the last window minus that of the first; NaN where one of them has none."""
        first, last = self.first.figures(), self.last.figures()
        return {name: last[name] - first[name] for name in first}


def drift(stream: Clip | Iterable[Clip], name: str | None = None, seconds: float = 60.0) -> Drift:
    """Measure ``stream``, a long clip or clips that follow each other, in windows of ``seconds``.

    ``name`` is the class; without it the label of the first window, or what that seems to be, stands for all. What is
    left at the end counts as a window if it is at least half as long, or the only one.

    Raises:
        InputError: a stream without clips or of clips that differ in size, rate or audio; windows of under 4 seconds.
    """
    if not (math.isfinite(seconds) and seconds >= 4):
        raise InputError(f"windows must last 4 seconds or more, not {seconds}")
    spans: list[Span] = []
    for window in windows([stream] if isinstance(stream, Clip) else stream, seconds):
        if spans and window.seconds < seconds / 2:
            break
        name = name or (window.label if window.label in CLASSES else classify(window))
        spans.append(measured(window, name, sum(span.seconds for span in spans)))
    if not spans:
        raise InputError("the stream has no clips")
    return Drift(tuple(spans))


def windows(stream: Iterable[Clip], seconds: float) -> Iterator[Clip]:
    """The same stream, cut into clips of ``seconds``, the last one shorter; holds little more than one of them."""
    parts: list[Clip] = []
    have, done = 0, 0
    for chunk in stream:
        parts.append(chunk)
        have += len(chunk.frames)
        wanted = max(1, round(seconds * chunk.fps))
        while have >= wanted:
            window, rest = (parts[0] if len(parts) == 1 else Clip.join(parts)).cut(wanted, done)
            yield window
            parts = [rest] if rest is not None else []
            have, done = have - wanted, done + wanted
    if parts:
        yield Clip.join(parts)


def measured(clip: Clip, name: str, start: float = 0.0) -> Span:
    """The figures of one window, which begins at ``start`` seconds, as of the class ``name``."""
    colour = clip.frames.mean(axis=(0, 1, 2), dtype=np.float64)
    return Span(
        start=start,
        seconds=clip.seconds,
        name=name,
        seen=classify(clip),
        synchrony=synchrony(clip, name),
        loudness=_level(clip.audio),
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
        brightness=float(colour.mean()),
        contrast=float(clip.frames.mean(axis=-1, dtype=np.float32).std(dtype=np.float64)),
        frozen=_frozen(clip),
        silent=_silent(clip),
    )


def _frozen(clip: Clip) -> float:
    """Share of the clip's seconds in which the frame stands still."""
    length = max(2, round(_FROZEN_FOR * clip.fps))
    still = []
    for start in range(0, max(1, len(clip.frames) - length + 1), length):
        frames = clip.frames[start : start + length]
        change = (frames.max(axis=0).astype(int) - frames.min(axis=0)).max(axis=-1)
        still.append(float((change > _CHANGED).mean()) < _LEAST_CHANGED)
    return float(np.mean(still))


def _silent(clip: Clip) -> float:
    """Share of the clip's stretches of 2 s in which nothing is heard; 1 without audio."""
    if clip.audio is None or len(clip.audio) == 0:
        return 1.0
    block = max(1, round(0.05 * clip.sample_rate))
    blocks = [clip.audio[start : start + block] for start in range(0, len(clip.audio), block)]
    levels = np.array([_level(part) for part in blocks])
    length = round(_SILENT_FOR / 0.05)
    return float(np.mean([levels[k : k + length].max() < _QUIET for k in range(0, len(levels), length)]))


def _level(audio: np.ndarray | None) -> float:
    """RMS in dBFS (a full-scale square is 0), at least :data:`SILENCE`."""
    if audio is None or len(audio) == 0:
        return SILENCE
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return max(SILENCE, 10 * math.log10(power)) if power > 0 else SILENCE
