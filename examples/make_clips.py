"""Make a folder of small clips with sound to try things on: a ball that bounces, and sounds when it hits the floor.

    python examples/make_clips.py OUT [--count 48] [--seconds 3] [--size 32] [--fps 10]

Two classes, `low` (a red ball, 440 Hz) and `high` (a blue ball, 880 Hz), in the layout that `flowreel prepare` reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from flowreel import Clip

RATE = 16000
CLASSES = {"low": ((235, 60, 50), 440.0), "high": ((70, 130, 250), 880.0)}
GRAVITY = 1.8  # heights of the picture a second squared
RADIUS, FLOOR = 0.16, 0.94  # in heights of the picture, the floor from the top


def bounces(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, float]:
    """Times at which the ball is on the floor, and the half period."""
    height = rng.uniform(0.3, 0.6)
    half = float(np.sqrt(2 * height / GRAVITY))
    first = rng.uniform(0, 2 * half)
    return np.arange(first - 2 * half, seconds + 2 * half, 2 * half), half


def frames(
    hits: np.ndarray, half: float, x: float, colour: tuple[int, int, int], shape: tuple[int, int, int]
) -> np.ndarray:
    """(T, size, size, 3) uint8, with soft edges."""
    count, size, fps = shape
    rows, columns = np.mgrid[0:size, 0:size] / size
    pictures = np.empty((count, size, size, 3), np.uint8)
    for k in range(count):
        since = (k + 0.5) / fps - hits[hits <= (k + 0.5) / fps].max()
        height = GRAVITY * since * (2 * half - since) / 2
        distance = np.hypot(columns - x, rows - (FLOOR - RADIUS - height))
        ball = np.clip((RADIUS - distance) * size, 0, 1)[..., None]
        floor = np.clip((rows - FLOOR) * size, 0, 1)[..., None] * 40
        pictures[k] = np.rint(12 + floor * (1 - ball) + ball * (np.array(colour) - 12))
    return pictures


def sound(hits: np.ndarray, pitch: float, seconds: float) -> np.ndarray:
    """(S,) float32: a decaying tone at every hit."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = np.zeros_like(t)
    for hit in hits[(hits > -0.5) & (hits < seconds)]:
        since = np.clip(t - hit, 0, None)
        wave += (t >= hit) * np.exp(-since * 9) * np.sin(2 * np.pi * pitch * since) * np.minimum(1, since * 400)
    return (0.5 * wave).astype(np.float32)


def make(out: Path, count: int, seconds: float, size: int, fps: int, seed: int = 0) -> None:
    """Write ``count`` clips, an eighth of them into test/."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        label = list(CLASSES)[i % len(CLASSES)]
        colour, pitch = CLASSES[label]
        hits, half = bounces(rng, seconds)
        pictures = frames(hits, half, rng.uniform(0.2, 0.8), colour, (round(seconds * fps), size, fps))
        split = "test" if i % 8 in (6, 7) and i >= 6 else "train"
        Clip(pictures, sound(hits, pitch, seconds), fps, RATE, label).save(out / split / label / f"{i:04d}.mp4")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--fps", type=int, default=10)
    args = parser.parse_args()
    make(args.out, args.count, args.seconds, args.size, args.fps)
