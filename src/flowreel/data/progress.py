"""How far preparing is, how fast it goes, and how long it will take.

Knows: the seconds that clips state, the frames that are done. Does not know: how they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from flowreel.config import PrepareConfig
from flowreel.data.sources import Source
from flowreel.utils import reporting as reporting
from flowreel.utils.distributed import Processes
from flowreel.utils.reporting import Clock, Report, lasting


class Progress:
    """Shows how far this process's share is, how fast it goes and how long it will take, as a context manager.

    The process that leads shows a bar where a person watches. Elsewhere there is a line every ten seconds.
    """

    def __init__(self, report: Report, clips: Sequence[Source], config: PrepareConfig, processes: Processes) -> None:
        self._report, self._config, self._clock = report, config, Clock()
        self._bar = reporting.Progress("preparing", processes.lead, lines=False)
        self._who = f"process 1 of {processes.world}: " if processes.world > 1 else ""
        self._clips, self._done, self._frames = len(clips), 0, 0
        self._left = float(sum(self._expected(source) for source in clips))  # frames of clips that aren't done
        self._under_way = 0  # frames of them that are

    def _expected(self, source: Source) -> float:
        return source.seconds * self._config.fps * self._config.crops

    def beat(self, frames: int) -> None:
        self._frames += frames
        self._under_way += frames
        self._tell()

    def clip(self, source: Source, frames: int) -> None:
        """A clip is done, of which ``frames`` frames were made."""
        self._done += 1
        self._under_way -= frames
        self._left -= self._expected(source)
        self._tell()

    def _tell(self) -> None:
        left = max(0.0, self._left - self._under_way)  # frames
        text = f"{self._done} of {self._clips} clips, {self.rate()}"
        self._bar.update(self._frames / max(1.0, self._frames + left), text)
        if self._clock.due() and not reporting.is_watched():
            speed = self._frames / self._clock.seconds
            self._report(f"{self._who}{text}" + (f", {lasting(left / speed)} left" if speed else ""))

    def rate(self) -> str:
        """How fast it went."""
        seconds = self._clock.seconds
        return f"{self._done / seconds:.3g} clips/s, {self._frames / seconds:.0f} frames/s"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()
