"""Comparisons of finished training runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flowreel.training import checkpoint
from flowreel.utils.reporting import silent
from tests.kills import content


def same(first: Path, second: Path) -> bool:
    """Whether the newest checkpoints of two runs are of one step and equal to the bit."""
    a, b = (checkpoint.latest(run, silent) for run in (first, second))
    assert a is not None
    assert b is not None
    return a.step == b.step and all(
        a.parts[name].keys() == b.parts[name].keys()
        and all(torch.equal(value, b.parts[name][key]) for key, value in a.parts[name].items())
        for name in a.parts
    )


def check_shown_again(run: Path, again: Callable[[], Any]) -> None:
    """Check that ``again`` brings a finished run, killed after its last checkpoint, to the same bytes as before."""
    whole = content(run)
    step = checkpoint.steps(run)[-1]
    shutil.rmtree(run / "previews" / str(step))
    (run / "loss.png").unlink()
    validation = run / "validation.csv"
    if validation.exists():
        lines = validation.read_text().splitlines(keepends=True)
        assert lines[-1].startswith(f"{step},")
        validation.write_text("".join(lines[:-1]))
    checkpoint.mark_exported(run, step)
    again()
    now = content(run)
    assert sorted(now) == sorted(whole)
    assert [name for name in whole if now[name] != whole[name]] == []
