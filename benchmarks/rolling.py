"""Does rolling stay flat? Memory and time per frame while a small audio-video model rolls for thousands of frames.

    python benchmarks/rolling.py [--frames 2000] [--steps 2] [--context 2]

Random weights, on the CPU, through the one sampler, with the plans of the recurring times remembered. Prints a table
and one line of JSON. Memory is what the process has resident; time is the median over the last frames before a mark.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch

from flowreel.config import LatentShape, ModelConfig
from flowreel.flow.guidance import classifier_free
from flowreel.flow.noise import SampleNoise
from flowreel.flow.sampling import stream
from flowreel.models import CachedModulation, build

MARKS = (100, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
RECENT = 100
SHAPE = LatentShape(channels=8, height=8, width=8, mel_bins=64, mel_steps=10, fps=10)
MODEL = ModelConfig(kind="flav", dim=64, depth=3, heads=4, patch=2, positions="rope")
WINDOW, CLASSES = 8, 4


def resident_mb() -> float:
    """Memory of this process in MB: resident now where /proc tells it, else the most there has been."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def roll(frames: int, steps: int, context: int, guidance: float) -> list[dict[str, float]]:
    """Roll ``frames`` frames and measure at every mark on the way."""
    torch.manual_seed(0)
    model = build(MODEL, SHAPE, CLASSES, WINDOW).eval()
    with torch.no_grad():  # fresh networks give zero velocity: move them, gently enough for a long roll
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    velocity = classifier_free(CachedModulation(model, entries=steps + 1), torch.zeros(1, dtype=torch.long), guidance)
    rolling = stream(velocity, SampleNoise([0], SHAPE.streams), WINDOW, steps, context=context)
    marks, rows, recent = {*(m for m in MARKS if m < frames), frames}, [], deque[float](maxlen=RECENT)
    for frame in range(1, frames + 1):
        start = time.perf_counter()
        next(rolling)
        recent.append(time.perf_counter() - start)
        if frame in marks:
            rows.append({"frame": frame, "mb": resident_mb(), "ms": 1000 * statistics.median(recent)})
            print(f"{frame:8} {rows[-1]['mb']:12.1f} {rows[-1]['ms']:12.2f}", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if memory and time are flat, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=2, help="solver steps per frame")
    parser.add_argument("--context", type=int, default=2, help="finished frames kept in the window")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    print(f"{'frame':>8} {'resident MB':>12} {'ms per frame':>12}")
    rows = roll(options.frames, options.steps, options.context, options.guidance)
    grown, slower = rows[-1]["mb"] - rows[0]["mb"], rows[-1]["ms"] / rows[0]["ms"]
    flat = {"memory": grown < max(4.0, 0.02 * rows[0]["mb"]), "time": slower < 1.25}
    for name, change in (("memory", f"{grown:+.1f} MB"), ("time", f"x {slower:.2f}")):
        print(f"{name} is {'flat' if flat[name] else 'NOT FLAT'}: {change} from frame {rows[0]['frame']} on")
    print(json.dumps({"benchmark": "rolling", **vars(options), "rows": rows, "flat": flat}))
    return 0 if all(flat.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
