"""The loudness of a stream's audio in bands, column by column: drawn under the video."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

BANDS = 48
HOP = 0.02
LOWEST = 80.0
QUIET, LOUD = -75.0, -15.0
"""dB below a full-scale sine that are drawn as 0 and as 255."""


class SpectrumStrip:
    """Columns of :data:`BANDS` bytes, one for every :data:`HOP` seconds, of chunks that follow each other."""

    def __init__(self, sample_rate: int) -> None:
        self._hop, self._size = round(HOP * sample_rate), 4 * round(HOP * sample_rate)
        self._window = np.hanning(self._size).astype(np.float32)
        self._before = np.zeros(self._size - self._hop, np.float32)
        edges = np.geomspace(LOWEST, sample_rate / 2, BANDS + 1) * self._size / sample_rate
        places = np.arange(self._size // 2 + 1)
        # every band has at least the bin that is nearest to its middle
        self._bands = np.stack(
            [(places >= low) & (places < high) | (places == round((low + high) / 2)) for low, high in pairwise(edges)]
        )

    def push(self, samples: np.ndarray) -> bytes:
        """(S,) -> the columns of all samples that are whole steps, from low to high bands, column after column."""
        held = np.concatenate([self._before, samples])
        columns = (len(held) - self._size) // self._hop + 1
        if columns <= 0:
            self._before = held
            return b""
        windows = np.lib.stride_tricks.sliding_window_view(held, self._size)[:: self._hop][:columns]
        self._before = held[columns * self._hop :]
        power = np.abs(np.fft.rfft(windows * self._window)) / (self._window.sum() / 2)
        loudest = np.stack([power[:, band].max(1) for band in self._bands], axis=1)
        level = (20 * np.log10(np.maximum(loudest, 1e-6)) - QUIET) / (LOUD - QUIET)
        return np.round(level.clip(0, 1) * 255).astype(np.uint8).tobytes()
