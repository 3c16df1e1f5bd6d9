"""Signals that end a run: noted when they arrive, handled between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class SignalHandler:
    """Notes SIGINT and SIGTERM, as a context manager. A second SIGINT interrupts at once.

    ``requested``: this process got a signal; ``agreed``: some process did, and all know it.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.agreed = False
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python takes no handlers in other threads
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
