"""Fragments are one MP4, each can be played by itself, and sound lies where it was."""

from __future__ import annotations

import io
from dataclasses import replace

import av
import numpy as np
import pytest

from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.serve.mp4 import Fragmenter
from flowreel.serve.spectrum import BANDS, SpectrumStrip


def cut(clip: Clip, frames: int) -> list[Clip]:
    """The clip in pieces of ``frames`` frames."""
    step = round(clip.sample_rate / clip.fps)
    pieces = []
    for first in range(0, len(clip.frames), frames):
        sound = None if clip.audio is None else clip.audio[first * step : (first + frames) * step]
        pieces.append(replace(clip, frames=clip.frames[first : first + frames], audio=sound))
    return pieces


def film(frames: int = 20, size: tuple[int, int] = (32, 48), sound: bool = True) -> Clip:
    """Random colours that change every frame, and clicks at every half second."""
    rng = np.random.default_rng(0)
    pictures = np.repeat(rng.integers(0, 255, (frames, 1, 1, 3)), size[0], 1).repeat(size[1], 2).astype(np.uint8)
    audio = np.zeros(frames * 1600, np.float32)
    for start in range(1600, len(audio) - 400, 8000):
        audio[start : start + 400] = 0.5 * np.sin(np.arange(400) * 0.4)
    return Clip(pictures, audio if sound else None, 10.0, 16000)


def read(data: bytes) -> tuple[list[np.ndarray], list[float], np.ndarray, float]:
    """Frames, their times, samples, and the time of the first sample."""
    with av.open(io.BytesIO(data)) as container:
        frames, times, sound, first = [], [], [], -1.0
        for frame in container.decode(*container.streams):
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray(format="rgb24"))
                times.append(float(frame.time))
            else:
                first = float(frame.time) if first < 0 else first
                sound.append(frame.to_ndarray()[0])
    return frames, times, np.concatenate(sound) if sound else np.zeros(0), first


@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
def test_fragments_together_are_the_clip(pieces: int) -> None:
    clip = film()
    fragmenter = Fragmenter(fps=10, height=32, width=48, sample_rate=16000)
    data = fragmenter.init + b"".join(fragmenter.push(piece) for piece in cut(clip, pieces))
    frames, times, sound, first = read(data)
    assert times == pytest.approx([k / 10 for k in range(20)])
    assert frames[0].shape == (96, 144, 3), "small pictures are repeated up to 128 pixels"
    means = np.array([frame.mean((0, 1)) for frame in frames])
    assert np.abs(means - clip.frames[:, 0, 0]).max() < 6
    assert first == 0
    assert clip.audio is not None
    shorter = min(len(sound), len(clip.audio))
    together = np.correlate(clip.audio[:shorter], sound[:shorter], "full")
    assert abs(int(together.argmax()) - (shorter - 1)) <= 2, "sound moved against the picture"


def test_every_fragment_can_be_the_first() -> None:
    fragmenter = Fragmenter(fps=10, height=32, width=48, sample_rate=16000)
    fragments = [fragmenter.push(piece) for piece in cut(film(), 2)]
    for number in (0, 4, 9):
        frames, times, _, _ = read(fragmenter.init + fragments[number])
        assert times == pytest.approx([number / 5, number / 5 + 0.1])
        assert len(frames) == 2


def test_a_fragment_that_is_left_out_costs_its_own_time_alone() -> None:
    fragmenter = Fragmenter(fps=10, height=32, width=48, sample_rate=16000)
    fragments = [fragmenter.push(piece) for piece in cut(film(), 2)]
    _, times, _, _ = read(fragmenter.init + b"".join(fragments[:3] + fragments[5:]))
    assert times == pytest.approx([k / 10 for k in [*range(6), *range(10, 20)]])


@pytest.mark.parametrize("size", [(16, 16), (45, 31), (200, 201), (129, 64)])
def test_any_size_is_made_even(size: tuple[int, int]) -> None:
    fragmenter = Fragmenter(fps=8, height=size[0], width=size[1], sample_rate=None)
    clip = replace(film(4, size, sound=False), fps=8.0)
    frames, _, sound, _ = read(fragmenter.init + fragmenter.push(clip))
    assert all(side % 2 == 0 for side in frames[0].shape[:2])
    assert len(sound) == 0
    assert "mp4a" not in fragmenter.mime


def test_a_chunk_that_does_not_fit_is_refused() -> None:
    fragmenter = Fragmenter(fps=10, height=32, width=48, sample_rate=16000)
    with pytest.raises(InputError, match="32x32 pixels"):
        fragmenter.push(film(2, (32, 32)))
    with pytest.raises(InputError, match="AAC has"):
        Fragmenter(fps=10, height=32, width=48, sample_rate=12345)


def test_strip_shows_a_tone_in_its_band_when_it_sounds() -> None:
    spectrum, rate = SpectrumStrip(16000), 16000
    sound = np.zeros(2 * rate, np.float32)
    sound[rate:] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    pieces = [spectrum.push(piece) for piece in np.split(sound, 10)]
    columns = np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, BANDS)
    assert len(columns) == 100
    assert columns[:49].max() == 0
    loudest = columns[60:].argmax(1)
    low, high = 80 * (100 ** (loudest[0] / BANDS)), 80 * (100 ** ((loudest[0] + 1) / BANDS))
    assert low <= 1010
    assert high >= 990
    assert (loudest == loudest[0]).all()
