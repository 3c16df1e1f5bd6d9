"""How rolling holds up while other programs use the processors, through the Python API.

python benchmarks/busy.py [ROUNDS]

In each round the shipped pipeline rolls alone, beside one busy program, and beside as many as there are processors. The
figures are ratios to the time alone of the same round, as machines differ. Paths in PYTHONPATH come first, so that
another version can be measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice

import flowreel
from flowreel.media import Clip


def rolling(stream: Iterator[Clip], others: int, turns: int) -> float:
    """Seconds for a second of video, at the median of ``turns``, while ``others`` programs compute."""
    command = [sys.executable, "-c", "while True: pass"]
    programs = [subprocess.Popen(command) for _ in range(others)]
    try:
        time.sleep(0.5)
        seconds = []
        for _ in range(turns):
            begun = time.perf_counter()
            chunk = next(stream)
            seconds.append((time.perf_counter() - begun) / chunk.seconds)
        return statistics.median(seconds)
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main(rounds: int = 3, pipe: str = "world", turns: int = 20) -> None:
    """A turn is a tenth of a second of video with the shipped pipeline."""
    stream = flowreel.load(pipe).stream(label=0)
    for _ in islice(stream, turns):  # the warm-up, whose time is not that of a turn
        pass
    every = sorted({0, 1, os.cpu_count() or 1})
    measured = [{others: rolling(stream, others, turns) for others in every} for _ in range(rounds)]
    for others in every:
        ratios = [one[others] / one[0] for one in measured]
        seconds = statistics.median(one[others] for one in measured)
        print(
            f"beside {others} other programs  {statistics.median(ratios):.2f} times the time alone "
            f"({min(ratios):.2f} to {max(ratios):.2f}), {1 / seconds:.2f} times real time"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
