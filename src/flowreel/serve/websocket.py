"""The live stream: fragments down and wishes up over a WebSocket, or one MP4 without an end for players."""

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

from flowreel.serve import messages as control
from flowreel.serve.errors import Refused
from flowreel.serve.live_stream import Fragment, Problem
from flowreel.serve.pace import Pace, faster, slowness
from flowreel.serve.security import Bucket
from flowreel.serve.sessions import Full, Seat
from flowreel.serve.state import LONGEST_MESSAGE, RETRY, House, as_given, with_defaults

log = logging.getLogger("flowreel.serve")

SILENCE = 300.0
"""Seconds after which a viewer who says nothing has to go: pages say where they are all the time."""
STUCK = 30.0
"""Seconds in which a viewer must take what is sent."""
MISTAKES = 20
"""Messages that were refused, after which a viewer has to go."""


async def watch(house: House, socket: WebSocket) -> None:
    """One viewer: fragments down, wishes up, until either side has gone."""
    try:
        wish = control.wished(dict(socket.query_params), house.pipeline.config)
    except Refused as refusal:
        await socket.accept()
        await _tell(socket, {"type": "error", "status": refusal.status, "message": refusal.message})
        await socket.close(1008)
        return
    await socket.accept()
    try:
        async with house.studio.seat(with_defaults(wish, house.studio.wish)) as seat:
            await _tell(socket, _ready(house, seat))
            await socket.send_bytes(_packed({"kind": "init"}, seat.roll.init))
            await _until_either(_send(house, socket, seat), _listen(house, socket, seat))
    except Full:
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


def _ready(house: House, seat: Seat) -> dict[str, Any]:
    config, wish = house.pipeline.config, seat.roll.wish
    height, width = config.frame_size
    return {
        "type": "ready",
        "mime": seat.roll.mime,
        "sound": config.timing.has_audio,
        "classes": list(config.classes),
        "label": wish.label,
        "seed": wish.seed,
        "guidance": config.guidance if wish.guidance is None else wish.guidance,
        "guided": bool(config.classes) and config.model.class_dropout > 0,
        "steps": config.steps if wish.steps is None else wish.steps,
        "window": wish.window,
        "fps": config.timing.fps,
        "width": width,
        "height": height,
        "ahead": house.studio.ahead,
        "broadcast": house.studio.broadcast,
    }


async def _send(house: House, socket: WebSocket, seat: Seat) -> None:
    """Everything that is made, as fast as the viewer takes it."""
    pace, generation, logged = Pace(), 0, False
    async for part in house.studio.parts(seat):
        if isinstance(part, Problem):
            await _tell(socket, {"type": "error", "status": 500 if part.fatal else 400, "message": part.message})
            if part.fatal:
                return
            continue
        async with asyncio.timeout(STUCK):
            await socket.send_bytes(_packed(_header(part), part.data))
        house.studio.counts.sent_bytes += len(part.data)
        if part.generation != generation:
            if pace.slow:
                await _tell(socket, _paced(house, seat, part.speed, False))
            pace, generation = Pace(), part.generation
        if not pace.note(part.speed):
            continue
        await _tell(socket, _paced(house, seat, part.speed, pace.slow))
        if pace.slow and not logged:
            logged = True
            advice = slowness(part.speed, seat.roll.wish, house.pipeline.config)
            log.warning("a stream rolls at %.2f times real time: %s", part.speed, advice)


def _paced(house: House, seat: Seat, speed: float, slow: bool) -> dict[str, Any]:
    """That the machine has become slower than real time, and what would help; or that it no longer is."""
    ways = faster(speed, seat.roll.wish, house.pipeline.config)
    offers = {} if house.studio.broadcast else {"steps": ways.steps, "window": ways.window}
    return {"type": "pace", "slow": slow, "speed": round(speed, 2), **offers}


def _header(part: Fragment) -> dict[str, Any]:
    return {
        "kind": "fragment",
        "start": round(part.start, 6),
        "end": round(part.end, 6),
        "label": part.label,
        "speed": round(part.speed, 3),
        "strip": base64.b64encode(part.strip).decode(),
    }


async def _listen(house: House, socket: WebSocket, seat: Seat) -> None:
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
                raise Refused(429, "too many messages: at most 30 a second")
            text = received.get("text")
            if text is None or len(text) > LONGEST_MESSAGE:
                raise Refused(400, f"a message must be text of at most {LONGEST_MESSAGE} characters")
            said = control.message(text, house.pipeline.config)
            if _act(house, seat, said):
                await _tell(socket, _state(house, seat))
        except Refused as refusal:
            mistakes += 1
            await _tell(socket, {"type": "error", "status": refusal.status, "message": refusal.message})


def _act(house: House, seat: Seat, said: control.Message) -> bool:
    """Do it; whether the viewer should be told what it is like now."""
    roll = seat.roll
    if house.studio.broadcast:
        if isinstance(said, control.Played):
            return False
        raise Refused(403, "this stream is for all viewers: it can't be steered")
    match said:
        case control.Played(seconds):
            roll.played(seconds)
            return False
        case control.Steer(label, guidance):
            roll.steer(label, guidance)
        case control.Restart(wish):
            roll.restart(house.studio.whole(with_defaults(wish, roll.wish)))
        case control.Pause(paused):
            roll.pause(paused)
        case control.Use(name, role):
            given = as_given(house.studio.upload(name), role)
            roll.restart(replace(roll.wish, given=given.clip, role=role))
    return True


def _state(house: House, seat: Seat) -> dict[str, Any]:
    """What is generated from now on."""
    ready = _ready(house, seat)
    return {
        "type": "state",
        **{k: ready[k] for k in ("label", "seed", "guidance", "steps", "window")},
        "paused": seat.roll.paused,
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

    def __init__(self, house: House, seat: Seat, leave: contextlib.AsyncExitStack) -> None:
        super().__init__(media_type="video/mp4", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._house, self._seat, self._leave = house, seat, leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await _until_either(self._send(send), _until_gone(receive))
        finally:
            await self._leave.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._part(send, self._seat.roll.init)
        async for part in self._house.studio.parts(self._seat):
            if isinstance(part, Problem):
                break
            await self._part(send, part.data)
            self._house.studio.counts.sent_bytes += len(part.data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _part(self, send: Send, data: bytes) -> None:
        async with asyncio.timeout(STUCK):
            await send({"type": "http.response.body", "body": data, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def endless(house: House, request: Request) -> Response:
    """The stream as one MP4 without an end, for players."""
    wish = control.wished(dict(request.query_params), house.pipeline.config)
    if request.method == "HEAD":
        return Response(media_type="video/mp4")
    leave = contextlib.AsyncExitStack()
    seat = await leave.enter_async_context(house.studio.seat(with_defaults(wish, house.studio.wish), clocked=True))
    return Live(house, seat, leave)
