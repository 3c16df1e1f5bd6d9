"""The place of this process among others, and settings of the machine that change speed and no number.

Torch-free, so that it can be used before torch is first imported.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Names of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def sleep_soon() -> None:
    """Let torch's threads sleep soon while they wait for each other, unless the environment says otherwise.

    Threads that wait by spinning, as GNU's OpenMP lets them for 300,000 turns, make a busy machine ten times slower and
    more; threads that do not spin at all make an idle one half as fast. With 2,000 turns, a tenth of a millisecond, a
    busy machine is about twice as slow as an idle one (``benchmarks/busy.py``). OpenMP reads it once, when torch is
    first imported, so that ``import flowreel`` has to come before ``import torch``.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def keep_memory() -> bool:
    """Tell glibc not to give freed memory back to the system, and say whether it heard.

    It otherwise does so with every large tensor, and the next one of that size is paid for page by page: a tenth of a
    training step on the CPU. The most that the process ever used at once does not change. Elsewhere nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER) and mallopt(_M_MMAP_MAX, 0))


def rank_and_world() -> tuple[int, int]:
    """The rank of this process and the number of processes, as torchrun sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
