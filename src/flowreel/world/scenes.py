"""The scenes of the procedural world: the position of every object at any time, and the events.

A scene is determined by its class and seed alone. It has no size, frame rate or length, so a longer, larger or faster
rendering shows the same scene. Each object has one of five notes, which set its hue and its pitch (:data:`NOTES`).

Coordinates are in [0, 1], x to the right, y downwards; times in seconds.
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
"""Grey level of the pendulum's rod."""


@dataclass(frozen=True)
class Note:
    """A hue in degrees with its pitch in Hz."""

    hue: float
    pitch: float

    @property
    def colour(self) -> np.ndarray:
        """(3,) red, green, blue in 0 to 255."""
        return np.array(colorsys.hsv_to_rgb(self.hue / 360, 1, 1)) * 255


NOTES = (Note(0, 523.25), Note(60, 587.33), Note(120, 659.26), Note(180, 783.99), Note(300, 880.00))


@dataclass(frozen=True)
class Event:
    """An event that is seen and heard at ``time``: ``note`` 0 to 4, position (``x``, ``y``), its ``kind``, and
    ``strength`` in [0, 1]."""

    time: float
    note: int
    x: float
    y: float
    kind: str
    strength: float = 1.0


class Scene(Protocol):
    """One scene: a pure function of time."""

    def events(self, start: float, end: float) -> list[Event]:
        """The events with start <= time < end, in order."""
        ...

    def draw(self, canvas: Canvas, time: float) -> None: ...


# --- the four classes ---------------------------------------------------------------------------------------------


class Bounce:
    """A ball bounces in a box; each contact with the floor or a wall is an event.

    The floor loses no energy, so the ball always rises to the same height; the walls keep its speed. A crossing of the
    box takes one, two or three bounces and ends in mid-flight, so that two contacts never coincide. There are 1.4
    events per second on average.
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
    """A pendulum swings from a pivot at the top centre with constant amplitude; each passage of the vertical is an
    event. There are 1.3 events per second on average."""

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
    """A drop or a rocket: the time and place of its end, its note, and a random number."""

    time: float
    note: int
    x: float
    share: float  # random, in [0, 1]


class Rain:
    """Drops of random notes fall at the same speed onto a water surface at 4/5 of the height, where each leaves a ring
    that widens and fades; each hit is an event. Hits are at least 0.4 s apart, 0.7 s on average."""

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
    """Rockets rise from the ground, slow down and burst at the top into a widening, fading ring of particles; each
    burst is an event and begins with a short crack. Bursts are at least 0.5 s apart, 0.75 s on average."""

    SLOWING = 2.4
    PARTICLES = 10
    FADES = 0.7

    def __init__(self, rng: np.random.Generator) -> None:
        self.turn = rng.uniform(0, 1)
        self.reach = rng.uniform(0.15, 0.2)
        self.rockets = _Sequence(rng, gap=0.5, more=0.25)

    @staticmethod
    def height(rocket: _Falling) -> float:
        """The y coordinate at which it bursts."""
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
    """An endless sequence of drops or rockets.

    Their ends are ``gap`` seconds apart plus a random time of mean ``more``, each away from the place of the last.
    """

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
"""Names of the classes, in the order of their labels."""


def scene(name: str, seed: int) -> Scene:
    """The scene of the class ``name`` with this seed.

    Raises:
        InputError: no such class.
    """
    if name not in SCENES:
        raise InputError(f"the world has no class {name!r}; it has {', '.join(CLASSES)}")
    return SCENES[name](np.random.default_rng([seed, CLASSES.index(name)]))


def _every(period: float, first: float, start: float, end: float) -> list[float]:
    """The times first + k * period in [start, end)."""
    numbers = range(math.ceil((start - first) / period), math.ceil((end - first) / period))
    return [first + number * period for number in numbers]


def _strength(speed: float) -> float:
    """Strength of a hit at ``speed``, in frame heights per second."""
    return min(1.0, speed / 2.1)
