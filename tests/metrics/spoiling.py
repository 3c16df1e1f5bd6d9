"""Clips of the world as a small generator might make them: blurred, jittered, noisy, with ghosts; smeared sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flowreel.media import Clip


def spoiled(clip: Clip, seed: int) -> Clip:
    """Blur of 0.8 pixels, places off by up to 0.5, a ghost of the frame before, tinted, noise of 6 of 255; the sound
    smeared, with noise at -45 dBFS."""
    rng = np.random.default_rng(seed)
    frames = np.stack([_moved(frame, *rng.uniform(-0.5, 0.5, 2)) for frame in _blurred(clip.frames)])
    before = np.concatenate([frames[:1], frames[:-1]])
    frames = np.maximum(frames, 0.25 * before)
    frames += rng.uniform(-12, 12, 3) * (frames > 40) + rng.normal(0, 6, frames.shape)
    audio = clip.audio
    if audio is not None:
        late = round(0.005 * clip.sample_rate)
        audio = 0.35 * np.concatenate([audio[late:], np.zeros(late)]) + 0.7 * audio
        audio = np.float32(audio + rng.normal(0, 10 ** (-45 / 20), len(audio))).clip(-1, 1)
    return replace(clip, frames=np.round(frames).clip(0, 255).astype(np.uint8), audio=audio)


def late(clip: Clip, seconds: float) -> Clip:
    """The sound ``seconds`` later."""
    assert clip.audio is not None
    samples = round(seconds * clip.sample_rate)
    return replace(clip, audio=np.concatenate([np.zeros(samples, np.float32), clip.audio[:-samples]]))


def _blurred(frames: np.ndarray, sigma: float = 0.8) -> np.ndarray:
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    kernel /= kernel.sum()
    result = frames.astype(np.float32)
    for axis in (1, 2):
        result = sum(weight * np.roll(result, shift - 2, axis) for shift, weight in enumerate(kernel))
    return result


def _moved(frame: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear, around the edges."""
    for axis, by in ((0, y), (1, x)):
        whole = int(np.floor(by))
        near, far = np.roll(frame, whole, axis), np.roll(frame, whole + 1, axis)
        frame = near * (1 - (by - whole)) + far * (by - whole)
    return frame
