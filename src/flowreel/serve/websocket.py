"""The live stream over a WebSocket, or as one endless MP4 for players."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from flowreel.serve import messages
from flowreel.serve.errors import RequestError
from flowreel.serve.live_stream import Fragment, Problem
from flowreel.serve.pace import Pace, faster, slowness
from flowreel.serve.security import Bucket
from flowreel.serve.sessions import FullError, Viewer
from flowreel.serve.state import LONGEST_MESSAGE, RETRY, ServerState, as_conditioning, with_defaults

log = logging.getLogger("flowreel.serve")

SILENCE = 300.0
"""Seconds after which a viewer who says nothing has to go: pages say where they are all the time."""
STUCK = 30.0
"""Seconds in which a viewer must take what is sent."""
MISTAKES = 20
"""Messages that were refused, after which a viewer has to go."""


async def watch(state: ServerState, socket: WebSocket) -> None:
    """One viewer: sends fragments and receives messages until either side leaves."""
    try:
        wanted = messages.stream_request(dict(socket.query_params), state.pipeline.config)
    except RequestError as error:
        await socket.accept()
        await _tell(socket, {"type": "error", "status": error.status, "message": error.message})
        await socket.close(1008)
        return
    await socket.accept()
    try:
        async with state.sessions.viewer(with_defaults(wanted, state.sessions.wanted)) as viewer:
            await _tell(socket, _ready(state, viewer))
            await socket.send_bytes(_packed({"kind": "init"}, viewer.live.init))
            await _until_either(_send(state, socket, viewer), _listen(state, socket, viewer))
    except FullError:
        await _tell(socket, {"type": "full", "retry": RETRY})
        await _close(socket, 1013)
    except (WebSocketDisconnect, RuntimeError):
        return  # the viewer has gone
    await _close(socket, 1001)


async def _until_either(*jobs: Coroutine[Any, Any, None]) -> None:
    """Do both until one has ended, and end the other."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            _report(result)


def _report(result: object) -> None:
    if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect | RuntimeError | OSError):
        log.error("a viewer's connection failed", exc_info=result)


def _ready(state: ServerState, viewer: Viewer) -> dict[str, Any]:
    config, wanted = state.pipeline.config, viewer.live.wanted
    height, width = config.frame_size
    return {
        "type": "ready",
        "mime": viewer.live.mime,
        "sound": config.timing.has_audio,
        "classes": list(config.classes),
        "label": wanted.label,
        "seed": wanted.seed,
        "guidance": config.guidance if wanted.guidance is None else wanted.guidance,
        "guided": bool(config.classes) and config.model.class_dropout > 0,
        "steps": config.steps if wanted.steps is None else wanted.steps,
        "window": wanted.window,
        "fps": config.timing.fps,
        "width": width,
        "height": height,
        "ahead": state.sessions.ahead,
        "broadcast": state.sessions.broadcast,
    }


async def _send(state: ServerState, socket: WebSocket, viewer: Viewer) -> None:
    """Everything that is made, as fast as the viewer takes it."""
    pace, generation, logged = Pace(), 0, False
    async for part in state.sessions.parts(viewer):
        if isinstance(part, Problem):
            await _tell(socket, {"type": "error", "status": 500 if part.fatal else 400, "message": part.message})
            if part.fatal:
                return
            continue
        async with asyncio.timeout(STUCK):
            await socket.send_bytes(_packed(_header(part), part.data))
        state.sessions.counts.sent_bytes += len(part.data)
        if part.generation != generation:
            if pace.slow:
                await _tell(socket, _paced(state, viewer, part.speed, False))
            pace, generation = Pace(), part.generation
        if not pace.note(part.speed):
            continue
        await _tell(socket, _paced(state, viewer, part.speed, pace.slow))
        if pace.slow and not logged:
            logged = True
            advice = slowness(part.speed, viewer.live.wanted, state.pipeline.config)
            log.warning("a stream runs at %.2f times real time: %s", part.speed, advice)


def _paced(state: ServerState, viewer: Viewer, speed: float, slow: bool) -> dict[str, Any]:
    """That the machine has become slower than real time, and what would help; or that it no longer is."""
    ways = faster(speed, viewer.live.wanted, state.pipeline.config)
    offers = {} if state.sessions.broadcast else {"steps": ways.steps, "window": ways.window}
    return {"type": "pace", "slow": slow, "speed": round(speed, 2), **offers}


def _header(part: Fragment) -> dict[str, Any]:
    return {
        "kind": "fragment",
        "start": round(part.start, 6),
        "end": round(part.end, 6),
        "label": part.label,
        "speed": round(part.speed, 3),
        "spectrum": base64.b64encode(part.spectrum).decode(),
    }


async def _listen(state: ServerState, socket: WebSocket, viewer: Viewer) -> None:
    """What the viewer says; who says nothing that can be understood is sent away."""
    mistakes, bucket = 0, Bucket(rate=30, burst=60)
    while mistakes < MISTAKES:
        try:
            async with asyncio.timeout(SILENCE):
                received = await socket.receive()
        except TimeoutError:
            return
        if received["type"] == "websocket.disconnect":
            return
        try:
            if not bucket.take():
                raise RequestError(429, "too many messages: at most 30 a second")
            text = received.get("text")
            if text is None or len(text) > LONGEST_MESSAGE:
                raise RequestError(400, f"a message must be text of at most {LONGEST_MESSAGE} characters")
            said = messages.message(text, state.pipeline.config)
            if _act(state, viewer, said):
                await _tell(socket, _state(state, viewer))
        except RequestError as error:
            mistakes += 1
            await _tell(socket, {"type": "error", "status": error.status, "message": error.message})


def _act(state: ServerState, viewer: Viewer, said: messages.Message) -> bool:
    """Fulfil the message. True where the viewer gets the new state."""
    live = viewer.live
    if state.sessions.broadcast:
        if isinstance(said, messages.Played):
            return False
        raise RequestError(403, "this stream is for all viewers: it can't be steered")
    match said:
        case messages.Played(seconds):
            live.played(seconds)
            return False
        case messages.Steer(label, guidance):
            live.steer(label, guidance)
        case messages.Restart(wanted):
            live.restart(state.sessions.whole(with_defaults(wanted, live.wanted)))
        case messages.Pause(paused):
            live.pause(paused)
        case messages.Use(name, role):
            upload = as_conditioning(state.sessions.upload(name), role)
            live.restart(replace(live.wanted, media=upload.clip, role=role))
    return True


def _state(state: ServerState, viewer: Viewer) -> dict[str, Any]:
    """What is generated from now on."""
    ready = _ready(state, viewer)
    return {
        "type": "state",
        **{k: ready[k] for k in ("label", "seed", "guidance", "steps", "window")},
        "paused": viewer.live.paused,
    }


def _packed(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + data


async def _tell(socket: WebSocket, message: dict[str, Any]) -> None:
    await socket.send_text(json.dumps(message))


async def _close(socket: WebSocket, code: int) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
        async with asyncio.timeout(5):
            await socket.close(code)


class Live(Response):
    """An endless answer, which holds its viewer's place from before its first byte until either side has gone."""

    def __init__(self, state: ServerState, viewer: Viewer, leave: contextlib.AsyncExitStack) -> None:
        super().__init__(media_type="video/mp4", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._state, self._viewer, self._leave = state, viewer, leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await _until_either(self._send(send), _until_gone(receive))
        finally:
            await self._leave.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._part(send, self._viewer.live.init)
        async for part in self._state.sessions.parts(self._viewer):
            if isinstance(part, Problem):
                break
            await self._part(send, part.data)
            self._state.sessions.counts.sent_bytes += len(part.data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _part(self, send: Send, data: bytes) -> None:
        async with asyncio.timeout(STUCK):
            await send({"type": "http.response.body", "body": data, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def endless(state: ServerState, request: Request) -> Response:
    """The stream as one MP4 without an end, for players."""
    wanted = messages.stream_request(dict(request.query_params), state.pipeline.config)
    if request.method == "HEAD":
        return Response(media_type="video/mp4")
    leave = contextlib.AsyncExitStack()
    viewer = await leave.enter_async_context(
        state.sessions.viewer(with_defaults(wanted, state.sessions.wanted), clocked=True)
    )
    return Live(state, viewer, leave)
