"""Settings of the threads that torch computes with on a CPU."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

_SHARE = 0.3  # of the newest count in the average that decides
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def flush_denormals(on: bool = True) -> None:
    """Let every thread of torch's pool take denormal numbers as 0, as some weights make a CPU fifty times slower else.

    ``torch.set_flush_denormal`` sets the calling thread alone. Threads that are made later inherit it, but those that
    torch made before, for anything that it did in parallel, do not.
    """
    torch.set_flush_denormal(on)
    runtime = _openmp()
    if runtime is not None and torch.get_num_threads() > 1:
        work = _WORK(lambda _: torch.set_flush_denormal(on) and None)
        runtime.GOMP_parallel(work, None, torch.get_num_threads(), 0)


class Sharing:
    """Leaves processors to other programs, as a context manager around each piece of a long work.

    Threads that wait for one which another program has pushed aside are slower than one thread alone. So this thread
    computes with as many threads as there are processors that nobody else uses, from one to ``most``. Where the system
    does not say how many threads want to run (all but Linux), with ``most``. With another number of threads, sums are
    rounded otherwise: this is for what need not be the same to the bit.

    Args:
        most: threads, as many as ``torch.get_num_threads()`` gives unless something else was chosen.
        running: gives how many threads of other programs are running or want to, None where nothing tells.
        processors: of the machine.
    """

    _active = 0  # pieces of work of this process
    _lock = threading.Lock()

    def __init__(
        self, most: int, running: Callable[[], int | None] | None = None, processors: int | None = None
    ) -> None:
        self._most, self._running = most, running or others_running
        self._processors = processors or os.cpu_count() or 1
        self._others: float | None = None

    def __enter__(self) -> Self:
        kind = type(self)
        with kind._lock:
            beside = kind._active
            kind._active += 1
        running = self._running() if self._most > 1 else None
        if running is None:
            _set(self._most)
            return self
        now = running + beside
        self._others = now if self._others is None else self._others + _SHARE * (now - self._others)
        _set(min(self._most, max(1, self._processors - int(self._others + 0.5))))
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            type(self)._active -= 1


def _set(count: int) -> None:
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def others_running() -> int | None:
    """How many threads of other processes are running or want to, as Linux counts them; None elsewhere."""
    try:
        everyone = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
        own = sum(_is_running(task) for task in Path("/proc/self/task").iterdir())
    except (OSError, ValueError, IndexError):
        return None
    return max(0, everyone - own)


def _is_running(task: Path) -> bool:
    try:
        return (task / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"R"
    except (OSError, IndexError):  # the thread has ended
        return False


@functools.cache
def _openmp() -> Any:
    """GNU's OpenMP library that torch runs its threads with, or None where it has another (macOS, Windows)."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in mapped.splitlines() if "libgomp" in line.rpartition("/")[2]}
    own_first = sorted(paths, key=lambda path: ("torch" not in path, path))
    return ctypes.CDLL(own_first[0]) if own_first else None
