"""Every thread that torch computes with takes denormal numbers as 0."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import torch
torch.set_num_threads(3)
def denormals():
    small = torch.full((3_000_000,), 1e-30)
    return int(((small * 1e-10) != 0).sum())  # 1e-40 is a denormal
before = denormals()  # which starts the threads
from flowreel import threads
if threads._openmp() is None:
    print("skip")
else:
    torch.set_flush_denormal(True)
    some = denormals()
    threads.flush_denormals()
    none = denormals()
    threads.flush_denormals(False)
    print(before, some, none, denormals())
"""


def test_threads_from_before_flush_denormals_too() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    if run.stdout.strip() == "skip":
        pytest.skip("torch has no threads of GNU's OpenMP here")
    before, some, none, after = map(int, run.stdout.split())
    assert before == after == 3_000_000
    assert 0 < some < before  # what torch's own function reaches: the calling thread
    assert none == 0
