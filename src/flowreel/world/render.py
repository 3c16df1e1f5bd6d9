"""Renders scenes of the procedural world as clips whose video and audio events are known exactly.

A note sounds like a struck bar: a decaying fundamental and an inharmonic partial at 2.76 times its frequency (the
second mode of a free bar, Fletcher & Rossing, The Physics of Musical Instruments). A harder hit is louder; a note lasts
about half a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowreel.config.rates import exact_rate
from flowreel.errors import InputError
from flowreel.media.clip import Clip
from flowreel.media.timing import samples_for
from flowreel.world.canvas import Canvas
from flowreel.world.scenes import CLASSES, NOTES, Event, scene

__all__ = [
    "CLASSES",
    "NOTES",
    "NOTE_SECONDS",
    "SAMPLE_RATE",
    "Event",
    "World",
    "clip_seed",
    "note_waveform",
    "render",
    "render_audio",
    "scene",
]

SAMPLE_RATE = 16000
NOTE_SECONDS = 0.6
"""Length of a note in seconds."""


def note_waveform(pitch: float, strength: float, crack: bool, sample_rate: int, seed: int = 0) -> np.ndarray:
    """The waveform of one note: (S,) float32, below full scale even where notes overlap.

    The fundamental decays by a factor of e in 110 ms, the partial in 55 ms; ``crack`` adds noise that decays in 12 ms.
    """
    time = np.arange(round(NOTE_SECONDS * sample_rate)) / sample_rate
    bar = np.exp(-time / 0.11) * np.sin(2 * np.pi * pitch * time)
    bar += 0.3 * np.exp(-time / 0.055) * np.sin(2 * np.pi * 2.76 * pitch * time)
    if crack:
        bar += 0.35 * np.exp(-time / 0.012) * np.random.default_rng(seed).uniform(-1, 1, len(time))
    edges = np.minimum(1, time / 0.002) * np.minimum(1, (NOTE_SECONDS - time) / 0.1)
    return ((0.25 + 0.25 * strength) * edges * bar).astype(np.float32)


def render_audio(events: Sequence[Event], seconds: float, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """The audio of ``events`` from 0 to ``seconds``: (S,) float32. Notes that began before 0 are included."""
    samples = round(seconds * sample_rate)
    audio = np.zeros(samples, np.float32)
    for event in events:
        start = round(event.time * sample_rate)
        note = note_waveform(NOTES[event.note].pitch, event.strength, event.kind == "burst", sample_rate, abs(start))
        skipped = max(0, -start)
        audible = note[skipped : max(skipped, samples - start)]
        audio[start + skipped : start + skipped + len(audible)] += audible
    return audio


def render(
    name: str, seed: int, seconds: float = 8.0, size: int = 64, fps: float = 10.0, sample_rate: int = SAMPLE_RATE
) -> tuple[Clip, list[Event]]:
    """Render a clip of the class ``name``; also returns its events. Frame k shows the scene at time k/fps.

    Raises:
        InputError: no such class, or a size, rate or length out of range.
    """
    if not (size >= 8 and seconds > 0 and fps > 0):
        raise InputError(f"size must be 8 or more, seconds and fps above 0, not {size}, {seconds} and {fps}")
    fps, world_scene = float(exact_rate(fps)), scene(name, seed)
    frames = max(1, round(seconds * fps))
    images = np.empty((frames, size, size, 3), np.uint8)
    for number in range(frames):
        canvas = Canvas(size)
        world_scene.draw(canvas, number / fps)
        images[number] = canvas.finished()
    length = samples_for(frames, fps, sample_rate)
    audio = render_audio(world_scene.events(-NOTE_SECONDS, frames / fps), length / sample_rate, sample_rate)
    return Clip(images, audio, fps, sample_rate, name), world_scene.events(0, frames / fps)


def clip_seed(seed: int, number: int) -> int:
    """The seed of the scene of clip ``number`` of a collection seeded with ``seed``."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class World(Sequence[tuple[Clip, list[Event]]]):
    """A sequence of ``count`` clips, rendered when they are accessed; item ``n`` is always the same clip and events.

    >>> clip, events = World(seed=1)[0]

    Clip ``n`` is of class ``n`` modulo the number of classes.
    """

    def __init__(
        self,
        count: int = 1000,
        seconds: float = 8.0,
        seed: int = 0,
        size: int = 64,
        fps: float = 10.0,
        classes: Sequence[str] = CLASSES,
    ) -> None:
        self._count, self.seconds, self.seed, self.size, self.fps = count, seconds, seed, size, fps
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return self._count

    def label(self, number: int) -> str:
        """The class of clip ``number``."""
        return self.classes[number % len(self.classes)]

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        return render(self.label(number), clip_seed(self.seed, number), self.seconds, self.size, self.fps)
