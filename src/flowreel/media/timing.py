"""Counts the audio samples that go with frames, and checks sample rates."""

from __future__ import annotations

from numbers import Real

import numpy as np

from flowreel.config.rates import exact_rate
from flowreel.errors import InputError


def samples_for(frames: int, fps: Real | float, sample_rate: int) -> int:
    """Audio samples that ``frames`` frames last, to the nearest whole sample."""
    return round(frames * int(sample_rate) / exact_rate(fps))


def check_sample_rate(rate: int) -> None:
    """InputError unless ``rate`` is a whole number of Hz that audio can have."""
    if not isinstance(rate, (int, np.integer)) or isinstance(rate, bool) or not 1 <= rate <= 768_000:
        raise InputError(f"sample_rate must be a whole number of Hz from 1 to 768000, not {rate!r}")
