"""Reading clips against decoding them and nothing else, in one thread: CPU time and its ratio, interleaved.

    python benchmarks/media.py FOLDER [--size 64] [--fps 10] [--rounds 5] [--json FILE]

Every file is decoded whole by PyAV, picture and sound, then read by ``iterate``; medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av

from flowreel.data.sources import find_clips
from flowreel.media import demux, iterate


def plain(path: Path) -> None:
    """Decode every frame and every sample, and let them go."""
    with av.open(str(path)) as container:
        streams = [container.streams.video[0], *container.streams.audio[:1]]
        for stream in streams:
            stream.codec_context.thread_count = 1
        for _ in container.decode(*streams):
            pass


def read(path: Path, size: int, fps: float) -> None:
    for _ in iterate(path, size=size, fps=fps):
        pass


def seconds(work: Callable[[], None]) -> float:
    """CPU time, which other programs on the machine disturb less than the clock."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--fps", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    demux.threads = 1
    paths = [source.path for source in find_clips(args.folder)]
    taken: dict[Path, list[tuple[float, float]]] = {path: [] for path in paths}
    for _ in range(args.rounds):
        for path in paths:
            taken[path].append(
                (seconds(lambda path=path: plain(path)), seconds(lambda path=path: read(path, args.size, args.fps)))
            )
    rows = {
        path.relative_to(args.folder).as_posix(): [statistics.median(times) for times in zip(*pairs, strict=True)]
        for path, pairs in taken.items()
    }
    rows["all"] = [sum(row[side] for row in rows.values()) for side in (0, 1)]
    print(f"{'file':60s} {'decode ms':>10s} {'read ms':>10s} {'ratio':>6s}")
    for name, (decode, whole) in rows.items():
        print(f"{name:60s} {1e3 * decode:10.1f} {1e3 * whole:10.1f} {decode / whole:6.2f}")
    if args.json:
        table = {name: {"decode": d, "read": r, "ratio": d / r} for name, (d, r) in rows.items()}
        args.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
