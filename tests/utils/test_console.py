"""Lines on the two streams: names that an encoding lacks, readers that leave, streams that can't be written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowreel.utils import console
from flowreel.utils.files import json_text, read_json
from flowreel.utils.reporting import say

FULL = Path("/dev/full")
full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def flowreel(*arguments: str, out: int, error: int) -> int:
    command = [sys.executable, "-m", "flowreel", *arguments]
    return subprocess.run(command, stdout=out, stderr=error, timeout=200, check=False).returncode


def test_what_an_encoding_lacks_is_printed_with_escapes() -> None:
    for encoding, want in (
        ("cp1252", b"\\u96e8 \xe9 \\udcff\n"),
        ("ascii", b"\\u96e8 \\xe9 \\udcff\n"),
        ("utf-8", "雨 é \\udcff\n".encode()),
    ):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
        console.put("雨 é \udcff", stream)
        assert raw.getvalue() == want
    console.put("nobody hears this", None)


def test_lines_are_dropped_once_the_reader_has_left(unread: int) -> None:
    stream = os.fdopen(os.dup(unread), "w")
    for _ in range(3):
        console.put("x" * 100_000, stream)
    stream.flush()
    stream.close()


@full
def test_a_full_stream_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for put in (say, lambda line: console.put(line, sys.stderr)):
            with pytest.raises(OSError, match="No space left") as error:
                put("a line")
            assert error.value.filename == "the standard error"
        console.put_error("a last line")
        assert not console.finish()
        assert console.finish()


def test_a_command_goes_on_when_its_readers_leave(tmp_path: Path, unread: int) -> None:
    """Both streams broken from the start; the same files as undisturbed."""
    small = ["--count", "2", "--seconds", "0.5", "--size", "16"]
    assert flowreel("world", str(tmp_path / "broken"), *small, out=unread, error=unread) == 0
    assert flowreel("world", str(tmp_path / "whole"), *small, out=subprocess.DEVNULL, error=subprocess.DEVNULL) == 0
    made = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.*")) for n in ("broken", "whole")]
    assert made[0] == made[1] != []


@full
def test_a_command_fails_when_nothing_can_be_said(tmp_path: Path) -> None:
    small = ["world", str(tmp_path / "w"), "--count", "1", "--size", "16"]
    with FULL.open("w") as stream:
        for arguments in (["--help"], ["world", "--help"], small):
            assert flowreel(*arguments, out=stream.fileno(), error=subprocess.DEVNULL) == 2


def test_names_of_any_kind_in_a_console_of_few_letters(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "flowreel", "world", tmp_path / "雨", "--count", "1", "--size", "16"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, stdout=pipe, stderr=pipe, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u96e8" in done.stdout


def test_json_keeps_names_that_are_no_utf8(tmp_path: Path) -> None:
    values = {"name": os.fsdecode(b"a\xff"), "other": '雨 "é"'}
    (tmp_path / "a.json").write_bytes(json_text(values))
    assert read_json(tmp_path / "a.json") == json.loads(json.dumps(values)) == values
