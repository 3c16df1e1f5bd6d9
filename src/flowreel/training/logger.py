"""What a training run says while it goes: the progress line, ``loss.csv``, ``validation.csv``, ``loss.png``, trackers.

Knows: how numbers are shown and kept. Does not know: where they come from, or what a tracker is (``trackers.py``).
"""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowreel.errors import InputError
from flowreel.training import trackers
from flowreel.utils.files import replacing_files
from flowreel.utils.reporting import Report

CURVE, VALIDATION, PICTURE = "loss.csv", "validation.csv", "loss.png"


class Journal:
    """The record of one run, as a context manager.

    Every step is :meth:`add`-ed; a :meth:`row` is the mean over the steps since the row before. ``loss.csv`` and
    ``validation.csv`` only grow, except that rows after ``step``, from which a resumed run goes on, are cut off.

    Args:
        run: the folder.
        steps: where the run ends.
        step, seconds: where it goes on from.
        report: takes one line of text.
        tracker: where the curves go too, see :func:`flowreel.training.trackers.open`.
        lead: False in the processes that share a run with one that writes: these write and show nothing.
        settings: of the run, for the tracker to show.
        shown: False where ``step`` will be validated again: its row of ``validation.csv`` is cut off too.

    Raises:
        InputError: the tracker can't be used, or a file can't be written.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        step: int,
        seconds: float,
        report: Report,
        tracker: str = "none",
        lead: bool = True,
        settings: dict[str, Any] | None = None,
        shown: bool = True,
    ) -> None:
        self.run, self.steps, self.report, self.lead = run, steps, report, lead
        self.start, self.step = step, step
        self._before, self._clock = seconds, time.monotonic()
        self._sums: dict[str, tuple[float, int]] = {}
        self._names: dict[str, None] = {}
        self._bar = _Bar(steps, step) if lead and sys.stdout is not None and sys.stdout.isatty() else None
        if lead:
            self._curve, self._validation = Table(run / CURVE, step), Table(run / VALIDATION, step - (not shown))
            self._names |= dict.fromkeys(name for name in self._curve.head if name not in ("step", "lr", "seconds"))
        self._tracker = trackers.open(tracker, run, settings or {}, step, report) if lead else None

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all its sessions."""
        return self._before + time.monotonic() - self._clock

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """Note the numbers of ``step``, the losses first (their names are columns), and move the bar.

        A name may be left out at a step, and one that is not finite counts as left out.
        """
        self.step = step
        for name, value in numbers.items():
            self._names.setdefault(name)
            if math.isfinite(value):
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value, count + 1
        if self._bar:
            self._bar.move(step, self._line(numbers))

    def row(self, lr: float, shown: bool = True) -> None:
        """Write the means since the last row to ``loss.csv``, each over the steps that had the number, and, if
        ``shown``, as a line to the reader. A number that no step had is an empty cell."""
        if not self.lead or not self._sums:
            return
        means = {name: total / count for name, (total, count) in self._sums.items()}
        cells = {name: means.get(name) for name in sorted(self._names, key=_is_beside)}  # late losses before grad_norm
        self._sums = {}
        self._curve.append({"step": self.step, **cells, "lr": lr, "seconds": round(self.seconds, 2)})
        if self._tracker:
            self._tracker.log({**means, "lr": lr}, self.step)
        if shown and not self._bar:
            self.report(f"step {self.step}/{self.steps}  {self._line(means)}")

    def validation(self, step: int, numbers: dict[str, float]) -> None:
        """Write what was measured on held-out data after ``step`` to ``validation.csv`` and as a line to the reader."""
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if not self.lead or not numbers:
            return
        self._validation.append({"step": step, **{name: finite.get(name) for name in numbers}})
        if self._tracker:
            self._tracker.log({f"validation/{name}": value for name, value in finite.items()}, step)
        listed = " ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self.report(f"step {step}  validation: {listed}")

    def draw(self) -> None:
        """Draw ``loss.png`` afresh."""
        draw(self.run / CURVE, self.run)

    def _line(self, numbers: dict[str, float]) -> str:
        parts = [f"{name} {value:.4g}" for name, value in numbers.items() if name not in ("loss", "grad_norm")]
        split = f" ({' '.join(parts)})" if len(parts) > 1 else ""
        taken = max(1e-6, time.monotonic() - self._clock)  # a coarse clock may not have moved yet
        pace = taken / max(1, self.step - self.start)  # seconds a step in this session
        speed = f"{1 / pace:.1f} steps/s" if pace < 1 else f"{pace:.1f} s/step"
        return (
            f"loss {numbers.get('loss', math.nan):.4f}{split}  {speed}  {_clock(pace * (self.steps - self.step))} left"
        )

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._tracker:
            self._tracker.close()


class _Bar:
    """A progress bar on a terminal. What others print meanwhile appears above it."""

    def __init__(self, steps: int, step: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[line]}")
        )
        self._task = self._progress.add_task("", total=steps, completed=step, line="")
        self.start, self.stop = self._progress.start, self._progress.stop

    def move(self, step: int, line: str) -> None:
        self._progress.update(self._task, completed=step, line=line)


class Table:
    """A CSV file of numbers with ``step`` in front, which grows by rows; a new name is a new column.

    Opening it cuts off the rows after ``step``, and what a crash left that is no whole row; an emptied file is removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if not path.exists():
            self.head: list[str] = []
            return
        head, lines = _read(path)
        kept = [line for line in lines if float(line[0]) <= step]
        self.head = head if kept else []
        if not kept:
            path.unlink()
        elif path.read_bytes() != _csv([head, *kept]).encode():
            self._rewrite(head, kept)

    def append(self, values: dict[str, float | None]) -> None:
        """Write a row; None is an empty cell. :class:`InputError` where the disk does not take it."""
        try:
            if new := [name for name in values if name not in self.head]:
                self._widen(list(values), new)
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_csv([[_text(values.get(name)) for name in self.head]]))
        except OSError as error:
            raise InputError(f"{self.path} can't be written: {error.strerror}") from error

    def _widen(self, names: list[str], new: list[str]) -> None:
        """Put every new name after the one that it follows in ``names``, with empty cells in the rows so far."""
        lines = _read(self.path)[1] if self.head else []
        head = list(self.head)
        for name in new:
            before = names[: names.index(name)]
            place = head.index(before[-1]) + 1 if before else 0
            head.insert(place, name)
        rows = [dict(zip(self.head, line, strict=True)) for line in lines]
        self._rewrite(head, [[row.get(name, "") for name in head] for row in rows])
        self.head = head

    def _rewrite(self, head: list[str], lines: list[list[str]]) -> None:
        with replacing_files(self.path.parent) as aside:
            (aside / self.path.name).write_text(_csv([head, *lines]), encoding="utf-8", newline="")


def _csv(lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names and whole rows of a CSV file; a last line without its line feed, and what is no row, are left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    head, *lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))) or [[]]
    if head[:1] != ["step"]:
        return [], []
    return head, [line for line in lines if len(line) == len(head) and line[0] and all(map(_is_number, line))]


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _is_beside(name: str) -> bool:
    """Whether a column of ``loss.csv`` is no loss."""
    return name in ("step", "lr", "seconds") or name.startswith("grad_norm")


def read_curve(path: Path) -> tuple[list[str], list[list[float]]]:
    """The column names and the rows of a ``loss.csv`` or ``validation.csv``, NaN for an empty cell; rows that a crash
    cut short are left out. Nothing where there is no file."""
    if not path.exists():
        return [], []
    head, lines = _read(path)
    return head, [[float(cell or "nan") for cell in line] for line in lines]


def draw(curve: Path, folder: Path) -> None:
    """Draw the losses of a ``loss.csv`` over the steps as ``loss.png`` in ``folder``; the columns of the
    ``validation.csv`` beside it that are called like a loss are dots in its colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses, held_out = _columns(curve), _columns(curve.with_name(VALIDATION))
    if not losses:
        return
    if len(losses) == 2:  # with one part, the total is that part
        losses.pop(next(name for name in reversed(losses) if name != "loss"))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, (name, (steps, values)) in enumerate(losses.items()):
        (shade,) = axes.plot(steps, values, alpha=0.25, linewidth=1)
        axes.plot(steps, smooth(values), color=shade.get_color(), linewidth=2 if i == 0 else 1.2, label=name)
        if name in held_out:
            label = f"{name}, held out"
            axes.plot(*held_out[name], "o", color=shade.get_color(), markeredgecolor="black", markersize=5, label=label)
    if min(next(iter(losses.values()))[1]) > 0:
        axes.set_yscale("log")
    last = max(steps[-1] for steps, _ in losses.values())
    axes.set(xlabel="step", ylabel="loss", title=f"{folder.resolve().name}, step {last:.0f}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with replacing_files(folder) as aside:
        figure.savefig(aside / PICTURE, dpi=110)


def _columns(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """By name, the steps and the values of a file's columns that are losses, without the empty cells."""
    head, rows = read_curve(path)
    columns = {}
    for place, name in enumerate(head):
        if not _is_beside(name):
            points = [(row[0], row[place]) for row in rows if math.isfinite(row[place])]
            if points:
                columns[name] = [step for step, _ in points], [value for _, value in points]
    return columns


def smooth(values: Sequence[float], share: float = 0.02) -> list[float]:
    """The exponential moving average over about ``share`` of the values, without the pull of its first one."""
    keep = 1 - 1 / max(1.0, share * len(values))
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        result.append(total / weight)
    return result


def _clock(seconds: float) -> str:
    """6:22, or 1:06:22 from an hour on."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
