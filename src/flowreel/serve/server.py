"""``flowreel serve``: loads the pipeline, measures its speed and runs the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flowreel.errors import InputError, require
from flowreel.utils.reporting import Progress

if TYPE_CHECKING:
    import uvicorn

    from flowreel.config import ServeConfig
    from flowreel.pipeline.pipeline import Pipeline
    from flowreel.serve.live_stream import StreamRequest
    from flowreel.serve.sessions import SessionManager
    from flowreel.serve.uploads import Limits
    from flowreel.utils.reporting import Report

AHEAD = 0.7
"""Seconds that a generation is ahead of its viewer."""
BROADCAST_PLACES = 64
WARM_SECONDS = 3.0
"""Of video that the real-time factor is measured on."""
CLIP_SECONDS = 30.0
"""The longest clip that can be asked for."""
GRACE = 2
"""Seconds that connections have to end."""


def serve(pipe: str, config: ServeConfig, report: Report) -> None:
    """Serve until interrupted. Says when it is ready, and where.

    Raises:
        InputError: something that can't be done; the address is in use.
    """
    for module in ("starlette", "uvicorn", "websockets"):
        require(module, "serve")
    from flowreel.pipeline.loading import load
    from flowreel.pipeline.resolve import makes_clips
    from flowreel.serve.live_stream import StreamRequest
    from flowreel.serve.pace import slowness
    from flowreel.serve.sessions import SessionManager

    listening = _listen(config.host, config.port)
    with contextlib.closing(listening):
        pipeline = load(pipe, device=config.device, vocoder=config.vocoder)
        if makes_clips(pipeline.config):
            raise InputError("this model makes clips of a fixed length and can't roll: use flowreel generate")
        label = None if config.label is None else pipeline.class_name(config.label, 0)
        wanted = StreamRequest(label, steps=config.steps, window=config.window, precision=config.precision)
        speed = warm_up(pipeline, wanted, pipe)
        places = config.max_viewers or (BROADCAST_PLACES if config.broadcast else max(1, int(speed)))
        sessions = SessionManager(pipeline, places=places, broadcast=config.broadcast, ahead=AHEAD, wanted=wanted)
        sessions.counts.speed = speed
        report(f"{speed:.2f} times real time; {places} viewer{'s' if places > 1 else ''} at a time")
        if speed < 1:
            report(slowness(speed, wanted, pipeline.config))
        server = make_server(sessions, pipe, config)
        address = _address(config, listening)
        asyncio.run(run(server, sessions, listening, lambda: report(f"ready: {address}")))
    report("stopped")


def warm_up(pipeline: Pipeline, wanted: StreamRequest, name: str) -> float:
    """Generate a little, so that the first viewer need not wait for what is done once; the real-time factor."""
    with Progress(f"warming {name} up") as progress:
        progress.update(0, "the first window takes shape")
        stream = pipeline.stream(label=wanted.label, seed=wanted.seed or 0, **wanted.settings)
        next(stream)
        next(stream)
        begun, made, took = time.perf_counter(), 0.0, 0.0
        while made < WARM_SECONDS and took < 4 * WARM_SECONDS:
            made += next(stream).seconds
            took = time.perf_counter() - begun
            share = max(made / WARM_SECONDS, took / (4 * WARM_SECONDS))
            progress.update(min(1.0, share), f"{made:.1f} s made, {made / took:.2g} times real time")
    return made / took


def make_server(
    sessions: SessionManager,
    name: str,
    config: ServeConfig,
    limits: Limits | None = None,
    longest: float = CLIP_SECONDS,
) -> uvicorn.Server:
    """The server of these sessions, with limits on what a request may take.

    Args:
        name: of the pipeline.
        limits: of what is uploaded.
        longest: seconds of a clip that may be asked for.
    """
    import uvicorn

    from flowreel.serve.app import app
    from flowreel.serve.protocol import BoundedWebSocket, QuietServer, TimedProtocol
    from flowreel.serve.security import LOOPBACK, own_names
    from flowreel.serve.uploads import Limits

    logging.basicConfig(format="flowreel: %(message)s")
    local = config.host in LOOPBACK
    application = app(
        sessions,
        name=name,
        hosts=(*LOOPBACK, config.host, *own_names(), *config.allow_host),
        local=local,
        token=config.token,
        limits=limits or Limits(),
        longest=longest,
    )
    return QuietServer(
        uvicorn.Config(
            application,
            http=TimedProtocol,
            ws=BoundedWebSocket,
            ws_max_size=2**16,
            ws_per_message_deflate=False,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=4 * sessions.places + 64,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=GRACE,
        )
    )


async def run(
    server: uvicorn.Server, sessions: SessionManager, listening: socket.socket, ready: Callable[[], None]
) -> None:
    """Serve until interrupted, or until ``server.should_exit``; ``ready`` is called when connections are taken."""
    sessions.keep_spare()
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.02)
    if server.started:
        ready()
    ending = asyncio.create_task(_end_seats(server, sessions))
    try:
        await serving
    finally:
        ending.cancel()
        await sessions.close()


async def _end_seats(server: uvicorn.Server, sessions: SessionManager) -> None:
    """End the viewers' connections when the server is to end: an endless answer would never end by itself."""
    while not server.should_exit:
        await asyncio.sleep(0.1)
    sessions.leave()


def _listen(host: str, port: int) -> socket.socket:
    """A socket of our own, so that an address in use is said before a model is loaded."""
    listening: socket.socket | None = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise InputError(
            f"{host}:{port} can't be listened on: {error.strerror or error}; choose another --port or --host"
        ) from error
    return listening


def _address(config: ServeConfig, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + ("?token=..." if config.token else "")
