"""Does anything get lost by `kill -9`? The real command is killed at random moments, again and again.

    python benchmarks/kill.py prepare [--add] [--times 30] [--clips 64] [--seed 0] [--folder FOLDER]
    python benchmarks/kill.py train [--times 30] [--clips 8] [--steps 240] [--seed 0] [--folder FOLDER]
    python benchmarks/kill.py fit [--times 30] [--clips 8] [--steps 700] [--seed 0] [--folder FOLDER]

Small clips are made, the command runs once undisturbed, then again and again in another folder, each time killed with
all its processes: at a random moment of its work, or when a half-written file is seen. When it has been killed often
enough and has come to its end, both folders are compared: all files are equal byte for byte, but for the seconds that a
training notes. Prints how many kills fell into which phase, what was done twice, and a line of JSON; the exit code is 1
if anything differs.

prepare: no clip is encoded twice once it was finished. With --add half of the clips are prepared before, and the others
are new in the folder when the kills begin.
train: checkpoints, curves, validation and previews are compared too.
fit: prepare without a codec, which first fits one.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowreel.config import WorldConfig
from flowreel.utils.reporting import silent
from flowreel.world.export import write_world

SAVE = 6
Phase = Callable[[Path], str]


@dataclass
class Victim:
    """A command that writes into ``out`` and ``lasts`` so many seconds.

    ``phase`` tells from what lies there what a kill has interrupted, ``note`` is called after each of them."""

    out: Path
    command: Callable[[int], list[str]]
    phase: Phase
    note: Callable[[], None]
    lasts: float
    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0

    def suffer(self, times: int, rng: random.Random) -> None:
        """Run it to its end, killed ``times`` times on the way if it lasts so long."""
        while True:
            with start(self.command(self.lives)) as process:
                self.lives += 1
                if self.kills.total() < times and self._wait(process, rng):
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    self.kills[self.phase(self.out)] += 1
                    self.note()
                else:
                    _, said = process.communicate()
                    if process.returncode:
                        raise SystemExit(f"flowreel {' '.join(self.command(0))} failed:\n{said}")
                    return
            print(f"\r{self.kills.total()} of {times} kills", end="", flush=True)

    def _wait(self, process: subprocess.Popen[str], rng: random.Random) -> bool:
        """Until the moment to kill; False if the command came to its end before."""
        early = rng.random() < 0.1
        if early:
            return not ends_within(process, rng.uniform(0.1, min(4, self.lasts)), lambda: False)
        before = names(self.out)
        ends_within(process, 120, lambda: names(self.out) != before)  # it has begun to work
        if rng.random() < 0.5:
            ends_within(process, rng.uniform(0, min(1.5, self.lasts / 4)), lambda: False)
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
    """Every file with its bytes, but without the seconds that a training notes."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: timeless(path) for name, path in files.items()}


def timeless(path: Path) -> bytes:
    if path.name == "loss.csv":
        head, *rows = [line.split(",") for line in path.read_text().splitlines()]
        kept = [place for place, name in enumerate(head) if name != "seconds"]
        return json.dumps([[row[place] for place in kept] for row in (head, *rows)]).encode()
    if path.name == "state.json":
        return json.dumps(json.loads(path.read_bytes()) | {"seconds": None}).encode()
    return path.read_bytes()


def compare(
    folder: Path,
    command: Callable[[Path, int], list[str]],
    times: int,
    rng: random.Random,
    phase: Phase,
    noting: Callable[[Path], Callable[[], None]],
    begun: Path | None = None,
) -> dict[str, Any]:
    """Run ``command(out, life)`` undisturbed, then in other folders until there were so many kills, each beginning with
    what is in ``begun``. ``noting(out)`` gives what is called after each kill."""
    whole = folder / "whole" / "out"  # its name is in pictures
    if begun:
        shutil.copytree(begun, whole)
    start = time.monotonic()
    end(command(whole, 0))
    lasts = time.monotonic() - start
    kills: Counter[str] = Counter()
    rounds, differing = 0, set()
    while kills.total() < times:
        out = folder / f"killed{rounds}" / "out"
        if begun:
            shutil.copytree(begun, out)
        victim = Victim(out, lambda life, out=out: command(out, life), phase, noting(out), lasts)
        victim.suffer(times - kills.total(), rng)
        kills += victim.kills
        differing |= {name for name, _ in content(out).items() ^ content(whole).items()}
        rounds += 1
    return {"kills": dict(kills), "rounds": rounds, "differing": sorted(differing), "equal": not differing}


# --- prepare ------------------------------------------------------------------------------------------------------


def prepare(folder: Path, times: int, rng: random.Random, count: int, add: bool = False) -> dict[str, Any]:
    clips, codec, begun = (folder / name for name in ("clips", "codec", "begun"))
    write_world(clips, WorldConfig(count=count, seconds=6, size=64), silent)
    (clips / "train" / "bounce" / "broken.mp4").write_bytes(b"not a film")
    untrained_codec(codec)

    def command(out: Path, life: int) -> list[str]:
        workers = 2 if life % 3 == 2 else 1
        options = ["--codec", str(codec), "--size", "64", "--workers", str(workers)]
        return ["prepare", str(clips), str(out), *options]

    if add:
        later = sorted(clips.rglob("*.mp4"))[::2]
        for path in later:
            path.rename(path.with_suffix(".later"))
        end(command(begun, 0))
        for path in later:
            path.with_suffix(".later").rename(path)
    lost, twice = 0, 0

    def noting(out: Path) -> Callable[[], None]:
        parts: dict[str, int] = {}
        done: set[str] = set()

        def note() -> None:
            nonlocal lost, twice
            now = {path.name: path.stat().st_ino for path in (out / ".parts").rglob("*.safetensors")}
            twice += sum(name in done or parts.get(name, inode) != inode for name, inode in now.items())
            packed = shards(out)
            done.update(name for name in parts if name not in now)
            lost += max(0, len(done) - packed)  # parts that are gone are in shards
            parts.clear()
            parts.update(now)

        return note

    figures = compare(folder, command, times, rng, prepare_phase, noting, begun if add else None)
    figures["equal"] = figures["equal"] and not twice and not lost
    named = {"command": "prepare --add" if add else "prepare"}
    return named | figures | {"clips encoded twice": twice, "clips lost": lost}


def shards(out: Path) -> int:
    """How many clips are in finished shards."""
    from flowreel.data.shards import read_shards

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


def train(folder: Path, times: int, rng: random.Random, count: int, steps: int) -> dict[str, Any]:
    clips, codec, data = (folder / name for name in ("clips", "codec", "data"))
    write_world(clips, WorldConfig(count=count, test=0.25, seconds=3, size=32), silent)
    untrained_codec(codec)
    end(["prepare", str(clips), str(data), "--size", "32", "--codec", str(codec), "--workers", "1"])

    def command(out: Path, _: int) -> list[str]:
        sizes = {
            "model.dim": 32,
            "model.depth": 2,
            "model.heads": 2,
            "data.window": 6,
            "batch": 4,
            "objective.blocks": 1,
        }
        sizes |= {"steps": steps, "save": SAVE, "log": 1, "preview": SAVE, "validate": SAVE, "data.validation": 4}
        roles = ["--objective.contexts", "2", "--objective.roles.context", "0.3"]
        return ["train", str(data), str(out), *(f"--{name}={value}" for name, value in sizes.items()), *roles]

    again = 0

    def noting(out: Path) -> Callable[[], None]:
        def note() -> None:
            nonlocal again
            saved = max((int(p.name) for p in (out / "training").glob("[0-9]*")), default=0)
            again += max(0, last_step(out) - saved)

        return note

    figures = compare(folder, command, times, rng, train_phase, noting)
    return {"command": "train"} | figures | {"steps": figures["rounds"] * steps, "steps done again": again}


def last_step(run: Path) -> int:
    lines = (run / "loss.csv").read_text().splitlines() if (run / "loss.csv").exists() else []
    steps = [line.split(",")[0] for line in lines[1:]]
    return int(steps[-1]) if steps and steps[-1].isdecimal() else 0


def train_phase(out: Path) -> str:
    left = {path.relative_to(out).as_posix() for path in out.rglob("*")} if out.exists() else set()
    if any(name.startswith("training/.tmp-") for name in left):
        return "writing a checkpoint"
    if any(name.startswith("previews/.tmp-") for name in left):
        return "writing a preview"
    if any(".tmp-" in name for name in left):
        return "writing the export"
    return "training" if any(name.startswith("training/") for name in left) else "before the first step"


# --- fit ----------------------------------------------------------------------------------------------------------


def fit(folder: Path, times: int, rng: random.Random, count: int, steps: int) -> dict[str, Any]:
    clips = folder / "clips"
    write_world(clips, WorldConfig(count=count, test=0.25, seconds=3, size=32), silent)

    def command(out: Path, _: int) -> list[str]:
        return ["prepare", str(clips), str(out), "--size", "32", "--codec_steps", str(steps), "--workers", "1"]

    def phase(out: Path) -> str:
        return prepare_phase(out) if (out / "preparation.json").exists() else train_phase(out / "codec-training")

    return {"command": "fit"} | compare(folder, command, times, rng, phase, lambda _: lambda: None)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing differs, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("command", choices=["prepare", "train", "fit"])
    parser.add_argument("--add", action="store_true", help="prepare: kill it while it adds clips")
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--clips", type=int, help="how many; 64 for prepare, else 8")
    parser.add_argument("--steps", type=int, help="of training; 240 for train, 700 for fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; kept. Without it a temporary folder")
    args = parser.parse_args(arguments)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        given = args.folder or Path(temporary), args.times, random.Random(args.seed)
        if args.command == "prepare":
            result = prepare(*given, args.clips or 64, add=args.add)
        elif args.command == "train":
            result = train(*given, args.clips or 8, args.steps or 240)
        else:
            result = fit(*given, args.clips or 8, args.steps or 700)
    print()
    for phase, count in sorted(result["kills"].items()):
        print(f"{count:4} kills: {phase}")
    for name, value in result.items():
        if name not in ("kills", "command"):
            print(f"{name}: {value}")
    print(json.dumps({**result, "seconds": round(time.monotonic() - begun)}))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
