"""A server in a thread, and clients of it, for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from websockets.sync.client import ClientConnection, connect

from flowreel.config import ServeConfig
from flowreel.pipeline.pipeline import Pipeline
from flowreel.serve.live_stream import StreamRequest
from flowreel.serve.server import CLIP_SECONDS, make_server, run
from flowreel.serve.sessions import SessionManager
from flowreel.serve.uploads import Limits


@dataclass
class Served:
    """Where it is, and its sessions."""

    port: int
    sessions: SessionManager

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}

    def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        status, answer, _ = self.ask(method, path, data, {"content-type": "application/json"} if data else None)
        return status, json.loads(answer)

    def watch(self, query: str = "", **options: Any) -> ClientConnection:
        return connect(f"ws://{self.host}/ws{query}", max_size=2**24, open_timeout=10, **options)


@dataclass
class Client:
    """Reads a viewer's messages, and says how far it has played."""

    socket: ClientConnection
    init: bytes = b""

    def next(self, timeout: float = 20) -> tuple[dict[str, Any], bytes]:
        """The next message and its media."""
        message = self.socket.recv(timeout)
        if isinstance(message, str):
            return json.loads(message), b""
        length = int.from_bytes(message[:4], "little")
        return json.loads(message[4 : 4 + length]), message[4 + length :]

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def until(self, kind: str, playing: bool = True) -> dict[str, Any]:
        """The next message of a ``type`` or ``kind``, having played all fragments before it."""
        while True:
            header, data = self.next()
            found = header.get("type", header.get("kind"))
            if found == "init":
                self.init = data
            if found == "fragment" and playing:
                self.say(type="played", time=header["end"])
            if found == kind:
                return {**header, "data": data}


class Clock:
    """A clock that stands still until it is moved on."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def on(self, seconds: float) -> None:
        self.time += seconds


@contextlib.contextmanager
def served(
    pipeline: Pipeline,
    *,
    places: int = 2,
    broadcast: bool = False,
    port: int = 0,
    seed: int | None = None,
    now: Callable[[], float] = time.monotonic,
    limits: Limits | None = None,
    longest: float = CLIP_SECONDS,
    **options: Any,
) -> Iterator[Served]:
    """A server of ``pipeline`` for as long as the context lasts; it must end within seconds. ``now``: its clock."""
    config = ServeConfig(port=port, **options)
    wanted = StreamRequest(config.label, seed)
    sessions = SessionManager(pipeline, places=places, broadcast=broadcast, ahead=0.6, wanted=wanted, now=now)
    server = make_server(sessions, "tiny", config, limits, longest)
    listening = socket.create_server(("127.0.0.1", port))
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run(server, sessions, listening, ready.set)))
    thread.start()
    try:
        assert ready.wait(20), "the server did not start"
        yield Served(listening.getsockname()[1], sessions)
    finally:
        server.should_exit = True
        thread.join(15)
        listening.close()
        assert not thread.is_alive(), "the server did not end"
        assert not sessions._alive(), "a generation went on"
