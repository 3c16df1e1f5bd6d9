"""Reports of commands: single lines of text, and the progress of long work.

Results go to standard output, progress to standard error, so that a pipe receives results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self, TypeAlias

from flowreel.utils import console

Report: TypeAlias = Callable[[str], None]

SECONDS = 10.0
"""Seconds between two progress lines where no bar can be shown."""


def silent(text: str) -> None:
    """A report that prints nothing, for processes other than the lead."""


def say(text: str) -> None:
    """Print a progress line to standard error."""
    console.put(f"flowreel: {text}", sys.stderr)


def is_watched() -> bool:
    """Whether a progress bar can be shown: standard error is a terminal, or this is a notebook with widgets."""
    if "ipykernel" in sys.modules:
        import importlib.util

        return importlib.util.find_spec("ipywidgets") is not None
    return sys.stderr is not None and sys.stderr.isatty()


class Clock:
    """Measures the time since the work began, and when the next progress line is due.

    Args:
        now: returns the time in seconds; tests pass their own.
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
    """Shows the progress of long work, as a context manager: a bar where one can be shown, otherwise lines.

    The first line is printed by the first :meth:`update`, further ones every ten seconds.

    Args:
        title: what is being made.
        shown: False for a display that shows nothing, as in processes other than the lead.
        lines: whether lines are printed where no bar can be shown.
        start: share of the work that was done already.
        now: returns the time in seconds; tests pass their own.
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
        """Time since the work began."""
        return self._clock.seconds

    @property
    def has_bar(self) -> bool:
        """Whether a bar is shown in place of lines."""
        return self._bar is not None

    def left(self, share: float) -> str:
        """The remaining time in words when ``share`` of the work is done; "" at its start and end."""
        if not self._start < share < 1:
            return ""
        return f"{lasting(self.seconds * (1 - share) / (share - self._start))} left"

    def update(self, share: float, text: str) -> None:
        """Show that a ``share`` (0 to 1) of the work is done, with ``text``."""
        text = ", ".join(part for part in (f"{share:.0%}", text, self.left(share)) if part)
        if self._bar:
            self._bar.move(share, text)
        elif self._lines and (self._clock.due() or not self._told):
            say(f"{self._title}: {text}")
        self._told = True

    def items(self, done: int, total: int, name: str) -> None:
        """Show that ``done`` of ``total`` items are done, and their rate; ``name`` is their plural."""
        pace = f", {done / self.seconds:.3g} {name}/s" if done else ""
        self.update(done / max(1, total), f"{done} of {total} {name}{pace}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()


class _Bar:
    """A bar that rich draws on standard error or in the notebook cell; it is removed at the end."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}", markup=False))
        self._progress: Any = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # results in a pipe are left alone
        )
        self._task = self._progress.add_task(escape(title), total=1.0, text="")
        self._progress.start()
        self.stop = self._progress.stop

    def move(self, share: float, text: str) -> None:
        self._progress.update(self._task, completed=share, text=text)


def lasting(seconds: float) -> str:
    """A duration in words, rounded to a useful precision."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
