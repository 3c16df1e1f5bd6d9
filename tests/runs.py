"""What runs left behind, compared."""

from __future__ import annotations

from pathlib import Path

import torch

from flowreel import checkpoint
from flowreel.report import silent


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
