"""Every thread that torch computes with takes denormal numbers as 0."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flowreel.utils import threads

CODE = """
import torch
torch.set_num_threads(3)
def denormals():
    small = torch.full((3_000_000,), 1e-30)
    return int(((small * 1e-10) != 0).sum())  # 1e-40 is a denormal
before = denormals()  # which starts the threads
from flowreel.utils import threads
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


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Alone(threads.Sharing):
    """Does not know of generations that run beside the tests."""

    _active = 0
    _lock = threading.Lock()


@pytest.mark.parametrize(
    ("running", "processors", "expected"),
    [(0, 4, 4), (1, 4, 3), (3, 4, 1), (40, 4, 1), (3, 64, 4), (62, 64, 2), (None, 4, 4)],
)
def test_as_many_threads_as_processors_are_left(running: int | None, processors: int, expected: int) -> None:
    sharing = Alone(4, lambda: running, processors)
    for _ in range(3):
        with sharing:
            assert torch.get_num_threads() == expected


def test_a_program_that_comes_or_goes_is_noticed_in_some_turns() -> None:
    seen: list[int] = []
    sharing = Alone(4, lambda: 3 if 2 <= len(seen) < 12 else 0, 4)
    for _ in range(24):
        with sharing:
            seen.append(torch.get_num_threads())
    assert seen[:3] == [4, 4, 3]
    assert seen[11] == 1
    assert seen[-1] == 4


def test_what_this_process_does_beside_is_counted() -> None:
    def nobody() -> int:
        return 0

    with Alone(4, nobody, 4), Alone(4, nobody, 4):
        assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), Alone(4, nobody, 4):
        _ = 1 / 0
    with Alone(4, nobody, 4):
        assert torch.get_num_threads() == 4


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="only Linux says how many threads want to run")
def test_our_own_threads_are_not_counted_among_the_others() -> None:
    own = [threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 500_000)) for _ in range(8)]
    for thread in own:  # which compute without holding the interpreter
        thread.start()
    left_out = [0]
    while any(thread.is_alive() for thread in own):
        everyone = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
        left_out.append(everyone - threads.others_running())
    assert max(left_out) >= 8
