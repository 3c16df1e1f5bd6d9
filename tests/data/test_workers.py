"""Preparing in several processes: the same bytes, and a crash loses a single clip."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowreel.config import PrepareConfig
from flowreel.data import workers
from flowreel.data.workers import Beat, Pool, WorkerFailure
from flowreel.errors import InputError
from tests import bad_media
from tests.data.test_prepare import clips, codec, config, run, write_clip  # noqa: F401
from tests.data.test_prepare_again import content

ROOT = Path(__file__).resolve().parents[2]


def torchrun(count: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of flowreel, or a script, in so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    command += map(str, arguments if str(arguments[0]).endswith(".py") else ("-m", "flowreel", *arguments))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipes)
    try:
        out, error = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def broken_too(folder: Path) -> None:
    """A clip that can't be opened, and one that breaks off."""
    (folder / "train" / "a" / "0.mp4").write_bytes(b"no film")
    cut = write_clip(folder / "train" / "a" / "3.mkv", seconds=4)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])


# --- the same bytes ---


def test_any_number_of_processes_makes_the_same_folder(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    codec: str,  # noqa: F811
    config: PrepareConfig,  # noqa: F811
) -> None:
    broken_too(clips)
    run(clips, tmp_path / "one", replace(config, workers=1))
    _, lines = run(clips, tmp_path / "two", replace(config, workers=2))
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert [line.split(":")[0] for line in lines[:2]] == ["skipped train/a/0.mp4", "skipped train/a/3.mkv"]
    ranks = torchrun(2, "prepare", clips, tmp_path / "ranks", "--codec", codec, "--size", "[16,24]")
    assert ranks.returncode == 0, ranks.stderr
    assert content(tmp_path / "ranks") == content(tmp_path / "one")
    assert ranks.stdout.count("skipped train/a/3.mkv") == 1
    assert ranks.stdout.count("prepared 3 train + 1 test clips") == 1


@pytest.mark.slow
def test_processes_resume_together_and_fail_together(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    codec: str,  # noqa: F811
    config: PrepareConfig,  # noqa: F811
) -> None:
    command = ("prepare", clips, tmp_path / "out", "--codec", codec, "--size", "[16,24]")
    run(clips, tmp_path / "whole", config)
    write_clip(clips / "train" / "c" / "long.mkv", seconds=1200)
    alone = [sys.executable, "-m", "flowreel", *map(str, command), "--workers", "1"]
    process = subprocess.Popen(alone, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for(lambda: len(list((tmp_path / "out").rglob("*.safetensors"))) == 3)
    process.kill()
    process.wait()
    (clips / "train" / "c" / "long.mkv").unlink()
    ended = torchrun(2, *command)
    assert ended.returncode == 0, ended.stderr
    assert "3 of them encoded before" in ended.stdout
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    # a mistake is told once, and both end with exit code 2
    failed = torchrun(2, *command, "--peak", "0.5")
    assert failed.stderr.count("was prepared with other settings") == 1
    assert len(re.findall(r"exitcode +: 2 ", failed.stderr)) == 2
    assert "flowreel/prepare.py" not in failed.stderr


@pytest.mark.slow
def test_processes_fit_the_codec_together(clips: Path, tmp_path: Path) -> None:  # noqa: F811
    options = ("--size", "16", "--codec_steps", "3")
    ended = torchrun(2, "prepare", clips, tmp_path / "out", *options)
    assert ended.returncode == 0, ended.stderr
    assert "prepared 3 train + 1 test clips" in ended.stdout
    failed = torchrun(3, "prepare", clips, tmp_path / "three", *options)
    assert failed.stderr.count("3 processes can't share the batch of 8") == 1
    assert "start 1 or 2 or 4 or 8" in failed.stderr


FAILING = """
import sys

import torch
from torch import distributed

from flowreel.utils import distributed as module
from flowreel.errors import InputError
from flowreel.utils.distributed import together

if sys.argv[1] == "deaf":
    module._HEARING_SECONDS = 2.0
try:
    with together() as processes:
        assert processes.gather(processes.rank) == [0, 1]
        assert processes.from_lead("a" if processes.lead else "b") == "a"
        if processes.rank == 1:
            raise OSError(28, "No space left", "some.file")
        if sys.argv[1] == "deaf":  # the other waits for something else, in the group that training uses
            distributed.all_reduce(torch.zeros(1))
        processes.wait()
except (InputError, OSError) as error:
    print("told:", error, flush=True)
    sys.exit(2)
"""


@pytest.mark.slow
def test_a_failure_in_one_process_ends_all_and_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    ended = torchrun(2, tmp_path / "failing.py", "heard")
    assert ended.stdout == "told: No space left: some.file\n"
    assert len(re.findall(r"exitcode +: 2 ", ended.stderr)) == 2, ended.stderr
    ended = torchrun(2, tmp_path / "failing.py", "deaf")
    assert ended.stdout == "told: [Errno 28] No space left: 'some.file'\n"
    assert len(re.findall(r"exitcode +: 2 ", ended.stderr)) == 1, ended.stderr


# --- one that dies ---


def ordeal() -> Callable[[str, Beat], Any]:
    """Work that does to its process what the item says."""

    def work(item: str, beat: Beat) -> str:
        beat(1)
        if item == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "hang":
            time.sleep(600)
        if item == "mistake":
            raise InputError("this is a mistake")
        if item == "disk":
            raise OSError(28, "No space left on device", "some.file")
        return item.upper()

    return work


def test_a_process_that_dies_or_hangs_loses_its_item_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    results: dict[str, Any] = {}

    def now() -> float:  # time passes when all but the one that hangs are done
        return workers.PATIENCE + 1 if len(beats) == 4 and len(results) == 3 else 0.0

    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=now))
    with Pool(2) as pool:
        for item, result in pool.run(ordeal, (), ["hang", "die", "fine", "good"], beats.append):
            results[item] = result
        assert results["fine"] == "FINE"
        assert results["good"] == "GOOD"
        assert results["die"] == WorkerFailure("the process that read it died (SIGKILL): is memory short?")
        assert results["hang"] == WorkerFailure("the process that read it made no progress for 10 minutes")
        assert sum(beats) == 4
        with pytest.raises(InputError, match="this is a mistake"):
            list(pool.run(ordeal, (), ["mistake"], beats.append))
    with Pool(1) as pool:  # in this process
        with pytest.raises(OSError, match="No space left") as caught:
            list(pool.run(ordeal, (), ["fine", "disk"], beats.append))
        assert caught.value.filename == "some.file"


def wait_for(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 200
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(
    tmp_path: Path,
    codec: str,  # noqa: F811
    number: signal.Signals,
) -> None:
    for name in ("1", "2"):
        write_clip(tmp_path / "clips" / f"{name}.mkv", seconds=1200)
    command = ["prepare", tmp_path / "clips", tmp_path / "out", "--codec", codec, "--size", "16", "--workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "flowreel", *map(str, command)], cwd=ROOT)

    def children() -> list[int]:
        tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in tasks if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    wait_for(lambda: len(children()) == 2)
    pids = children()
    time.sleep(3)
    process.send_signal(number)
    code = process.wait(200)
    assert code == (130 if number == signal.SIGINT else -number)
    wait_for(lambda: not any(running(pid) for pid in pids))


# --- what people have ---


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_of_bad_files_passes_through(tmp_path: Path, config: PrepareConfig, count: int) -> None:  # noqa: F811
    expected = bad_media.make(tmp_path / "clips")
    flipped = bad_media.flipped(tmp_path / "clips", 200)
    settings = replace(config, size=32, audio="silence", workers=count)
    index, _ = run(tmp_path / "clips", tmp_path / "out", settings)
    skipped = {entry["path"]: entry["reason"] for entry in index["skipped"]}
    used = {entry["path"] for entry in index["splits"]["train"]}
    assert skipped.keys() | used == expected.keys() | set(flipped)
    assert not skipped.keys() & used
    for name, pattern in expected.items():
        if pattern is None:
            assert name in used, skipped[name]
        else:
            assert re.search(pattern, skipped[name]), f"{name}: {skipped[name]}"
    assert all(skipped[name].strip() for name in flipped if name in skipped)
    again, _ = run(tmp_path / "clips", tmp_path / "out", settings)
    assert again == index
