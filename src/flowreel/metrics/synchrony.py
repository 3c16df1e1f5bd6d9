"""Measures audio-video synchrony: the events of the video against those of the audio.

Events match within 0.1 seconds, whatever the rate of the file. Pictures that a file repeats are left out first
(``repeats.py``): frames and rates below are those of the pictures.

An event near the start or after the last picture may be hidden from the one and not from the other: a reversal needs a
picture on each side. So events within ``margin`` (one frame and 0.05 s) of the first and of the last *picture* that
find no partner don't count; those that find one do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flowreel.errors import InputError
from flowreel.media.clip import Clip
from flowreel.metrics.audio_events import find_audio_events
from flowreel.metrics.classifier import NOTHING, classify
from flowreel.metrics.events import Found, match
from flowreel.metrics.repeats import distinct_frames
from flowreel.metrics.video_events import find_video_events
from flowreel.world.scenes import CLASSES

TOLERANCE = 0.1
"""Seconds that an event of the picture and one of the sound may be apart to match."""

USUAL = 1.4
"""Events a second, about the mean of the world's classes: what a clip is charged with that neither shows nor sounds
any."""


@dataclass(frozen=True)
class Events:
    """What was found in a clip of ``seconds``, of ``fps`` pictures a second: events of its picture and its sound."""

    name: str
    seconds: float
    fps: float
    picture: tuple[Found, ...]
    sound: tuple[Found, ...]

    @property
    def margin(self) -> float:
        """Seconds; see above."""
        return 1 / self.fps + 0.05

    def inside(self, time: float) -> bool:
        """Whether an event at ``time`` counts even without a partner."""
        return self.margin <= time <= self.seconds - 1 / self.fps - self.margin


@dataclass(frozen=True)
class Synchrony:
    """Counts of events over ``clips`` that last ``seconds`` together, and the figures that follow from them.

    ``picture`` and ``sound`` are the events that count, ``matched`` the pairs, ``agreeing`` those of them whose pitch
    is the one of their hue, ``offsets`` their times in seconds, sound minus picture. ``missing``: a clip without any
    event in one of the two is charged with as many misses as the other has events, as if it had its own at wrong times;
    a clip without any in either with the misses of both at the usual rate. ``shown`` and ``heard`` are all events, for
    the rates.
    """

    clips: int = 0
    seconds: float = 0.0
    picture: int = 0
    sound: int = 0
    missing: int = 0
    matched: int = 0
    agreeing: int = 0
    shown: int = 0
    heard: int = 0
    offsets: tuple[float, ...] = ()

    @property
    def f1(self) -> float:
        """Twice the pairs over the events of both, 0 to 1; 0 without any."""
        return 2 * self.matched / max(1, self.picture + self.sound + self.missing)

    @property
    def heard_share(self) -> float:
        """Share of the events of the picture that are heard (recall of the sound), 0 to 1."""
        return self.matched / max(1, self.picture)

    @property
    def seen_share(self) -> float:
        """Share of the events of the sound that are seen (its precision), 0 to 1."""
        return self.matched / max(1, self.sound)

    @property
    def offset(self) -> float:
        """Median of sound minus picture in ms; NaN without pairs."""
        return 1000 * float(np.median(self.offsets)) if self.offsets else float("nan")

    @property
    def note_agreement(self) -> float:
        """Share of the pairs whose pitch is the one of their hue, 0 to 1; NaN without pairs."""
        return self.agreeing / self.matched if self.matched else float("nan")

    @property
    def picture_rate(self) -> float:
        """Events a second in the picture."""
        return self.shown / self.seconds if self.seconds else 0.0

    @property
    def sound_rate(self) -> float:
        """Events a second in the sound."""
        return self.heard / self.seconds if self.seconds else 0.0

    def figures(self) -> dict[str, float | int | None]:
        """All of them by name, as they go into a JSON file; None for what is not defined."""
        counts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "offsets"}
        names = ("f1", "heard_share", "seen_share", "offset", "note_agreement", "picture_rate", "sound_rate")
        shares = {name: getattr(self, name) for name in names}
        shares["offset_ms"] = shares.pop("offset")
        return counts | {name: None if np.isnan(value) else value for name, value in shares.items()}


def events_of(clip: Clip, name: str | None = None) -> Events:
    """What is found in ``clip``, of the class ``name``; else of its own label if that is a class of the world, else of
    the one that it seems to be."""
    if name is not None and name not in CLASSES and name != NOTHING:
        raise InputError(f"the world has no class {name!r}; it has {', '.join(CLASSES)}")
    pictures, begin = distinct_frames(clip)
    if name is None:
        name = clip.label if clip.label in CLASSES else classify(pictures)
    found = find_video_events(pictures, name) if name in CLASSES else []
    picture = tuple(event._replace(time=event.time + begin) for event in found)
    return Events(name, clip.seconds, pictures.fps, picture, tuple(find_audio_events(clip.audio, clip.sample_rate)))


def compare(events: Events, tolerance: float = TOLERANCE) -> Synchrony:
    """The counts of one clip. Events match within ``tolerance`` seconds."""
    pairs = match(events.picture, events.sound, tolerance)
    picture = _counted(events, events.picture, [a for a, _ in pairs])
    sound = _counted(events, events.sound, [b for _, b in pairs])
    missing = 0
    if not (picture and sound):
        missing = picture or sound or 2 * max(1, round(USUAL * (events.seconds - 2 * events.margin)))
    return Synchrony(
        clips=1,
        seconds=events.seconds,
        picture=picture,
        sound=sound,
        missing=missing,
        matched=len(pairs),
        agreeing=sum(a.note == b.note and a.note >= 0 for a, b in pairs),
        shown=len(events.picture),
        heard=len(events.sound),
        offsets=tuple(b.time - a.time for a, b in pairs),
    )


def _counted(events: Events, found: Sequence[Found], matched: Sequence[Found]) -> int:
    """How many of ``found`` count: those with a partner and those inside."""
    return len(matched) + sum(events.inside(event.time) for event in set(found) - set(matched))


def synchrony(clip: Clip, name: str | None = None, tolerance: float = TOLERANCE) -> Synchrony:
    """The figures of one clip; see :func:`events_of` for ``name`` and :func:`compare` for ``tolerance`` in seconds.

    Raises:
        InputError: sound of fewer than 4000 samples a second.
    """
    return compare(events_of(clip, name), tolerance)


def pooled(parts: Iterable[Synchrony]) -> Synchrony:
    """The counts of all ``parts`` added up: every event has the same weight, whatever clip it is from."""
    total = list(parts)
    sums = {
        name: sum(getattr(part, name) for part in total) for name in Synchrony.__dataclass_fields__ if name != "offsets"
    }
    return Synchrony(**sums, offsets=tuple(offset for part in total for offset in part.offsets))


def floor(clips: Iterable[Clip | Events], tolerance: float = TOLERANCE, shifts: int = 4) -> Synchrony:
    """What chance gives: the picture of each clip against the sound of others of its class.

    Clip i is heard with the sounds of clips i + 1 to i + ``shifts`` of its class, in a circle; with more shifts chance
    is known better. A class of one clip has no floor, and clips of different lengths are compared as far as both go.
    """
    by_class: dict[str, list[Events]] = {}
    for clip in clips:
        events = clip if isinstance(clip, Events) else events_of(clip)
        by_class.setdefault(events.name, []).append(events)
    parts = [
        compare(_crossed(a, group[(i + shift) % len(group)]), tolerance)
        for group in by_class.values()
        for shift in range(1, min(shifts, len(group) - 1) + 1)
        for i, a in enumerate(group)
    ]
    return pooled(parts)


def _crossed(a: Events, b: Events) -> Events:
    """The picture of ``a`` with the sound of ``b``."""
    seconds = min(a.seconds, b.seconds)
    picture, sound = (tuple(event for event in found if event.time < seconds) for found in (a.picture, b.sound))
    return Events(a.name, seconds, a.fps, picture, sound)
