"""How long a new user waits: `flowreel generate` from nothing to its first line and its first solver step.

python benchmarks/cold_start.py [ROUNDS]

Each round times `import torch` in a process of its own too, and the figures are ratios to it, as machines differ. Paths
in PYTHONPATH come first, so that another version can be measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = ["generate", "world", "--label", "rain", "--seconds", "1", "--out"]

# Says when the network is first called: wraps it as soon as its module has been imported.
WATCHED = """
import importlib.abc, importlib.machinery, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "flowreel.models.modulation_cache":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            call = module.CachedModulation.__call__
            def first(*arguments, **named):
                print("FIRST STEP", file=sys.stderr, flush=True)
                module.CachedModulation.__call__ = call
                return call(*arguments, **named)
            module.CachedModulation.__call__ = first
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Watch())
from flowreel.cli import main
sys.exit(main(sys.argv[1:]))
"""


def importing() -> float:
    """Seconds from nothing until a process has imported torch."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", "import torch; print('there', flush=True)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return time.perf_counter() - begun


def generating(out: Path) -> tuple[float, float, float]:
    """Seconds until `flowreel generate` says something, until its first solver step, and until it is done."""
    begun, line, step = time.perf_counter(), 0.0, 0.0
    command = [sys.executable, "-c", WATCHED, *COMMAND, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            now = time.perf_counter() - begun
            if "FIRST STEP" in text:
                step = step or now
            else:
                line = line or now
    assert process.returncode == 0, f"flowreel ended with {process.returncode}"
    return line, step, time.perf_counter() - begun


def main(rounds: int = 5) -> None:
    figures: dict[str, list[float]] = {
        "import torch": [],
        "first line": [],
        "first solver step": [],
        "1 s of video": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds + 1):  # the first fills the disk cache
            measured = (importing(), *generating(Path(folder) / "a.mp4"))
            for values, value in zip(figures.values(), measured, strict=True):
                values.append(value)
    torch = statistics.median(figures["import torch"][1:])
    for name, values in figures.items():
        median = statistics.median(values[1:])
        print(f"{name:18s} {median:6.2f} s   {median / torch:5.2f} x import torch")
    print(f"median of {rounds} rounds, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
