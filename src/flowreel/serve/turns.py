"""Live viewers come first: clips are made in the time that their streams leave."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

PATIENCE = 1.0
"""Seconds after which a clip has its next solver step, even if the streams never are ahead of their viewers."""
_POLL = 0.01


class Gone(Exception):  # noqa: N818
    """Nobody waits for the clip any more."""


class Turns:
    """Whose turn it is to compute. One clip at a time, and after each solver step it waits until no stream is behind.

    Args:
        is_behind: whether a stream is less ahead of its viewer than it should be.
        now, sleep: the clock; tests give their own.
    """

    def __init__(
        self,
        is_behind: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._is_behind, self._now, self._sleep = is_behind, now, sleep
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def clip(self, gone: threading.Event) -> Iterator[Callable[[float], None]]:
        """While a clip is made. What it gives is to be called after every solver step.

        Raises:
            Gone: ``gone`` is set; what it gives raises this as well.
        """

        def next_step(share: float) -> None:  # noqa: ARG001
            until = self._now() + PATIENCE
            while self._is_behind() and self._now() < until and not gone.is_set():
                self._sleep(_POLL)
            if gone.is_set():
                raise Gone

        while not self._turn.acquire(timeout=_POLL):
            if gone.is_set():
                raise Gone
        try:
            next_step(0.0)
            yield next_step
        finally:
            self._turn.release()
