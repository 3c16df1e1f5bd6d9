"""Draws antialiased shapes on a frame. Coordinates are in [0, 1], x to the right, y downwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BACKGROUND = (10, 10, 13)


class Canvas:
    """A frame of ``size`` x ``size`` pixels on which antialiased shapes are drawn."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pixels = np.empty((size, size, 3), np.float32)
        self.pixels[:] = BACKGROUND
        places = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = places[None, :], places[:, None]

    def fill(self, covered: np.ndarray, colour: np.ndarray | Sequence[float]) -> None:
        """Blend ``colour`` into the pixels, by the fraction (H, W) of each that is ``covered``."""
        self.pixels += covered[..., None] * (np.asarray(colour, np.float32) - self.pixels)

    def inside(self, depth: np.ndarray) -> np.ndarray:
        """The covered fraction of each pixel, from its signed distance to a shape's outline (positive inside)."""
        return np.clip(depth * self.size + 0.5, 0, 1)

    def disc(self, x: float, y: float, radius: float, colour: np.ndarray, above: float = 2.0) -> None:
        """Draw a disc, or its part above the line y = ``above``."""
        covered = self.inside(radius - np.hypot(self.x - x, self.y - y))
        self.fill(covered * self.inside(above - self.y) if above < 2 else covered, colour)

    def discs(self, x: np.ndarray, y: np.ndarray, radius: float, colour: np.ndarray, opacity: float) -> None:
        """Draw several discs (N,) of one colour."""
        distance = np.hypot(self.x - x[:, None, None], self.y - y[:, None, None]).min(axis=0)
        self.fill(opacity * self.inside(radius - distance), colour)

    def line(self, a: tuple[float, float], b: tuple[float, float], width: float, colour: Sequence[float]) -> None:
        """Draw a straight line from ``a`` to ``b``."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        along = np.clip(((self.x - a[0]) * dx + (self.y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
        self.fill(self.inside(width / 2 - np.hypot(self.x - a[0] - along * dx, self.y - a[1] - along * dy)), colour)

    def ring(
        self, x: float, y: float, radius: float, flat: float, width: float, colour: np.ndarray, opacity: float
    ) -> None:
        """Draw the outline of an ellipse, ``flat`` times as high as wide, at this ``opacity``."""
        distance = np.hypot(self.x - x, (self.y - y) / flat) - radius
        self.fill(opacity * self.inside(width / 2 - np.abs(distance)), colour)

    def finished(self) -> np.ndarray:
        """The frame (H, W, 3) uint8."""
        return np.round(self.pixels).clip(0, 255).astype(np.uint8)
