"""The rank of this process, and machine settings that affect speed but not results.

Imports no torch, so that it can be used before torch is first imported.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Names of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def sleep_soon() -> None:
    """Let torch's threads sleep soon while they wait for each other, unless the environment sets it.

    GNU's OpenMP lets waiting threads spin for 300,000 iterations, which makes a busy machine more than ten times
    slower; without any spinning an idle machine has half its speed. With 2,000 iterations, a tenth of a millisecond, a
    busy machine takes about twice the time of an idle one (``benchmarks/busy.py``). OpenMP reads the setting once, when
    torch is first imported, so ``import flowreel`` must come before ``import torch``.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def keep_memory() -> bool:
    """Tell glibc to keep freed memory instead of returning it to the system; returns whether that succeeded.

    By default it returns every large tensor, so the next one of that size needs new pages: a tenth of a training step
    on the CPU. The peak memory of the process does not change. Nothing is done with other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER) and mallopt(_M_MMAP_MAX, 0))


def rank_and_world() -> tuple[int, int]:
    """The rank of this process and the number of processes, as torchrun sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
