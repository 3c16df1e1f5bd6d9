"""Settings of torch's CPU threads."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

_SHARE = 0.3  # weight of the newest count in the moving average
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def flush_denormals(on: bool = True) -> None:
    """Let every thread of torch's pool treat denormal numbers as 0; otherwise some weights make a CPU 50 times slower.

    ``torch.set_flush_denormal`` affects only the calling thread and those that are started later, not the threads that
    torch has started already.
    """
    torch.set_flush_denormal(on)
    runtime = _openmp()
    if runtime is not None and torch.get_num_threads() > 1:
        work = _WORK(lambda _: torch.set_flush_denormal(on) and None)
        runtime.GOMP_parallel(work, None, torch.get_num_threads(), 0)


class Sharing:
    """Leaves processors to other programs: a context manager around each part of long work.

    If other programs use the processors too, torch's threads wait for each other and are slower than a single one. So
    this sets their number to that of the unused processors, from one to ``most``. It is always ``most`` where the
    system does not report the threads of other programs (all but Linux). The number of threads affects how sums are
    rounded, so this is only for results that need not be identical to the bit.

    Args:
        most: number of threads, usually ``torch.get_num_threads()``.
        running: returns the number of threads of other programs that run or are ready to, None if unknown.
        processors: number of processors of the machine.
    """

    _active = 0  # parts of work that run in this process
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
    """Number of threads of other processes that run or are ready to, from Linux; None elsewhere."""
    try:
        total = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
        own = sum(_is_running(task) for task in Path("/proc/self/task").iterdir())
    except (OSError, ValueError, IndexError):
        return None
    return max(0, total - own)


def _is_running(task: Path) -> bool:
    try:
        return (task / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"R"
    except (OSError, IndexError):  # the thread has ended
        return False


@functools.cache
def _openmp() -> Any:
    """The GNU OpenMP library that torch uses, or None where it uses another one (macOS, Windows)."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[5] for line in mapped.splitlines() if "libgomp" in line.rpartition("/")[2]}
    own_first = sorted(paths, key=lambda path: ("torch" not in path, path))
    return ctypes.CDLL(own_first[0]) if own_first else None
