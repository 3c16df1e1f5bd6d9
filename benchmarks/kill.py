"""Does anything get lost by `kill -9`? The real command is killed at random moments, again and again.

    python benchmarks/kill.py prepare [--add] [--times 30] [--seed 0] [--folder FOLDER]
    python benchmarks/kill.py train [--times 30] [--seed 0] [--folder FOLDER]

Small clips are made, the command runs once undisturbed, then again and again in another folder, each time killed with
all its processes: at a random moment of its work, or when a half-written file is seen. When it has been killed often
enough and has come to its end, both folders are compared. Prints how many kills fell into which phase, what was done
twice, and a line of JSON; the exit code is 1 if anything differs.

prepare: shards, index and codec equal byte for byte, no clip encoded twice once it was finished. With --add half of
the clips are prepared before, and the others are new in the folder when the kills begin.
train: weights, moving average and optimizer of the last step equal to the bit, and every row of loss.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flowreel.config import WorldConfig
from flowreel.report import silent
from flowreel.worldfiles import write_world

STEPS, SAVE = 240, 6
Phase = Callable[[Path], str]


@dataclass
class Victim:
    """A command that writes into ``out``. ``phase`` tells from what lies there what a kill has interrupted, ``note``
    is called after each of them."""

    out: Path
    command: Callable[[int], list[str]]
    phase: Phase
    note: Callable[[], None]
    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0

    def suffer(self, times: int, rng: random.Random) -> None:
        """Run it to its end, killed ``times`` times on the way if it lasts so long."""
        while True:
            process = start(self.command(self.lives))
            self.lives += 1
            if self.kills.total() < times and self._wait(process, rng):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self.kills[self.phase(self.out)] += 1
                self.note()
            elif process.wait():
                raise SystemExit(
                    f"{' '.join(self.command(0))} failed:\n{process.stderr.read() if process.stderr else ''}"
                )
            else:
                return
            print(f"\r{self.kills.total()} of {times} kills", end="", flush=True)

    def _wait(self, process: subprocess.Popen[str], rng: random.Random) -> bool:
        """Until the moment to kill; False if the command came to its end before."""
        early = rng.random() < 0.1
        if early:
            return not ends_within(process, rng.uniform(0.1, 4), lambda: False)
        before = names(self.out)
        ends_within(process, 120, lambda: names(self.out) != before)  # it has begun to work
        if rng.random() < 0.5:
            ends_within(process, rng.uniform(0, 1.5), lambda: False)
            return process.poll() is None
        skip = rng.randrange(4)  # half-written files to let pass
        seen: set[str] = set()

        def writing() -> bool:
            seen.update(name for name in names(self.out) if half_written(name))
            return len(seen) > skip

        ends_within(process, 3, writing)
        return process.poll() is None


def start(command: list[str]) -> subprocess.Popen[str]:
    """Run flowreel in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "flowreel", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def ends_within(process: subprocess.Popen[str], seconds: float, happens: Callable[[], bool]) -> bool:
    """Wait until something happens, at most so long; whether the process has come to its end."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not happens():
        time.sleep(0.001)
    return process.poll() is not None


def names(folder: Path) -> set[str]:
    found = set()
    for where, _, files in os.walk(folder):
        found.update(os.path.join(where, name) for name in files)  # noqa: PTH118
    return found


def half_written(name: str) -> bool:
    return name.endswith(".part") or "/.tmp-" in name


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- prepare ------------------------------------------------------------------------------------------------------


def prepare(folder: Path, times: int, rng: random.Random, add: bool = False) -> dict[str, object]:
    clips, codec, whole, begun = (folder / name for name in ("clips", "codec", "whole", "begun"))
    write_world(clips, WorldConfig(count=64, seconds=6, size=64), silent)
    (clips / "train" / "bounce" / "broken.mp4").write_bytes(b"not a film")
    untrained_codec(codec)

    def command(out: Path, workers: int) -> list[str]:
        options = ["--codec", str(codec), "--size", "64", "--shard_mb", "1", "--workers", str(workers)]
        return ["prepare", str(clips), str(out), *options]

    if add:
        later = sorted(clips.rglob("*.mp4"))[::2]
        for path in later:
            path.rename(path.with_suffix(".later"))
        end(command(begun, 1))
        for path in later:
            path.with_suffix(".later").rename(path)
        shutil.copytree(begun, whole)
    end(command(whole, 1))
    kills: Counter[str] = Counter()
    rounds, equal, lost, twice = 0, True, 0, 0
    while kills.total() < times:
        out = folder / f"killed{rounds}"
        if add:
            shutil.copytree(begun, out)
        parts: dict[str, int] = {}
        done: set[str] = set()

        def note(out: Path = out, parts: dict[str, int] = parts, done: set[str] = done) -> None:
            nonlocal lost, twice
            now = {path.name: path.stat().st_ino for path in (out / ".parts").rglob("*.safetensors")}
            twice += sum(name in done or parts.get(name, inode) != inode for name, inode in now.items())
            packed = shards(out)
            done.update(name for name in parts if name not in now)
            lost += max(0, len(done) - packed)  # parts that are gone are in shards
            parts.clear()
            parts.update(now)

        victim = Victim(out, lambda life, out=out: command(out, 2 if life % 3 == 2 else 1), prepare_phase, note)
        victim.suffer(times - kills.total(), rng)
        kills += victim.kills
        equal = equal and content(out) == content(whole)
        rounds += 1
    return {
        "command": "prepare --add" if add else "prepare",
        "kills": dict(kills),
        "rounds": rounds,
        "clips encoded twice": twice,
        "clips lost": lost,
        "equal": equal and not twice and not lost,
    }


def shards(out: Path) -> int:
    """How many clips are in finished shards."""
    from flowreel.shards import read_shards

    return sum(len(records) for _, _, records in read_shards(out))


def prepare_phase(out: Path) -> str:
    if (out / "index.json").exists() and not (out / ".parts").exists():
        return "before the first clip, or after the index"
    left = {path.relative_to(out).as_posix() for path in out.rglob("*")} if out.exists() else set()
    if any(".tmp-" in name and not name.startswith(".parts") for name in left):
        return "writing codec or index"
    if any(name.endswith(".part") and not name.startswith(".parts/") for name in left):
        return "writing a shard"
    if any(name.endswith(".part") for name in left):
        return "writing a part"
    return "encoding" if any(name.endswith(".safetensors") for name in left) else "before the first clip"


# --- train --------------------------------------------------------------------------------------------------------


def train(folder: Path, times: int, rng: random.Random) -> dict[str, object]:
    clips, codec, data, whole = (folder / name for name in ("clips", "codec", "data", "whole"))
    write_world(clips, WorldConfig(count=8, seconds=3, size=32), silent)
    untrained_codec(codec)
    end(["prepare", str(clips), str(data), "--size", "32", "--codec", str(codec), "--workers", "1"])

    def command(out: Path) -> list[str]:
        sizes = {
            "model.dim": 32,
            "model.depth": 2,
            "model.heads": 2,
            "data.window": 6,
            "batch": 4,
            "objective.blocks": 1,
        }
        sizes |= {"steps": STEPS, "save": SAVE, "log": 1, "preview": 0, "validate": 0}
        roles = ["--objective.contexts", "2", "--objective.roles.context", "0.3"]
        return ["train", str(data), str(out), *(f"--{name}={value}" for name, value in sizes.items()), *roles]

    end(command(whole))
    kills: Counter[str] = Counter()
    rounds, equal, again = 0, True, 0
    while kills.total() < times:
        out = folder / f"killed{rounds}"

        def note(out: Path = out) -> None:
            nonlocal again
            saved = max((int(p.name) for p in (out / "training").glob("[0-9]*")), default=0)
            again += max(0, last_step(out) - saved)

        victim = Victim(out, lambda _, out=out: command(out), train_phase, note)
        victim.suffer(times - kills.total(), rng)
        kills += victim.kills
        last = f"training/{STEPS}"
        equal = equal and tensors(out / last) == tensors(whole / last) and curve(out) == curve(whole)
        equal = equal and tensors(out) == tensors(whole)
        rounds += 1
    steps = rounds * STEPS
    return {
        "command": "train",
        "kills": dict(kills),
        "rounds": rounds,
        "steps": steps,
        "steps done again": again,
        "equal": equal,
    }


def tensors(folder: Path) -> dict[str, bytes]:
    """The files of weights right in a folder; safetensors is the same bytes for the same numbers."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert found, f"{folder} has no weights"
    return found


def curve(run: Path) -> list[list[str]]:
    """loss.csv without what clocks say."""
    head, *rows = [line.split(",") for line in (run / "loss.csv").read_text().splitlines()]
    kept = [place for place, name in enumerate(head) if "seconds" not in name and "per_second" not in name]
    return [[row[place] for place in kept] for row in (head, *rows)]


def last_step(run: Path) -> int:
    lines = (run / "loss.csv").read_text().splitlines() if (run / "loss.csv").exists() else []
    steps = [line.split(",")[0] for line in lines[1:]]
    return int(steps[-1]) if steps and steps[-1].isdecimal() else 0


def train_phase(out: Path) -> str:
    left = {path.relative_to(out).as_posix() for path in out.rglob("*")} if out.exists() else set()
    if any(name.startswith("training/.tmp-") for name in left):
        return "writing a checkpoint"
    if any(".tmp-" in name for name in left):
        return "writing the export"
    return "training" if any(name.startswith("training/") for name in left) else "before the first step"


# --- both ---------------------------------------------------------------------------------------------------------


def untrained_codec(folder: Path) -> None:
    from flowreel.codec import Codec
    from flowreel.config import CodecConfig, Timing

    Codec(CodecConfig(), Timing(10, 0, 0)).save(folder)


def end(command: list[str]) -> None:
    """Run to the end, undisturbed."""
    process = start(command)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"flowreel {' '.join(command)} failed:\n{said}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("command", choices=["prepare", "train"])
    parser.add_argument("--add", action="store_true", help="prepare: kill it while it adds clips")
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; kept. Without it a temporary folder")
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        arguments = args.folder or Path(temporary), args.times, random.Random(args.seed)
        result = train(*arguments) if args.command == "train" else prepare(*arguments, add=args.add)
    kills = result["kills"]
    assert isinstance(kills, dict)
    print()
    for phase, count in sorted(kills.items()):
        print(f"{count:4} kills: {phase}")
    for name, value in result.items():
        if name not in ("kills", "command"):
            print(f"{name}: {value}")
    print(json.dumps({**result, "seconds": round(time.monotonic() - begun)}))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
