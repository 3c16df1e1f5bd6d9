"""How a long run hears that it should end: signals, noted and answered between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Stop:
    """Listens for SIGINT and SIGTERM while it is entered. A second SIGINT interrupts at once.

    ``asked``: this process was told to stop; ``agreed``: some process was, and all know it.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.agreed = False
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
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
