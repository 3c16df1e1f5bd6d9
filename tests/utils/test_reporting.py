"""Progress of long work: a line at once and every ten seconds, or a bar on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from flowreel.utils import reporting as report
from flowreel.utils.reporting import Progress, lasting


@pytest.fixture(autouse=True)
def _ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SECONDS", 10.0)


class FakeTime:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_the_first_line_comes_at_once_and_the_next_after_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = FakeTime()
    with Progress("a.mp4", now=now) as progress:
        progress.update(0.0, "warming up")
        now.seconds += 9
        progress.update(0.2, "1 s made")
        now.seconds += 3
        progress.update(0.25, "2 s made")
        now.seconds += 9
        progress.update(0.5, "4 s made")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["flowreel: a.mp4: 0%, warming up", "flowreel: a.mp4: 25%, 2 s made, 36 s left"]


def test_items_have_a_rate(capsys: pytest.CaptureFixture[str]) -> None:
    now = FakeTime()
    with Progress("clips", now=now) as progress:
        progress.items(0, 40, "clips")
        now.seconds += 20
        progress.items(10, 40, "clips")
    assert capsys.readouterr().err.splitlines() == [
        "flowreel: clips: 0%, 0 of 40 clips",
        "flowreel: clips: 25%, 10 of 40 clips, 0.5 clips/s, 60 s left",
    ]


@pytest.mark.parametrize("options", [{"shown": False}, {"lines": False}])
def test_nothing_is_said_where_it_should_not_be(options: dict[str, bool], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("a", **options) as progress:
        progress.update(0.5, "half")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_the_results_stay_in_their_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", pipe)
    with Progress("[a].mp4") as progress:
        progress.update(0.5, "2 s made")
        sys.stdout.write("a result\n")
    assert "[a].mp4" in terminal.getvalue()
    assert "50%, 2 s made" in terminal.getvalue()
    assert pipe.getvalue() == "a result\n"


def test_a_notebook_is_watched_where_it_has_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", None)  # type: ignore[arg-type]
    for spec in (None, object()):
        monkeypatch.setattr("importlib.util.find_spec", lambda _, spec=spec: spec)
        assert report.is_watched() is (spec is not None)


def test_times_are_as_precise_as_is_of_use() -> None:
    assert [lasting(s) for s in (4.4, 80, 90, 3000, 9000)] == ["4 s", "80 s", "2 min", "50 min", "2.5 h"]
