"""Finds the vivid things in frames, and tracks how they move.

Places are in [0, 1], x to the right, y downwards; times in seconds.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from flowreel.media.clip import Clip
from flowreel.metrics.events import nearest_note

FAINTEST = 0.2
"""Vividness (0 to 1) that the objects of a clip must have: below it nothing is seen."""

_GRID = 64  # larger frames are averaged down to this and at most twice as much


class Blob(NamedTuple):
    """Something compact in one frame: when, where, how much of the disc that was looked for it covers, 0 to 1."""

    time: float
    x: float
    y: float
    covers: float


class View:
    """What of the frames of a clip is not grey: ``colours`` (T, H, W, 3) less the smallest channel, 0 to 1, and
    ``vivid`` (T, H, W) the largest of the rest, relative to the objects of the clip and 1 at most."""

    def __init__(self, clip: Clip) -> None:
        frames = _reduced(clip.frames)
        red, green, blue = (frames[..., channel] for channel in range(3))
        self.colours = frames - np.minimum(np.minimum(red, green), blue)[..., None]
        self.fps = clip.fps
        count, height, width = frames.shape[:3]
        self.times = np.arange(count) / clip.fps
        self.x = (np.arange(width, dtype=np.float32) + 0.5) / width
        self.y = (np.arange(height, dtype=np.float32) + 0.5) / height
        vivid = np.maximum(np.maximum(*(self.colours[..., k] for k in (0, 1))), self.colours[..., 2])
        per_frame = np.sort(vivid.reshape(count, -1), axis=1)[:, -max(4, height * width // 250) :].mean(axis=1)
        level = float(np.percentile(per_frame, 80))
        self.empty = level < FAINTEST
        self.vivid = np.zeros_like(vivid) if self.empty else np.clip(vivid / level, 0, 1)

    def coverage(self, radius: float) -> np.ndarray:
        """How vivid the disc of ``radius``, 0.1 at most, around each pixel is: (T, H, W), 0 to 1."""
        height, width = self.vivid.shape[1:]
        sizes = height + height // 4, width + width // 4
        dy, dx = (np.minimum(np.arange(n), n - np.arange(n)) for n in sizes)
        disc = np.clip((radius - np.hypot(dx[None] / width, dy[:, None] / height)) * height + 0.5, 0, 1)
        spread = np.fft.rfft2(disc / disc.sum())
        covered = np.empty_like(self.vivid)
        for start in range(0, len(covered), 64):
            some = np.fft.rfft2(self.vivid[start : start + 64], sizes)
            covered[start : start + 64] = np.fft.irfft2(some * spread, sizes)[:, :height, :width]
        return covered

    def centre(self, frame: int, x: float, y: float, radius: float) -> tuple[float, float]:
        """The centre of what is vivid within ``radius`` of (x, y)."""
        rows, columns, within = self._around(x, y, radius)
        weights = within * np.clip(self.vivid[frame, rows, columns] - 0.25, 0, 1)
        total = weights.sum()
        if total <= 0:
            return x, y
        return float(weights.sum(axis=0) @ self.x[columns] / total), float(weights.sum(axis=1) @ self.y[rows] / total)

    def colour(self, blobs: Sequence[Blob], radius: float) -> np.ndarray:
        """(3,) the mean of what is vivid within ``radius`` of ``blobs``, less what is grey."""
        total = np.zeros(3)
        for blob in blobs:
            frame = round(blob.time * self.fps)
            rows, columns, within = self._around(blob.x, blob.y, radius)
            weights = within * self.vivid[frame, rows, columns] ** 2
            total += np.einsum("hw,hwc->c", weights, self.colours[frame, rows, columns])
        return total / max(1, len(blobs))

    def _around(self, x: float, y: float, radius: float) -> tuple[slice, slice, np.ndarray]:
        """Rows and columns that hold all within ``radius`` of (x, y), and which of their pixels do."""
        rows, columns = (
            slice(*np.searchsorted(places, (place - radius, place + radius)))
            for places, place in ((self.y, y), (self.x, x))
        )
        return rows, columns, np.hypot(self.x[columns] - x, self.y[rows, None] - y) <= radius

    def note(self, blobs: Sequence[Blob], radius: float) -> int:
        """The note of the hue of ``blobs``, or -1."""
        colour = self.colour(blobs, radius)
        top = float(colour.max())
        return nearest_note(360 * colorsys.rgb_to_hsv(*(colour / top))[0]) if top > 0 else -1


def small(clip: Clip) -> Clip:
    """The clip with its frames averaged down to what is looked at, so that a long one takes little memory."""
    if min(clip.frames.shape[1:3]) < 2 * _GRID:
        return clip
    return replace(clip, frames=np.round(_reduced(clip.frames) * 255).astype(np.uint8))


def _reduced(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 as float32 from 0 to 1, averaged down to 64 to 127 pixels where there are more."""
    step_y, step_x = (max(1, side // _GRID) for side in frames.shape[1:3])
    height, width = frames.shape[1] // step_y, frames.shape[2] // step_x
    cut = frames[:, : height * step_y, : width * step_x]
    if step_y == step_x == 1:
        return cut.astype(np.float32) / 255
    blocks = cut.reshape(len(cut), height, step_y, width, step_x, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32) / 255


def largest(view: View, radius: float) -> list[Blob]:
    """The one object of ``radius`` in each frame that shows it."""
    found = []
    for frame, covered in enumerate(view.coverage(0.8 * radius)):
        top = np.unravel_index(covered.argmax(), covered.shape)
        if covered[top] >= 0.4:
            place = float(view.x[top[1]]), float(view.y[top[0]])
            for _ in range(2):
                place = view.centre(frame, *place, 1.5 * radius)
            found.append(Blob(float(view.times[frame]), *place, float(covered[top])))
    return found


def compact(view: View, radius: float, least: float = 0.45, most: int = 10) -> list[list[Blob]]:
    """For each frame, the discs of about ``radius``: local maxima of the coverage of at least ``least``."""
    return [
        [Blob(float(view.times[k]), *view.centre(k, x, y, 1.4 * radius), covers) for x, y, covers in found[:most]]
        for k, found in enumerate(_maxima(view, covered, least, radius) for covered in view.coverage(radius))
    ]


def _maxima(view: View, covered: np.ndarray, least: float, apart: float) -> list[tuple[float, float, float]]:
    """Places (x, y, value) of the largest values of ``covered`` (H, W), further than ``apart`` from each other."""
    padded = np.pad(covered, 1, constant_values=-1)
    height, width = covered.shape
    near = np.max([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    rows, columns = np.nonzero((covered >= near) & (covered >= least))
    kept: list[tuple[float, float, float]] = []
    for index in np.argsort(-covered[rows, columns], kind="stable"):
        x, y = float(view.x[columns[index]]), float(view.y[rows[index]])
        if all(np.hypot(x - a, y - b) > apart for a, b, _ in kept):
            kept.append((x, y, float(covered[rows[index], columns[index]])))
    return kept


@dataclass
class Track:
    """One thing from frame to frame."""

    blobs: list[Blob] = field(default_factory=list)

    @property
    def last(self) -> Blob:
        return self.blobs[-1]

    @property
    def x(self) -> float:
        return float(np.median([blob.x for blob in self.blobs]))

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Times and heights."""
        return np.array([blob.time for blob in self.blobs]), np.array([blob.y for blob in self.blobs])


Expected = Callable[[Track, float], tuple[float, float]]
"""Of a track at a later time: where its y is expected, and how far off it may be."""


def linked(frames: Sequence[Sequence[Blob]], fps: float, expected: Expected, gap: int = 2) -> list[Track]:
    """Tracks of things that move up or down: each blob continues the track that expects it best, or begins one.

    A track may miss ``gap`` frames. Its x stays within 0.06.
    """
    tracks: list[Track] = []
    for blobs in frames:
        if not blobs:
            continue
        open_ = [track for track in tracks if blobs[0].time - track.last.time <= (gap + 1.5) / fps]
        choices = []
        for t, track in enumerate(open_):
            y, reach = expected(track, blobs[0].time)
            for b, blob in enumerate(blobs):
                off = abs(blob.y - y)
                if off <= reach and abs(blob.x - track.x) <= 0.06:
                    choices.append((off + abs(blob.x - track.x), t, b))
        used_t: set[int] = set()
        used_b: set[int] = set()
        for _, t, b in sorted(choices):
            if t not in used_t and b not in used_b:
                used_t.add(t)
                used_b.add(b)
                open_[t].blobs.append(blobs[b])
        tracks += [Track([blob]) for b, blob in enumerate(blobs) if b not in used_b]
    return tracks
