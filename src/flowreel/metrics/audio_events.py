"""Finds the notes in audio: when, which and how loud.

The energy around each note's fundamental is followed over time (Hann windows of 60 ms, every 5 ms); an onset is where
the energy after an instant is above all that was there shortly before (the flux of energy, Bello et al., A Tutorial on
Onset Detection in Music Signals, 2005, in one band per note). Energy, not its logarithm: what is far below the loudest
note of a clip is no event. The instant itself is found again at 1 ms with windows of 10 ms.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from flowreel.errors import InputError
from flowreel.metrics.events import Found
from flowreel.world.scenes import NOTES

QUIETEST = 0.02
"""Amplitude (full scale 1) below which nothing is a note: -34 dBFS."""
RELATIVE = 0.2
"""Of the loudest note of the clip (-14 dB). The quietest note of the world has half the amplitude of the loudest."""

_HOP = 0.005
_WINDOW = 0.06
_AHEAD = 0.045  # from an onset to the middle of the first window that is wholly after it, and a little more
_PAST = 0.12  # how far back a rise must not have been there before: flutter of one decay is no second onset
_APART = 0.09  # between two onsets of one note
_BLIND = 0.03  # at the ends: a sound that is cut off is heard in every band
_TOGETHER = 0.07  # onsets of several notes nearer than this are looked at together
_LEAK = 0.35  # of the amplitude of the loudest of them: what is less is its transient, not another note
_PURE = 0.035  # share of a pitch by which a sound may be off it
_LOWEST_RATE = 4000


def find_audio_events(audio: np.ndarray | None, sample_rate: int) -> list[Found]:
    """The notes that are struck in ``audio`` (S,) float in [-1, 1], in order of time; none in no sound.

    A pitch between 490 and 940 Hz that is none of the five has note -1. Strength is the amplitude of the fundamental
    45 ms after the onset. Onsets in the first 50 ms may be missed, those in the last 30 ms are.

    Raises:
        InputError: a sample rate below 4000 Hz.
    """
    if sample_rate < _LOWEST_RATE:
        raise InputError(f"notes are heard at {_LOWEST_RATE} samples a second and more, not {sample_rate}")
    if audio is None or len(audio) < _WINDOW * sample_rate:
        return []
    frequencies, bands = _bands()
    spectrum = _amplitudes(audio, sample_rate, frequencies)  # (N, F)
    energy = np.stack([(spectrum[:, band] ** 2).max(axis=1) for band in bands], axis=1)  # (N, notes)
    blind = round(_BLIND / _HOP)
    energy[:blind] = energy[min(blind, len(energy) - 1)]  # a note that rings at the start is no onset
    rises = _rises(energy)
    rises[max(0, len(rises) - blind) :] = 0
    loudest = math.sqrt(max(0.0, float(rises.max())))
    least = max(QUIETEST, RELATIVE * loudest) ** 2
    onsets = [
        (index, note) for note in range(len(NOTES)) for index in _peaks(rises[:, note], round(_APART / _HOP), least)
    ]
    found = []
    for index, note in _strongest(onsets, rises):
        pitch = _pitch(spectrum[min(len(spectrum) - 1, index + round(_AHEAD / _HOP))], frequencies, bands[note])
        if pitch is None:
            continue
        near = abs(pitch / NOTES[note].pitch - 1) <= _PURE
        time = _instant(audio, sample_rate, index * _HOP, pitch)
        found.append(Found(time, note if near else -1, math.sqrt(float(rises[index, note]))))
    return sorted(found)


def _bands() -> tuple[np.ndarray, list[np.ndarray]]:
    """Frequencies every 8 Hz, and for each note which of them are its own: up to half way to its neighbours. The first
    and the last are nobody's."""
    pitches = [note.pitch for note in NOTES]
    edges = [490.0, *(math.sqrt(a * b) for a, b in pairwise(pitches)), 940.0]
    frequencies = np.arange(edges[0] - 8, edges[-1] + 8, 8.0)
    return frequencies, [np.flatnonzero((frequencies >= low) & (frequencies < high)) for low, high in pairwise(edges)]


def _amplitudes(
    audio: np.ndarray, sample_rate: int, frequencies: np.ndarray, window: float = _WINDOW, hop: float = _HOP
) -> np.ndarray:
    """Amplitudes (N, F) of sinusoids at ``frequencies`` in windows centred at n * ``hop`` seconds.

    Before the start and after the end is silence.
    """
    half = max(1, round(window * sample_rate / 2))
    count = int(len(audio) / sample_rate / hop) + 1
    padded = np.pad(audio, (half, half + 1))
    starts = np.minimum(np.round(np.arange(count) * hop * sample_rate).astype(int), len(padded) - 2 * half)
    time = (np.arange(2 * half) + 0.5 - half) / sample_rate
    shape = np.hanning(2 * half + 2)[1:-1]
    waves = shape * np.exp(-2j * np.pi * frequencies[:, None] * time) * (2 / shape.sum())
    basis = np.concatenate([waves.real, waves.imag]).T.astype(np.float32)  # (window, 2F)
    views = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    parts = [views[some] @ basis for some in np.array_split(starts, max(1, count // 1000))]
    real, imaginary = np.split(np.concatenate(parts), 2, axis=1)
    return np.hypot(real, imaginary)


def _rises(energy: np.ndarray) -> np.ndarray:
    """By how much the energy (N, notes) after each instant exceeds the most there was before it; 0 unless it is at
    least doubled."""
    ahead, past = round(_AHEAD / _HOP), round(_PAST / _HOP)
    count = len(energy)
    first, last = np.repeat(energy[:1], past, axis=0), np.zeros((ahead, energy.shape[1]), energy.dtype)
    padded = np.concatenate([first, energy, last])
    after = padded[past + ahead : past + ahead + count]
    shifts = range(ahead, past + 1)
    before = np.max([padded[past - shift : past - shift + count] for shift in shifts], axis=0)
    return np.where(after > 2 * before, after - before, 0)


def _peaks(values: np.ndarray, apart: int, least: float) -> list[int]:
    """Indices of the largest of ``values`` (N,) above ``least``, none within ``apart`` of a larger one."""
    kept: list[int] = []
    for index in np.argsort(-values, kind="stable"):
        if values[index] <= least:
            break
        if all(abs(index - other) >= apart for other in kept):
            kept.append(int(index))
    return kept


def _strongest(onsets: list[tuple[int, int]], rises: np.ndarray) -> list[tuple[int, int]]:
    """``onsets`` (index, note) without those that are the transient of a louder one beside them."""
    kept: list[tuple[int, int]] = []
    for index, note in sorted(onsets, key=lambda onset: -rises[onset]):
        louder = [rises[other] for other in kept if abs(other[0] - index) * _HOP <= _TOGETHER]
        if not louder or rises[index, note] >= _LEAK**2 * max(louder):
            kept.append((index, note))
    return kept


def _pitch(spectrum: np.ndarray, frequencies: np.ndarray, band: np.ndarray) -> float | None:
    """The frequency in Hz of the peak of ``spectrum`` (F,) in ``band``, between the bins; None if the peak is outside
    and the band has its slope."""
    top = int(band[spectrum[band].argmax()])
    low, middle, high = spectrum[top - 1 : top + 2].astype(float)
    if max(low, high) > middle:
        return None
    curve = low - 2 * middle + high
    shift = 0.5 * (low - high) / curve if curve < 0 else 0.0
    return float(frequencies[top] + shift * (frequencies[1] - frequencies[0]))


def _instant(audio: np.ndarray, sample_rate: int, around: float, pitch: float) -> float:
    """Where within 60 ms of ``around`` the energy at ``pitch`` in the next 20 ms exceeds that in the last 20 ms most,
    in seconds."""
    hop, reach, side = 0.001, 0.06, 20
    start = max(0, round((around - reach - 0.03) * sample_rate))
    part = audio[start : round((around + reach + 0.03) * sample_rate)]
    energy = _amplitudes(part, sample_rate, np.array([pitch]), window=0.01, hop=hop)[:, 0] ** 2
    total = np.concatenate([[0.0], np.cumsum(energy, dtype=float)])
    middle = np.arange(len(energy))
    after = total[np.minimum(middle + side + 1, len(energy))] - total[middle]
    before = total[middle + 1] - total[np.maximum(middle - side, 0)]
    near = np.abs(start / sample_rate + middle * hop - around) <= reach
    return start / sample_rate + hop * int(np.where(near, after - before, -np.inf).argmax())
