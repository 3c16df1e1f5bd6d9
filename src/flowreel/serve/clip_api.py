"""Clips on request, and what viewers upload for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from flowreel.errors import InputError
from flowreel.flow.noise import sample_seed
from flowreel.media import Writer
from flowreel.pipeline.pipeline import DEFAULT_SECONDS, Pipeline
from flowreel.serve import messages as control
from flowreel.serve.errors import Refused
from flowreel.serve.live_stream import Wish
from flowreel.serve.state import LONGEST_MESSAGE, House, as_given, with_defaults
from flowreel.serve.turns import Gone
from flowreel.serve.uploads import Upload

log = logging.getLogger("flowreel.serve")

PATIENCE = 10.0
"""Seconds in which the parameters of a request must come."""


async def media(house: House, request: Request) -> Response:
    """Take an upload for later use."""
    upload = await house.reader.read(request.stream(), request.headers.get("content-length"))
    facts = {"video": upload.picture, "audio": upload.clip.audio is not None, "seconds": upload.clip.seconds}
    return JSONResponse({"media": house.studio.keep(upload), **facts})


async def generate(house: House, request: Request) -> Response:
    """A finished clip. Parameters are a JSON body, or the query beside an upload as the body."""
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    given: Upload | None = None
    if kind == "application/json":
        values = await _json(request)
        role = values.pop("as", "")
        if "media" in values:
            given = as_given(house.studio.upload(str(values.pop("media"))), role)
    else:
        values = dict(request.query_params)
        values.pop("token", None)
        role = values.pop("as", "")
        if role:
            upload = await house.reader.read(request.stream(), request.headers.get("content-length"))
            given = as_given(upload, role)
    wish, seconds = _wished(house, values, role, given)
    with house.studio.work():
        path = await _made(house, request, wish, seconds)
    house.studio.counts.clips += 1
    response = FileResponse(path, media_type="video/mp4", filename=f"flowreel-{wish.label or 'clip'}-{wish.seed}.mp4")
    return _Passing(response, path)


def _wished(house: House, values: dict[str, Any], role: Any, given: Upload | None) -> tuple[Wish, float]:
    """What is to be made, and how long it is."""
    seconds = control.seconds(values, house.longest)
    if unknown := set(values) - {"label", "seed", "guidance", "steps", "window", "seconds"}:
        raise Refused(400, f"there is no parameter {sorted(unknown)[0][:60]}")
    wish = house.studio.whole(with_defaults(control.wished(values, house.pipeline.config), house.studio.wish))
    if given is not None:
        wish = replace(wish, given=given.clip, role=role)
    if seconds is None:
        usual = given.clip.seconds if given is not None and role != "prefix" else DEFAULT_SECONDS
        seconds = min(usual, house.longest)
    return wish, seconds


class _Passing(Response):
    """A file that is removed when it was sent."""

    def __init__(self, response: FileResponse, path: Path) -> None:
        super().__init__()
        self._response, self._path = response, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._path.unlink(missing_ok=True)


async def _json(request: Request) -> dict[str, Any]:
    body = b""
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                body += part
                if len(body) > LONGEST_MESSAGE:
                    raise Refused(413, f"the parameters may have at most {LONGEST_MESSAGE} bytes")
    except TimeoutError as error:
        raise Refused(408, f"the parameters did not come within {PATIENCE:g} s") from error
    try:
        values = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body must be JSON") from error
    if not isinstance(values, dict):
        raise Refused(400, "the body must be a JSON object")
    return values


async def _made(house: House, request: Request, wish: Wish, seconds: float) -> Path:
    """Make the clip in a thread; who hangs up stops it after the chunk that it is at."""
    gone = threading.Event()
    work = asyncio.create_task(asyncio.to_thread(_make, house, wish, seconds, gone))
    try:
        while not work.done():
            await asyncio.wait([work], timeout=0.2)
            if not work.done() and house.studio.closed:
                raise Refused(503, "the server is being ended")
            if not work.done() and await request.is_disconnected():
                raise ClientDisconnect
        return work.result()
    except InputError as error:
        log.info("a clip was refused: %s", error)
        raise Refused(400, "a clip can't be made so by this model: the server's log says why") from error
    finally:
        gone.set()
        if not work.done():
            with contextlib.suppress(Exception):
                (await work).unlink(missing_ok=True)


def _make(house: House, wish: Wish, seconds: float, gone: threading.Event) -> Path:
    with house.studio.turns.clip(gone) as next_step:
        torch.set_num_threads(house.studio.threads)
        return _written(house.pipeline, wish, seconds, gone, next_step)


def _written(
    pipeline: Pipeline, wish: Wish, seconds: float, gone: threading.Event, next_step: Callable[[float], None]
) -> Path:
    given: dict[str, Any] = {wish.role: wish.given} if wish.given is not None else {}
    chunks = pipeline.clips(
        [wish.label],
        [sample_seed(wish.seed or 0, 0)],
        seconds=seconds,
        conditioning=pipeline.condition(**given, seconds=seconds),
        watch=next_step,
        **wish.settings,
    )
    folder = Path(tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(prefix="flowreel-clip-", suffix=".mp4", dir=folder, delete=False) as file:
        path = Path(file.name)
    writer: Writer | None = None
    try:
        for chunk in chunks:
            if gone.is_set():
                raise Gone
            clip = chunk[0]
            if writer is None:
                height, width = clip.frames.shape[1:3]
                rate = None if clip.audio is None else clip.sample_rate
                writer = Writer(path, fps=clip.fps, height=height, width=width, sample_rate=rate)
            writer.write(clip)
        assert writer is not None
        writer.close()
    except BaseException:
        if writer is not None:
            writer.abort()
        path.unlink(missing_ok=True)
        raise
    return path
