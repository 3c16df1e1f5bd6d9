"""Settings for the machine that a command runs on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("resource")

CODE = """
import resource, torch
from flowreel.utils import runtime
heard = runtime.keep_memory() if {keep} else None
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(15)
print(heard, faults(15))
"""


def faults(keep: bool) -> tuple[str, int]:
    """What keep_memory said, and how many pages the system gave for fifteen tensors of 40 MB, one after the other."""
    run = subprocess.run([sys.executable, "-c", CODE.format(keep=keep)], capture_output=True, text=True, check=True)
    heard, count = run.stdout.split()
    return heard, int(count)


def test_freed_memory_is_used_again() -> None:
    heard, count = faults(keep=True)
    if heard != "True":
        pytest.skip("this system's C library can't be told")
    assert count < faults(keep=False)[1] / 4


@pytest.mark.parametrize(("before", "after"), [(None, "2000"), ("30000", "30000")])
def test_importing_sets_how_long_threads_spin(before: str | None, after: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": before} if before else {}
    code = "import flowreel, os; print(os.environ['GOMP_SPINCOUNT'])"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == after
