"""Stored settings: what may differ when work is resumed, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowreel.errors import InputError
from flowreel.utils.resume import SHOWN, check_unchanged

BEFORE: dict[str, Any] = {"steps": 4, "seed": 0, "optim": {"lr": 0.1, "accumulate": 1}, "size": [64, 64]}


def differences(before: dict[str, Any], now: dict[str, Any], **options: Any) -> list[str]:
    """What the message lists; nothing where the settings are the same."""
    try:
        check_unchanged(Path("out"), before, now, "was made", **options)
    except InputError as error:
        head, *listed, tail = str(error).splitlines()
        assert head == "out was made with other settings:"
        assert tail == "Give the same settings to resume it, choose another folder, or delete it to start again."
        return [line.strip() for line in listed]
    return []


def test_the_same_settings_pass_whether_as_tuples_or_lists():
    assert differences(BEFORE, {**BEFORE, "size": (64, 64)}) == []


def test_settings_that_differ_are_listed_unless_free():
    now = {"steps": 5, "seed": 4, "optim": {"lr": 0.2, "accumulate": 2}, "size": [64, 64]}
    free = {"steps", "optim.accumulate"}
    assert differences(BEFORE, now, free=free) == ["optim.lr: was 0.1, now 0.2", "seed: was 0, now 4"]
    assert differences(BEFORE, now, free=free | {"optim.lr", "seed"}) == []


def test_settings_of_one_side_alone_differ_unless_only_shared_ones_count():
    now = {**BEFORE, "flip": True}
    assert differences(BEFORE, now) == ["flip: was not there, now True"]
    assert differences(now, BEFORE) == ["flip: was True, now not there"]
    assert differences(BEFORE, now, only_shared=True) == []


def test_a_long_list_is_cut():
    listed = differences({}, {f"clip{number}": number for number in range(SHOWN + 3)})
    assert len(listed) == SHOWN + 1
    assert listed[-1] == "and 3 more"


@pytest.mark.parametrize("value", [0, False, "", 0.0])
def test_a_value_that_counts_as_false_is_shown(value: Any):
    assert differences({"x": value}, {"x": 1.5}) == [f"x: was {value}, now 1.5"]
