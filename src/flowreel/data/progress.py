"""Progress display of prepare: share done, speed and time left, from the stated length of the clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from flowreel.config import PrepareConfig
from flowreel.data.sources import Source
from flowreel.utils import reporting
from flowreel.utils.distributed import Processes
from flowreel.utils.reporting import Clock, Report, lasting


class Progress:
    """Shows the progress of this process's share of the clips, as a context manager.

    The lead process shows a bar on a terminal or in a notebook; otherwise there is a line every ten seconds.
    """

    def __init__(self, report: Report, clips: Sequence[Source], config: PrepareConfig, processes: Processes) -> None:
        self._report, self._config, self._clock = report, config, Clock()
        self._bar = reporting.Progress("preparing", processes.lead, lines=False)
        self._who = f"process 1 of {processes.world}: " if processes.world > 1 else ""
        self._clips, self._done, self._frames = len(clips), 0, 0
        self._left = float(sum(self._expected(source) for source in clips))  # frames of unfinished clips
        self._under_way = 0  # frames of them that are finished

    def _expected(self, source: Source) -> float:
        return source.seconds * self._config.fps * self._config.crops

    def beat(self, frames: int) -> None:
        """More frames are done."""
        self._frames += frames
        self._under_way += frames
        self._show()

    def clip(self, source: Source, frames: int) -> None:
        """A clip is done; ``frames`` of its frames were encoded now."""
        self._done += 1
        self._under_way -= frames
        self._left -= self._expected(source)
        self._show()

    def _show(self) -> None:
        left = max(0.0, self._left - self._under_way)  # frames
        text = f"{self._done} of {self._clips} clips, {self.rate()}"
        self._bar.update(self._frames / max(1.0, self._frames + left), text)
        if self._clock.due() and not reporting.is_watched():
            speed = self._frames / self._clock.seconds
            self._report(f"{self._who}{text}" + (f", {lasting(left / speed)} left" if speed else ""))

    def rate(self) -> str:
        """The speed so far, in words."""
        seconds = self._clock.seconds
        return f"{self._done / seconds:.3g} clips/s, {self._frames / seconds:.0f} frames/s"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()
