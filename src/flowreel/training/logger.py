"""Training logger: progress line, ``loss.csv``, ``validation.csv``, ``loss.png``, trackers."""

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
from flowreel.utils.reporting import Progress, Report

CURVE, VALIDATION, PLOT = "loss.csv", "validation.csv", "loss.png"


class TrainingLogger:
    """The log of one run, as a context manager.

    Every step is :meth:`add`-ed; a :meth:`row` is the mean over the steps since the row before. ``loss.csv`` and
    ``validation.csv`` only grow, except that a resumed run removes the rows after ``step``.

    Args:
        run: the folder.
        steps: the last step of the run.
        step, seconds: steps and seconds that were done before.
        report: takes one line of text.
        names: the losses, in the order of their columns.
        tracker: where the curves go too, see :func:`flowreel.training.trackers.open`.
        lead: False in the processes that write and show nothing.
        settings: of the run, for the tracker.
        shown: False where ``step`` will be validated again: its row of ``validation.csv`` is removed too.

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
        names: Sequence[str] = (),
        tracker: str = "none",
        lead: bool = True,
        settings: dict[str, Any] | None = None,
        shown: bool = True,
    ) -> None:
        self.run, self.steps, self.report, self.lead = run, steps, report, lead
        self.start, self.step = step, step
        self._before, self._begun = seconds, time.monotonic()
        self._sums: dict[str, tuple[float, int]] = {}
        if lead:
            columns = ("step", "loss", *names, "grad_norm", "lr", "seconds")
            self._curve = Table(run / CURVE, step, columns)
            self._validation = Table(run / VALIDATION, step - (not shown))
        self._tracker = trackers.open(tracker, run, settings or {}, step, report) if lead else None
        self._progress = Progress("training", lead, lines=False, start=step / steps, now=time.monotonic)
        # A bar on the same terminal shows what the lines would say.
        self._has_lines = not (self._progress.has_bar and sys.stdout is not None and sys.stdout.isatty())

    @property
    def seconds(self) -> float:
        """Wall time of the run, with the time before it was resumed."""
        return self._before + time.monotonic() - self._begun

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """Note the numbers of ``step`` and move the progress bar.

        A name may be missing at a step, and one that is not finite counts as missing.
        """
        self.step = step
        for name, value in numbers.items():
            if math.isfinite(value):
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value, count + 1
        self._progress.update(step / self.steps, f"step {step}/{self.steps}  {self._line(numbers)}")

    def row(self, lr: float, shown: bool = True) -> None:
        """Write the means since the last row to ``loss.csv`` and, if ``shown``, report them.

        Each mean is over the steps that had the number; one that no step had is an empty cell.
        """
        if not self.lead or not self._sums:
            return
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        self._curve.append({"step": self.step, **means, "lr": lr, "seconds": round(self.seconds, 2)})
        if self._tracker:
            self._tracker.log({**means, "lr": lr}, self.step)
        if shown and self._has_lines:
            left = self._progress.left(self.step / self.steps)
            self.report(f"step {self.step}/{self.steps}  {self._line(means)}" + (f", {left}" if left else ""))

    def validation(self, step: int, numbers: dict[str, float]) -> None:
        """Write the measures of held-out data after ``step`` to ``validation.csv`` and report them."""
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if not self.lead or not numbers:
            return
        self._validation.append({"step": step, **{name: finite.get(name) for name in numbers}})
        if self._tracker:
            self._tracker.log({f"validation/{name}": value for name, value in finite.items()}, step)
        listed = " ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self.report(f"step {step}  validation: {listed}")

    def draw(self) -> None:
        """Draw ``loss.png`` again."""
        draw(self.run / CURVE, self.run)

    def _line(self, numbers: dict[str, float]) -> str:
        parts = [f"{name} {value:.4g}" for name, value in numbers.items() if name not in ("loss", "grad_norm")]
        split = f" ({' '.join(parts)})" if len(parts) > 1 else ""
        elapsed = max(1e-6, time.monotonic() - self._begun)  # a coarse clock may not have moved yet
        pace = elapsed / max(1, self.step - self.start)  # seconds per step
        speed = f"{1 / pace:.1f} steps/s" if pace < 1 else f"{pace:.1f} s/step"
        return f"loss {numbers.get('loss', math.nan):.4f}{split}  {speed}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        if self._tracker:
            self._tracker.close()


class Table:
    """A CSV file of numbers with ``step`` in front, which grows by rows.

    Opening it removes the rows after ``step`` and what a crash left incomplete; a file without rows is deleted.

    Args:
        columns: all columns; those of the first row if left out. An existing file keeps its own too.
    """

    def __init__(self, path: Path, step: int, columns: Sequence[str] = ()) -> None:
        self.path, self.head = path, list(columns)
        if not path.exists():
            return
        head, lines = _read(path)
        rows = [dict(zip(head, line, strict=True)) for line in lines if float(line[0]) <= step]
        if not rows:
            path.unlink()
            return
        self.head = head if set(head) >= set(columns) else [*columns, *(name for name in head if name not in columns)]
        text = _csv([self.head, *([row.get(name, "") for name in self.head] for row in rows)])
        if path.read_bytes() != text.encode():
            with replacing_files(path.parent) as aside:
                (aside / path.name).write_text(text, encoding="utf-8", newline="")

    def append(self, values: dict[str, float | None]) -> None:
        """Write a row; None is an empty cell. :class:`InputError` where the disk does not take it."""
        lines = [] if self.path.exists() else [self.head or list(values)]
        self.head = self.head or list(values)
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_csv([*lines, [_text(values.get(name)) for name in self.head]]))
        except OSError as error:
            raise InputError(f"{self.path} can't be written: {error.strerror}") from error


def _csv(lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names and complete rows of a CSV file; a last line without its line feed and malformed rows are left out."""
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


def _is_loss(name: str) -> bool:
    """Whether a column of ``loss.csv`` is a loss."""
    return name not in ("step", "lr", "seconds") and not name.startswith("grad_norm")


def read_curve(path: Path) -> tuple[list[str], list[list[float]]]:
    """The column names and the rows of a ``loss.csv`` or ``validation.csv``, NaN for an empty cell; incomplete rows are
    left out. Empty where there is no file."""
    if not path.exists():
        return [], []
    head, lines = _read(path)
    return head, [[float(cell or "nan") for cell in line] for line in lines]


def draw(curve: Path, folder: Path) -> None:
    """Draw the losses of a ``loss.csv`` over the steps as ``loss.png`` in ``folder``; the columns of the
    ``validation.csv`` beside it that are named like a loss are dots in its colour."""
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
        figure.savefig(aside / PLOT, dpi=110)


def _columns(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The steps and values of a file's losses by name, without the empty cells."""
    head, rows = read_curve(path)
    columns = {}
    for place, name in enumerate(head):
        if _is_loss(name):
            points = [(row[0], row[place]) for row in rows if math.isfinite(row[place])]
            if points:
                columns[name] = [step for step, _ in points], [value for _, value in points]
    return columns


def smooth(values: Sequence[float], share: float = 0.02) -> list[float]:
    """The exponential moving average over about ``share`` of the values, with bias correction at its start."""
    keep = 1 - 1 / max(1.0, share * len(values))
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        result.append(total / weight)
    return result
