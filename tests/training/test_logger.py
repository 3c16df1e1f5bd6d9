"""The training log: lines, rows, the file of the curve and its plot."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path

import pytest

from flowreel.errors import InputError
from flowreel.training.logger import Table, TrainingLogger, draw, read_curve, smooth


def numbers(value: float) -> dict[str, float]:
    return {"loss": 2 * value, "video": value, "audio": value, "grad_norm": 0.1}


def test_row_is_the_mean_since_the_last_one(tmp_path: Path):
    said: list[str] = []
    with TrainingLogger(tmp_path, 1000, 0, 0.0, said.append, ("video", "audio")) as logger:
        for step, value in enumerate((1.0, 2.0, 6.0), start=1):
            logger.add(step, numbers(value))
        logger.row(0.5)
        logger.add(4, numbers(0.25))
        logger.row(0.5, shown=False)
        logger.row(0.5)  # nothing is new
    head, rows = read_curve(tmp_path / "loss.csv")
    assert head == ["step", "loss", "video", "audio", "grad_norm", "lr", "seconds"]
    assert [row[:6] for row in rows] == [[3, 6, 3, 3, 0.1, 0.5], [4, 0.5, 0.25, 0.25, 0.1, 0.5]]
    assert len(said) == 1
    assert said[0].startswith("step 3/1000  loss 6.0000 (video 3 audio 3)  ")


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [(2.0, "1.0 s/step, 2 min left"), (0.04, "50.0 steps/s, 2 s left"), (80.0, "40.0 s/step, 66 min left")],
)
def test_pace_and_time_left(tmp_path: Path, monkeypatch, elapsed, text):
    now = [100.0]
    monkeypatch.setattr("flowreel.training.logger.time.monotonic", lambda: now[0])
    said: list[str] = []
    logger = TrainingLogger(tmp_path, 101, 0, 0.0, said.append)
    now[0] += elapsed
    logger.add(1, numbers(1.0))
    logger.add(2, numbers(1.0))
    logger.row(0.1)
    assert said[0].endswith(text)


def test_seconds_continue_in_a_resumed_run(tmp_path: Path, monkeypatch):
    now = [5.0]
    monkeypatch.setattr("flowreel.training.logger.time.monotonic", lambda: now[0])
    logger = TrainingLogger(tmp_path, 10, 4, 70.0, str)
    now[0] += 2.5
    assert logger.seconds == 72.5


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("step,loss\n2,0.5\n4,0.4\n6,0.3\n", "step,loss\n2,0.5\n4,0.4\n"),
        ("step,loss\n2,0.5\n4,0.", "step,loss\n2,0.5\n"),
        ("step,loss\n5,0.5\n", None),
        ("step,loss\n2,0.5\n4,", "step,loss\n2,0.5\n"),
        ("step,loss\n2,0.5\n3,0.\x00\n4,0.4,7\n\n4,0.3\n", "step,loss\n2,0.5\n4,0.3\n"),
        ("step,loss,b\n2,0.5,\n4,0.4,1\n", "step,loss,b\n2,0.5,\n4,0.4,1\n"),
        ("step,lo", None),
        ("loss\n2\n", None),
        ("", None),
    ],
)
def test_rows_after_the_step_and_cut_lines_go(tmp_path: Path, text, kept):
    path = tmp_path / "loss.csv"
    path.write_text(text)
    Table(path, 4)
    assert (path.read_text() if path.exists() else None) == kept
    assert read_curve(path)[0] == (kept.split("\n")[0].split(",") if kept else [])


def test_open_table_that_is_whole_is_left_alone(tmp_path: Path):
    path = tmp_path / "loss.csv"
    path.write_text("step,loss\n2,0.5\n")
    before = path.stat()
    Table(path, 4)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_missing_numbers_are_empty_cells(tmp_path: Path):
    names = ("mel", "adversarial", "discriminator")
    with TrainingLogger(tmp_path, 9, 0, 0.0, str, names) as logger:
        logger.add(1, {"loss": 1.0, "mel": 1.0, "grad_norm": 0.5})
        logger.row(0.1)
        logger.add(2, {"loss": 3.0, "discriminator": 4.0, "mel": 1.0, "adversarial": 2.0, "grad_norm": 0.5})
        logger.add(3, {"loss": math.nan, "mel": 3.0, "grad_norm": math.inf})
        logger.row(0.1)
    with TrainingLogger(tmp_path, 9, 3, 0.0, str, names) as logger:
        logger.add(4, {"loss": 1.0, "mel": 1.0, "grad_norm": 0.5})
        logger.row(0.1)
    with (tmp_path / "loss.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["step", "loss", "mel", "adversarial", "discriminator", "grad_norm", "lr", "seconds"]
    assert [row[:7] for row in rows] == [
        ["1", "1", "1", "", "", "0.5", "0.1"],
        ["3", "3", "2", "2", "4", "0.5", "0.1"],
        ["4", "1", "1", "", "", "0.5", "0.1"],
    ]
    assert math.isnan(read_curve(tmp_path / "loss.csv")[1][0][3])
    draw(tmp_path / "loss.csv", tmp_path)
    assert (tmp_path / "loss.png").is_file()


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        (("step", "loss", "b"), "step,b,loss\n2,1,0.5\n4,,3\n"),  # the order of the file stays
        (("step", "loss", "a", "b"), "step,loss,a,b\n2,0.5,,1\n4,3,2,\n"),
        (("step", "loss", "a"), "step,loss,a,b\n2,0.5,,1\n4,3,2,\n"),  # as does a column of its own
    ],
)
def test_a_file_with_other_columns_is_continued(tmp_path: Path, columns, want):
    path = tmp_path / "loss.csv"
    path.write_text("step,b,loss\n2,1,0.5\n")
    Table(path, 2, columns).append({"step": 4, "loss": 3.0, "a": 2.0})
    assert path.read_text() == want


def test_validation_is_kept_told_and_cut_like_the_losses(tmp_path: Path):
    said: list[str] = []
    with TrainingLogger(tmp_path, 9, 0, 0.0, said.append) as logger:
        logger.validation(2, {"loss": 0.5, "psnr": 20.25})
        logger.validation(4, {})
        logger.validation(4, {"loss": math.nan, "psnr": 21.0})
    assert said == ["step 2  validation: loss 0.5 psnr 20.25", "step 4  validation: loss nan psnr 21"]
    assert (tmp_path / "validation.csv").read_text() == "step,loss,psnr\n2,0.5,20.25\n4,,21\n"
    TrainingLogger(tmp_path, 9, 3, 0.0, str)
    assert (tmp_path / "validation.csv").read_text() == "step,loss,psnr\n2,0.5,20.25\n"


def test_picture_has_dots_for_what_was_held_out(tmp_path: Path, monkeypatch):
    drawn: list[tuple] = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", _recording(drawn))
    (tmp_path / "loss.csv").write_text("step,loss,video,grad_norm,lr,seconds\n1,0.5,0.5,1,1,1\n2,0.4,0.4,1,1,1\n")
    (tmp_path / "validation.csv").write_text("step,psnr,loss\n1,20,0.6\n2,21,\n")
    draw(tmp_path / "loss.csv", tmp_path)
    assert [arguments for arguments in drawn if "o" in arguments] == [([1.0], [0.6], "o")]


def _recording(drawn: list[tuple]):
    from matplotlib.axes import Axes

    plot = Axes.plot

    def recorded(self, *arguments, **options):
        drawn.append(arguments)
        return plot(self, *arguments, **options)

    return recorded


def test_full_disk_is_said(tmp_path: Path):
    table = Table(tmp_path / "missing" / "loss.csv", 0)
    (tmp_path / "missing").write_text("in the way")
    with pytest.raises(InputError, match=r"loss\.csv can't be written"):
        table.append({"step": 1, "loss": 1.0})


def test_picture_of_one_loss_of_parts_and_of_negative_ones(tmp_path: Path):
    for text in (
        "step,loss,video,grad_norm,lr,seconds\n1,0.5,0.5,1,1,1\n",
        "step,loss,video,audio,grad_norm,lr,seconds\n1,0.5,0.2,0.3,1,1,1\n2,0.4,0.2,0.2,1,1,2\n",
        "step,loss,a,b,grad_norm,lr,seconds\n1,-0.5,0.5,-1,1,1,1\n2,0.4,-0.6,1,1,1,2\n",
    ):
        (tmp_path / "loss.csv").write_text(text)
        draw(tmp_path / "loss.csv", tmp_path)
        assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "loss.png").unlink()
    draw(tmp_path / "none.csv", tmp_path)
    assert not (tmp_path / "loss.png").exists()


def test_smoothing_keeps_constants_and_follows_the_end():
    assert smooth([3.0] * 100) == pytest.approx([3.0] * 100)
    assert smooth([1.0, 2.0]) == [1.0, 2.0]
    assert smooth([0.0] * 500 + [1.0] * 500)[-1] == pytest.approx(1, abs=1e-6)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("piped", [False, True])
def test_terminal_shows_a_bar_and_lines_go_to_a_pipe_only(tmp_path: Path, monkeypatch, piped: bool):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", io.StringIO() if piped else screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    said: list[str] = []
    with TrainingLogger(tmp_path, 4, 2, 0.0, said.append) as logger:
        logger.add(3, numbers(0.5))
        logger.row(0.1)
    assert len(said) == piped
    assert "step 3/4  loss 1.0000 (video 0.5 audio 0.5)" in screen.getvalue()


def test_processes_that_do_not_lead_write_nothing(tmp_path: Path):
    with TrainingLogger(tmp_path, 4, 0, 0.0, str, tracker="tensorboard", lead=False) as logger:
        logger.add(1, numbers(0.5))
        logger.row(0.1)
        logger.validation(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
