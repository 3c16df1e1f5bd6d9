"""One process at a time works in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flowreel.config import GenerateConfig, WorldConfig
from flowreel.errors import InputError
from flowreel.pipeline.generate import generate
from flowreel.utils.locking import LOCK, contents, held
from flowreel.world.export import write_world
from tests.conftest import tiny_pipeline

HOLDING = """
import sys
from pathlib import Path
from flowreel.utils.locking import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of ``folder`` until its input ends."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_learns_who_holds_the_folder(tmp_path: Path) -> None:
    with holding(tmp_path / "out") as first:
        told = f"in use by process {first.pid} on .* since .*delete .*lock"
        with pytest.raises(InputError, match=told), held(tmp_path / "out"):
            pass
        first.communicate()
    with held(tmp_path / "out"):
        assert contents(tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_what_a_killed_process_left_is_taken_over_with_a_line(tmp_path: Path) -> None:
    with holding(tmp_path) as first:
        first.kill()
    assert (tmp_path / LOCK).exists()
    said: list[str] = []
    with held(tmp_path, said.append):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["process"] == os.getpid()
    holder = f"process {first.pid} on {os.uname().nodename}"
    assert said == [f"{tmp_path} was in use by {holder}, which has ended: the lock is taken over"]
    assert list(tmp_path.iterdir()) == []


def test_a_terminated_process_leaves_no_lock(tmp_path: Path) -> None:
    with holding(tmp_path) as first:
        first.send_signal(signal.SIGTERM)
        assert first.wait() == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_another_thread_of_this_process_is_refused_too(tmp_path: Path) -> None:
    told: list[str] = []

    def second() -> None:
        try:
            with held(tmp_path):
                pass
        except InputError as error:
            told.append(str(error))

    with held(tmp_path), held(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "in use by this process" in told[0]


def test_another_number_of_the_same_process_is_not_taken_for_it(tmp_path: Path) -> None:
    with held(tmp_path):
        holder = json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))
    if not holder["started"]:
        pytest.skip("this system does not say when a process started")
    holder |= {"process": os.getppid(), "token": "another", "started": "long ago"}
    (tmp_path / LOCK).write_text(json.dumps(holder), encoding="utf-8")
    with held(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["process"] == os.getpid()


def test_a_world_that_is_being_written_is_not_written_twice(tmp_path: Path) -> None:
    with holding(tmp_path / "world") as first:
        with pytest.raises(InputError, match="in use by process"):
            write_world(tmp_path / "world", WorldConfig(count=1, seconds=0.5), str)
        first.communicate()


def test_the_same_generation_is_shared_and_another_is_refused(tmp_path: Path) -> None:
    pipe, config = tiny_pipeline(sound=False, depth=1, window=4), GenerateConfig(out=str(tmp_path / "out"), count=2)
    purposes: list[str] = []

    def note(_: str) -> None:
        if not purposes:
            purposes.append(json.loads((tmp_path / "out" / LOCK).read_text(encoding="utf-8"))["purpose"])

    assert len(generate(pipe, config, note)) == 2
    assert not (tmp_path / "out" / LOCK).exists()
    with pytest.raises(InputError, match="was generated with other settings"):
        generate(pipe, GenerateConfig(out=str(tmp_path / "out"), count=2, seed=1), str)
    (tmp_path / "out" / "00001.mp4").unlink(missing_ok=True)
    result: list[int] = []

    def second() -> None:
        result.append(len(generate(pipe, config, str)))

    with held(tmp_path / "out", purpose=purposes[0]):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert result == [2]
