"""Frame rates as exact fractions: 29.97 is 30000/1001."""

from __future__ import annotations

from fractions import Fraction
from numbers import Rational, Real

from flowreel.errors import InputError

NTSC = tuple(Fraction(1000 * whole, 1001) for whole in (24, 30, 48, 60, 120))
"""The rates of NTSC video (SMPTE 12M, 170M) and their multiples, which people type as 23.976 or 29.97."""

_TYPED = {round(float(rate), digits): rate for rate in NTSC for digits in (2, 3)}
_SINGLE = 1e-6  # what a number loses as a float32, relative to itself


def exact_rate(fps: Real | float) -> Fraction:
    """``fps`` frames a second, any real number, as the fraction that was meant.

    29.97 and 29.97002997 are 30000/1001, 23.976 and 23.98 are 24000/1001. Others get a denominator up to 10000.

    Raises:
        InputError: not a number above 0 and up to 1000.
    """
    if isinstance(fps, bool) or not isinstance(fps, Real) or not 0 < float(fps) <= 1000:
        raise InputError(f"fps must be a number of frames a second above 0 and up to 1000, not {fps!r}")
    for typed, rate in _TYPED.items():
        if abs(float(fps) - typed) <= _SINGLE * typed:
            return rate
    exact = Fraction(fps) if isinstance(fps, Rational) else Fraction(float(fps))
    rate = exact.limit_denominator(10_000)
    if rate == 0:
        raise InputError(f"fps {fps!r} is too near to 0: the slowest rate is one frame in 10000 seconds")
    return rate
