"""The scenes of the procedural world: what is where at any instant, and when something hits something.

Knows: the four classes, the notes, how each scene is drawn and which events it has. Does not know: how an event sounds,
how a scene becomes a clip (``world.py``).

A scene follows from its class and its seed alone: it has neither size nor frame rate nor length, so a longer, larger or
faster rendering is the same scene. Each object has one of five notes: hue and pitch go together (:data:`NOTES`).

Places are in [0, 1], x to the right, y downwards; times in seconds.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flowreel.errors import InputError
from flowreel.world.canvas import Canvas

GREY = 110
"""Of the pendulum's rod, which has no hue."""


@dataclass(frozen=True)
class Note:
    """A hue in degrees and the pitch in Hz that goes with it."""

    hue: float
    pitch: float

    @property
    def colour(self) -> np.ndarray:
        """(3,) red, green, blue in 0 to 255."""
        return np.array(colorsys.hsv_to_rgb(self.hue / 360, 1, 1)) * 255


NOTES = (Note(0, 523.25), Note(60, 587.33), Note(120, 659.26), Note(180, 783.99), Note(300, 880.00))


@dataclass(frozen=True)
class Event:
    """Something hits something at ``time``: ``note`` 0 to 4, at (``x``, ``y``), of a ``kind``; ``strength`` in [0, 1]
    is how hard."""

    time: float
    note: int
    x: float
    y: float
    kind: str
    strength: float = 1.0


class Scene(Protocol):
    """One scene: a pure function of time."""

    def events(self, start: float, end: float) -> list[Event]:
        """Those of the times in [start, end), in order."""
        ...

    def draw(self, canvas: Canvas, time: float) -> None: ...


# --- the four classes ---------------------------------------------------------------------------------------------


class Bounce:
    """One ball under gravity in a box; an event is each contact with the floor or a wall.

    The floor gives every fall's energy back, so the ball rises to the same height for ever; the walls keep its speed. A
    crossing of the box takes one, two or three falls and ends in mid-flight, so that two contacts never coincide. In
    the mean 1.4 events a second.
    """

    GRAVITY = 3.2

    def __init__(self, rng: np.random.Generator) -> None:
        self.note = int(rng.integers(len(NOTES)))
        self.radius = rng.uniform(0.09, 0.12)
        self.fall = rng.uniform(1.0, 1.3)  # seconds between two contacts with the floor
        self.first_floor = rng.uniform(0, self.fall)
        self.crossing = self.fall * int(rng.integers(1, 4))
        self.first_wall = self.first_floor + self.fall * (rng.uniform(0.38, 0.62) + int(rng.integers(3)))
        self.leftwards = bool(rng.integers(2))

    def place(self, time: float) -> tuple[float, float]:
        """The centre of the ball."""
        since = (time - self.first_floor) % self.fall
        height = self.GRAVITY / 2 * since * (self.fall - since)
        crossings = (time - self.first_wall) / self.crossing + self.leftwards
        across = abs((crossings + 1) % 2 - 1)  # 0 at one wall, 1 at the other
        return self.radius + (1 - 2 * self.radius) * across, 1 - self.radius - height

    def events(self, start: float, end: float) -> list[Event]:
        falling = self.GRAVITY * self.fall / 2
        across = (1 - 2 * self.radius) / self.crossing
        found = []
        for time in _every(self.fall, self.first_floor, start, end):
            found.append(Event(time, self.note, self.place(time)[0], 1.0, "floor", _strength(falling)))
        for time in _every(self.crossing, self.first_wall, start, end):
            x, y = self.place(time)
            found.append(Event(time, self.note, float(round(x)), y, "wall", _strength(across)))
        return sorted(found, key=lambda event: event.time)

    def draw(self, canvas: Canvas, time: float) -> None:
        canvas.disc(*self.place(time), self.radius, NOTES[self.note].colour)


class Pendulum:
    """One bob on a rod that swings from a pivot at the top centre, always as far; an event is each passage of the
    vertical. In the mean 1.3 events a second."""

    PIVOT = (0.5, 0.06)

    def __init__(self, rng: np.random.Generator) -> None:
        self.note = int(rng.integers(len(NOTES)))
        self.radius = rng.uniform(0.08, 0.1)
        self.length = rng.uniform(0.6, 0.72)
        self.half = rng.uniform(0.65, 0.95)  # seconds between two passages
        widest = math.asin((0.48 - self.radius) / self.length)
        self.swing = rng.uniform(0.4, widest)
        self.first = rng.uniform(0, self.half)
        self.rightwards = bool(rng.integers(2))

    def place(self, time: float) -> tuple[float, float]:
        """The centre of the bob."""
        angle = self.swing * math.sin(math.pi * ((time - self.first) / self.half + self.rightwards))
        return self.PIVOT[0] + self.length * math.sin(angle), self.PIVOT[1] + self.length * math.cos(angle)

    def events(self, start: float, end: float) -> list[Event]:
        strength = _strength(self.length * self.swing * math.pi / self.half)
        x, y = self.PIVOT[0], self.PIVOT[1] + self.length
        times = _every(self.half, self.first, start, end)
        return [Event(time, self.note, x, y, "passage", strength) for time in times]

    def draw(self, canvas: Canvas, time: float) -> None:
        place = self.place(time)
        canvas.line(self.PIVOT, place, 0.03, (GREY,) * 3)
        canvas.disc(*place, self.radius, NOTES[self.note].colour)


@dataclass(frozen=True)
class _Falling:
    """A drop or a rocket: when and where it ends, and what of it was drawn by chance."""

    time: float
    note: int
    x: float
    share: float  # in [0, 1], free to be used


class Rain:
    """Drops of changing notes fall, all as fast, and hit a water line at 4/5 of the height, where each leaves a ring
    that widens and fades; an event is each hit. Between two hits are 0.4 s and more, 0.7 s in the mean."""

    LINE = 0.8
    FADES = 0.7
    SHORE = (14, 20, 30)

    def __init__(self, rng: np.random.Generator) -> None:
        self.speed = rng.uniform(0.75, 1.05)
        self.radius = rng.uniform(0.05, 0.065)
        self.drops = _Sequence(rng, gap=0.4, more=0.3)

    def events(self, start: float, end: float) -> list[Event]:
        hits = self.drops.between(start, end)
        return [
            Event(drop.time, drop.note, drop.x, self.LINE, "hit", 0.4 + 0.6 * _strength(2 * self.speed))
            for drop in hits
        ]

    def draw(self, canvas: Canvas, time: float) -> None:
        canvas.fill(canvas.inside(canvas.y - self.LINE) * np.ones_like(canvas.x), self.SHORE)
        for drop in self.drops.between(time - 0.8, time + 1.2):
            colour, since = NOTES[drop.note].colour, time - drop.time
            if since > 0:
                radius = 0.03 + 0.17 * (1 - math.exp(-since / 0.3))
                canvas.ring(drop.x, self.LINE, radius, 0.4, 0.05, colour, max(0, 1 - since / self.FADES))
            canvas.disc(drop.x, self.LINE - self.radius + self.speed * since, self.radius, colour, above=self.LINE)


class Fireworks:
    """Sparks rise from the ground, slow down and burst where they would turn, into a widening, fading ring of
    particles; an event is each burst, which sounds with a short crack. Between two bursts are 0.5 s and more, 0.75 s in
    the mean."""

    SLOWING = 2.4
    PARTICLES = 10
    FADES = 0.7

    def __init__(self, rng: np.random.Generator) -> None:
        self.turn = rng.uniform(0, 1)
        self.reach = rng.uniform(0.15, 0.2)
        self.rockets = _Sequence(rng, gap=0.5, more=0.25)

    @staticmethod
    def height(rocket: _Falling) -> float:
        """Where it bursts."""
        return 0.24 + 0.2 * rocket.share

    def events(self, start: float, end: float) -> list[Event]:
        bursts = self.rockets.between(start, end)
        return [Event(r.time, r.note, r.x, self.height(r), "burst", 0.6 + 0.4 * (1 - r.share)) for r in bursts]

    def draw(self, canvas: Canvas, time: float) -> None:
        for rocket in self.rockets.between(time - 0.8, time + 1.0):
            colour, since, y = NOTES[rocket.note].colour, time - rocket.time, self.height(rocket)
            if since < 0:
                canvas.disc(rocket.x, y + self.SLOWING / 2 * since**2, 0.045, colour)
            else:
                angles = 2 * np.pi * (np.arange(self.PARTICLES) / self.PARTICLES + self.turn)
                radius = 0.04 + self.reach * (1 - math.exp(-since / 0.2))
                x, y_all = rocket.x + radius * np.cos(angles), y + radius * np.sin(angles) + 0.12 * since**2
                canvas.discs(x, y_all, 0.04, colour, max(0, 1 - since / self.FADES))


class _Sequence:
    """What falls or rises, one after the other for ever: ends ``gap`` and in the mean ``more`` seconds apart, each away
    from the one before it."""

    EARLIEST = -2.0
    WIDTH = 0.7

    def __init__(self, rng: np.random.Generator, gap: float, more: float) -> None:
        self._draws = self._endless(rng, gap, more)
        self._made: list[_Falling] = []

    def _endless(self, rng: np.random.Generator, gap: float, more: float) -> Iterator[_Falling]:
        time, place = self.EARLIEST + rng.exponential(more), rng.uniform()
        while True:
            yield _Falling(time, int(rng.integers(len(NOTES))), 0.15 + self.WIDTH * place, rng.uniform())
            time += gap + rng.exponential(more)
            place = (place + rng.uniform(0.3, 0.7)) % 1.0

    def between(self, start: float, end: float) -> list[_Falling]:
        while not self._made or self._made[-1].time < end:
            self._made.append(next(self._draws))
        return [one for one in self._made if start <= one.time < end]


SCENES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "bounce": Bounce,
    "pendulum": Pendulum,
    "rain": Rain,
    "fireworks": Fireworks,
}
CLASSES = tuple(SCENES)
"""Names of the classes, in the order of their indices."""


def scene(name: str, seed: int) -> Scene:
    """The scene of the class ``name`` with this seed.

    Raises:
        InputError: no such class.
    """
    if name not in SCENES:
        raise InputError(f"the world has no class {name!r}; it has {', '.join(CLASSES)}")
    return SCENES[name](np.random.default_rng([seed, CLASSES.index(name)]))


def _every(period: float, first: float, start: float, end: float) -> list[float]:
    """first + k * period in [start, end)."""
    numbers = range(math.ceil((start - first) / period), math.ceil((end - first) / period))
    return [first + number * period for number in numbers]


def _strength(speed: float) -> float:
    """Of a hit at ``speed``, in heights of the picture a second."""
    return min(1.0, speed / 2.1)
