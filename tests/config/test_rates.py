"""Frame rates, however they are written, are the fractions that were meant."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from flowreel.config import Timing, to_dict
from flowreel.config.rates import exact_rate
from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.media.timing import samples_for
from tests.filming import even_times, make


@pytest.mark.parametrize(
    ("typed", "whole"),
    [(23.976, 24), (23.98, 24), (29.97, 30), (47.952, 48), (47.95, 48), (59.94, 60), (119.88, 120), (29.97003, 30)],
)
def test_ntsc_rates_as_people_type_them(typed: float, whole: int) -> None:
    for value in (typed, np.float64(typed), np.float32(typed), 1000 * whole / 1001, Fraction(1000 * whole, 1001)):
        assert exact_rate(value) == Fraction(1000 * whole, 1001)


@pytest.mark.parametrize("value", [25, np.int64(25), np.uint8(25), np.float32(25), np.float16(25), Fraction(25), 25.0])
def test_any_real_number_is_a_rate(value: float) -> None:
    assert exact_rate(value) == 25
    clip = Clip(np.zeros((5, 4, 4, 3), np.uint8), None, value)
    assert clip.seconds == 0.2
    assert "25/s" in repr(clip)
    assert json.loads(json.dumps(to_dict(Timing(value, 0, 0))))["fps"] == 25


@pytest.mark.parametrize("value", [23.9, 23.97, 24.0, 29.9, 29.975, 30.0, 12.5, 59.9, 60.0, 0.1])
def test_other_rates_stay(value: float) -> None:
    assert float(exact_rate(value)) == value


@pytest.mark.parametrize("value", [0, -25, True, float("nan"), float("inf"), 1001, 1e-9, "25", None, 25j, Decimal(25)])
def test_what_is_no_rate_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="fps"):
        exact_rate(value)  # type: ignore[arg-type]


def test_a_fraction_prints() -> None:
    clip = Clip(np.zeros((3, 4, 4, 3), np.uint8), None, Fraction(30000, 1001))
    assert "29.97/s" in repr(clip)
    assert clip.fps == 30000 / 1001


def test_sound_of_a_typed_rate_does_not_drift() -> None:
    hour = 107892  # frames of an hour at 30000/1001
    for frames in (1, 1001, hour):
        assert samples_for(frames, 29.97, 48000) == round(Fraction(frames * 1001 * 48000, 30000))


@pytest.mark.parametrize(("typed", "rate"), [(59.94, Fraction(60000, 1001)), (23.98, Fraction(24000, 1001))])
def test_a_typed_rate_reads_every_picture_in_its_place(tmp_path, typed: float, rate: Fraction) -> None:
    count = 1500  # more than the thousand after which a rate that is off by a millionth loses a picture
    pictures = (np.full((32, 32, 3), 255 * (n % 2), np.uint8) for n in range(count))
    make(tmp_path / "a.mp4", pictures, even_times(count, rate))
    clip = Clip.read(tmp_path / "a.mp4", fps=typed)
    assert len(clip.frames) == count
    assert np.array_equal(clip.frames[:, 8, 8, 0] > 127, np.arange(count) % 2 == 1)
    assert clip.fps == float(rate)
