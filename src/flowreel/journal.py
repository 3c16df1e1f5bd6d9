"""What a training run says while it goes: the progress line, ``loss.csv``, ``loss.png``, TensorBoard.

Knows: how numbers are shown and kept. Does not know: where they come from.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowreel.checkpoint import replacing
from flowreel.errors import require
from flowreel.report import Report

CURVE, PICTURE = "loss.csv", "loss.png"


class Journal:
    """The record of one run, as a context manager.

    Every step is :meth:`add`-ed; a :meth:`row` is the mean over the steps since the row before. ``loss.csv`` only
    grows, except that rows after ``step``, from which a resumed run goes on, are cut off.

    Args:
        run: the folder.
        steps: where the run ends.
        step, seconds: where it goes on from.
        report: takes one line of text.
        tensorboard: also write curves to ``RUN/tensorboard``.
        lead: False in the processes that share a run with one that writes: these write and show nothing.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        step: int,
        seconds: float,
        report: Report,
        tensorboard: bool = False,
        lead: bool = True,
    ) -> None:
        self.run, self.steps, self.report = run, steps, report
        self.start, self.step = step, step
        self._before, self._clock = seconds, time.monotonic()
        self._sums: dict[str, float] = {}
        self._count = 0
        self._bar = _Bar(steps, step) if lead and sys.stdout.isatty() else None
        self._writer: Any = None
        if tensorboard and lead:
            boards = require("torch.utils.tensorboard", "train")
            self._writer = boards.SummaryWriter(run / "tensorboard", purge_step=step + 1)
        if lead:
            truncate(run / CURVE, step)

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all its sessions."""
        return self._before + time.monotonic() - self._clock

    def add(self, step: int, numbers: dict[str, float]) -> None:
        """Note the numbers of ``step``, the losses first (their names are columns), and move the bar."""
        self.step = step
        self._count += 1
        for name, value in numbers.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        if self._bar:
            self._bar.move(step, self._line(numbers))

    def row(self, lr: float, shown: bool = True) -> None:
        """Write the mean since the last row to ``loss.csv`` and, if ``shown``, as a line to the reader."""
        if not self._count:
            return
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        self._append({"step": self.step, **means, "lr": lr, "seconds": round(self.seconds, 2)})
        if self._writer:
            for name, value in {**means, "lr": lr}.items():
                self._writer.add_scalar(name, value, self.step)
        if shown and not self._bar:
            self.report(f"step {self.step}/{self.steps}  {self._line(means)}")

    def draw(self) -> None:
        """Draw ``loss.png`` afresh."""
        draw(self.run / CURVE, self.run)

    def _append(self, values: dict[str, float]) -> None:
        path = self.run / CURVE
        fresh = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if fresh:
                writer.writerow(values)
            writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in values.values())

    def _line(self, numbers: dict[str, float]) -> str:
        parts = [f"{name} {value:.4g}" for name, value in numbers.items() if name not in ("loss", "grad_norm")]
        split = f" ({' '.join(parts)})" if len(parts) > 1 else ""
        pace = (time.monotonic() - self._clock) / max(1, self.step - self.start)  # seconds a step in this session
        speed = f"{1 / pace:.1f} steps/s" if pace < 1 else f"{pace:.1f} s/step"
        return f"loss {numbers['loss']:.4f}{split}  {speed}  {_clock(pace * (self.steps - self.step))} left"

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._writer:
            self._writer.close()


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


def read_curve(path: Path) -> tuple[list[str], list[list[float]]]:
    """The column names and the rows of a ``loss.csv``; a last line that a crash cut short is left out."""
    if not path.exists():
        return [], []
    head, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8"))) or [[]]
    return head, [[float(cell) for cell in line] for line in lines if len(line) == len(head) and line[-1]]


def truncate(path: Path, step: int) -> None:
    """Cut off the rows after ``step``, and a line that a crash cut short; an emptied file is removed."""
    if not path.exists():
        return
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last line feed is not whole
    kept = [line for i, line in enumerate(whole) if i == 0 or int(line.split(",")[0]) <= step]
    if len(kept) < 2:
        path.unlink()
        return
    with replacing(path.parent) as aside:
        (aside / path.name).write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def draw(curve: Path, folder: Path) -> None:
    """Draw the losses of a ``loss.csv`` over the steps as ``loss.png`` in ``folder``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    head, rows = read_curve(curve)
    if not rows:
        return
    steps, columns = [row[0] for row in rows], list(zip(*rows, strict=True))
    names = head[1 : head.index("grad_norm")]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, name in enumerate(names if len(names) > 2 else names[:1]):  # with one part, the total is that part
        values = columns[head.index(name)]
        (shade,) = axes.plot(steps, values, alpha=0.25, linewidth=1)
        axes.plot(steps, smooth(values), color=shade.get_color(), linewidth=2 if i == 0 else 1.2, label=name)
    if min(columns[head.index("loss")]) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss", title=f"{folder.resolve().name}, step {steps[-1]:.0f}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with replacing(folder) as aside:
        figure.savefig(aside / PICTURE, dpi=110)


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
