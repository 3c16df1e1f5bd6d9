"""Where a command says what it did, one line of text at a time, and how far long work is.

Results are lines on the standard output. Progress goes to the standard error, so that a pipe gets results alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self, TypeAlias

from flowreel.utils import console

Report: TypeAlias = Callable[[str], None]

SECONDS = 10.0
"""Between two lines about the same work, where no bar can be shown."""


def silent(text: str) -> None:
    """What the processes that don't lead report."""


def say(text: str) -> None:
    """Print a line about the work under way on the standard error."""
    console.put(f"flowreel: {text}", sys.stderr)


def is_watched() -> bool:
    """Whether a person sees a bar move: the standard error is a terminal, or this is a notebook with widgets."""
    if "ipykernel" in sys.modules:
        import importlib.util

        return importlib.util.find_spec("ipywidgets") is not None
    return sys.stderr is not None and sys.stderr.isatty()


class Clock:
    """Tells how long work has been going on, and whether the next line about it is due.

    Args:
        now: gives the time in seconds; tests give their own.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun = self._told = now()

    @property
    def seconds(self) -> float:
        return max(1e-9, self._now() - self._begun)

    def due(self) -> bool:
        now = self._now()
        if now - self._told < SECONDS:
            return False
        self._told = now
        return True


class Progress:
    """Shows how far long work is, as a context manager: a bar where a person watches, elsewhere lines.

    The first line comes with the first :meth:`update`, further ones every ten seconds.

    Args:
        title: what is being made.
        shown: False for a display that shows nothing, as in the processes that don't lead.
        lines: whether there are lines where no bar can be shown.
        start: share of the work that was done before.
        now: gives the time in seconds; tests give their own.
    """

    def __init__(
        self,
        title: str,
        shown: bool = True,
        lines: bool = True,
        start: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._clock, self._told, self._start = title, Clock(now), False, start
        self._bar = _Bar(title) if shown and is_watched() else None
        self._lines = shown and lines and self._bar is None

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return self._clock.seconds

    @property
    def has_bar(self) -> bool:
        """Whether a bar is shown in place of lines."""
        return self._bar is not None

    def left(self, share: float) -> str:
        """The time that the rest of the work takes when ``share`` is done; empty before its start and at its end."""
        if not self._start < share < 1:
            return ""
        return f"{lasting(self.seconds * (1 - share) / (share - self._start))} left"

    def update(self, share: float, text: str) -> None:
        """Show that ``share`` (0 to 1) of the work is done, and ``text`` beside it."""
        text = ", ".join(part for part in (f"{share:.0%}", text, self.left(share)) if part)
        if self._bar:
            self._bar.move(share, text)
        elif self._lines and (self._clock.due() or not self._told):
            say(f"{self._title}: {text}")
        self._told = True

    def items(self, done: int, total: int, name: str) -> None:
        """Show that ``done`` of ``total`` items called ``name`` are done, and how many a second."""
        pace = f", {done / self.seconds:.3g} {name}/s" if done else ""
        self.update(done / max(1, total), f"{done} of {total} {name}{pace}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()


class _Bar:
    """A bar that rich draws on the standard error, or in the notebook's cell. It leaves no trace."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}", markup=False))
        self._progress: Any = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # results in a pipe stay there
        )
        self._task = self._progress.add_task(escape(title), total=1.0, text="")
        self._progress.start()
        self.stop = self._progress.stop

    def move(self, share: float, text: str) -> None:
        self._progress.update(self._task, completed=share, text=text)


def lasting(seconds: float) -> str:
    """A duration in words, rounded to what is of use."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
