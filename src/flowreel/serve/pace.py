"""Notices that a machine is slower than real time, and says what would help."""

from __future__ import annotations

from dataclasses import dataclass

from flowreel.config import PipelineConfig
from flowreel.serve.live_stream import MEMORY, StreamRequest

MARGIN = 1.1
"""Times real time that a machine should reach, so that a stream is not late again and again."""


@dataclass(frozen=True)
class Faster:
    """What makes a generation faster, each by itself: fewer solver ``steps``, a smaller ``window`` (frames); None where
    it can't be less."""

    steps: int | None
    window: int | None

    def __str__(self) -> str:
        ways = [f"--steps {self.steps}" if self.steps else "", f"--window {self.window}" if self.window else ""]
        return " or ".join(way for way in ways if way)


def faster(speed: float, wanted: StreamRequest, config: PipelineConfig) -> Faster:
    """What would make such a stream, which runs at ``speed`` times real time, keep up, or come
    nearer to it. Work grows with the steps and with the window, which should not be less than half of the trained."""
    now = wanted.resolved(config)
    share = speed / MARGIN
    steps = max(1, int(now.steps * share))
    window = max(config.trained.window / 2, now.window * share)
    frames = round(window / now.block) * now.block
    shrinks = config.model.positions != "learned" and now.context + now.block < frames < now.window
    return Faster(steps if steps < now.steps else None, frames if shrinks else None)


def slowness(speed: float, wanted: StreamRequest, config: PipelineConfig) -> str:
    """A sentence for whoever started the server."""
    ways = faster(speed, wanted, config)
    now = wanted.resolved(config)
    better = (
        f"{ways} is faster (now --steps {now.steps} --window {now.window})" if str(ways) else "use a faster machine"
    )
    return f"slower than real time, so the video stops and waits again and again: {better}"


class Pace:
    """Tells from its fragments whether a stream is slower than real time.

    A change is believed after more fragments than the real-time factor is a mean of, so that the warm-up of a stream,
    which is slow, is passed over.
    """

    def __init__(self) -> None:
        self.slow = False
        self._other = 0  # fragments in a row that say the other thing

    def note(self, speed: float) -> bool:
        """Take in the factor of a fragment; whether ``slow`` has changed."""
        self._other = self._other + 1 if (speed < 1) != self.slow else 0
        if self._other <= MEMORY:
            return False
        self.slow, self._other = not self.slow, 0
        return True
