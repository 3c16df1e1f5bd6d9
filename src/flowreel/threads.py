"""Settings of the threads that torch computes with on a CPU."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch

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
