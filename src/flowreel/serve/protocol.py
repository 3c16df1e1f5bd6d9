"""What uvicorn leaves open: connections that must say what they want within a time, and take what they are sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

FRAMES = 64
"""Frames that one message of a viewer may be cut into."""


class QuietServer(uvicorn.Server):
    """Ends when it is interrupted, and is done with that: uvicorn's own raises the signal again when it has ended. A
    WebSocket that was refused is no error."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_news)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line belongs in the log; what a client did wrong takes one line, without a traceback."""
    message = record.getMessage()
    if "Invalid UTF-8" in message:
        record.msg, record.args, record.exc_info = "a viewer sent text that is not UTF-8: closed (1007)", (), None
    return "without completing handshake" not in message


class TimedProtocol(H11Protocol):
    """Closes a connection where the headers of a request do not come within :data:`SECONDS` of its first byte, or of
    the connection."""

    SECONDS = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._has_request():
            self._forget()
        elif self._deadline is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(self.SECONDS, self._too_late)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        # a WebSocket has another protocol by now
        if not self._has_request() and not self.transport.is_closing() and self.transport.get_protocol() is self:
            self.transport.close()


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Lets go of who does not read: what waits for them can't grow, and their place is free."""

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.transport.abort()

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) >= FRAMES:
            self.transport.abort()
        else:
            super().handle_cont(event)
