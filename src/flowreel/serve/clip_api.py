"""Answers requests for clips, and takes the uploads for them."""

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
from flowreel.serve import messages
from flowreel.serve.errors import RequestError
from flowreel.serve.live_stream import StreamRequest
from flowreel.serve.state import LONGEST_MESSAGE, ServerState, as_conditioning, with_defaults
from flowreel.serve.turns import Gone
from flowreel.serve.uploads import Upload

log = logging.getLogger("flowreel.serve")

PATIENCE = 10.0
"""Seconds in which the parameters of a request must come."""


async def media(state: ServerState, request: Request) -> Response:
    """Take an upload for later use."""
    upload = await state.reader.read(request.stream(), request.headers.get("content-length"))
    facts = {"video": upload.has_video, "audio": upload.clip.audio is not None, "seconds": upload.clip.seconds}
    return JSONResponse({"media": state.sessions.keep(upload), **facts})


async def generate(state: ServerState, request: Request) -> Response:
    """A finished clip. Parameters are a JSON body, or the query beside an upload as the body."""
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    upload: Upload | None = None
    if kind == "application/json":
        values = await _json(request)
        role = values.pop("as", "")
        if "media" in values:
            upload = as_conditioning(state.sessions.upload(str(values.pop("media"))), role)
    else:
        values = dict(request.query_params)
        values.pop("token", None)
        role = values.pop("as", "")
        if role:
            body = await state.reader.read(request.stream(), request.headers.get("content-length"))
            upload = as_conditioning(body, role)
    wanted, seconds = _wanted(state, values, role, upload)
    with state.sessions.work():
        path = await _made(state, request, wanted, seconds)
    state.sessions.counts.clips += 1
    response = FileResponse(
        path, media_type="video/mp4", filename=f"flowreel-{wanted.label or 'clip'}-{wanted.seed}.mp4"
    )
    return _Passing(response, path)


def _wanted(
    state: ServerState, values: dict[str, Any], role: Any, upload: Upload | None
) -> tuple[StreamRequest, float]:
    """The request and its length in seconds."""
    seconds = messages.seconds(values, state.longest)
    if unknown := set(values) - {"label", "seed", "guidance", "steps", "window", "seconds"}:
        raise RequestError(400, f"there is no parameter {sorted(unknown)[0][:60]}")
    wanted = state.sessions.whole(
        with_defaults(messages.stream_request(values, state.pipeline.config), state.sessions.wanted)
    )
    if upload is not None:
        wanted = replace(wanted, media=upload.clip, role=role)
    if seconds is None:
        usual = upload.clip.seconds if upload is not None and role != "prefix" else DEFAULT_SECONDS
        seconds = min(usual, state.longest)
    return wanted, seconds


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
                    raise RequestError(413, f"the parameters may have at most {LONGEST_MESSAGE} bytes")
    except TimeoutError as error:
        raise RequestError(408, f"the parameters did not come within {PATIENCE:g} s") from error
    try:
        values = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the body must be JSON") from error
    if not isinstance(values, dict):
        raise RequestError(400, "the body must be a JSON object")
    return values


async def _made(state: ServerState, request: Request, wanted: StreamRequest, seconds: float) -> Path:
    """Make the clip in a thread; who hangs up stops it after the chunk that it is at."""
    gone = threading.Event()
    work = asyncio.create_task(asyncio.to_thread(_make, state, wanted, seconds, gone))
    try:
        while not work.done():
            await asyncio.wait([work], timeout=0.2)
            if not work.done() and state.sessions.closed:
                raise RequestError(503, "the server is being ended")
            if not work.done() and await request.is_disconnected():
                raise ClientDisconnect
        return work.result()
    except InputError as error:
        log.info("a clip was refused: %s", error)
        raise RequestError(400, "a clip can't be made so by this model: the server's log says why") from error
    finally:
        gone.set()
        if not work.done():
            with contextlib.suppress(Exception):
                (await work).unlink(missing_ok=True)


def _make(state: ServerState, wanted: StreamRequest, seconds: float, gone: threading.Event) -> Path:
    with state.sessions.turns.clip(gone) as next_step:
        torch.set_num_threads(state.sessions.threads)
        return _written(state.pipeline, wanted, seconds, gone, next_step)


def _written(
    pipeline: Pipeline, wanted: StreamRequest, seconds: float, gone: threading.Event, next_step: Callable[[float], None]
) -> Path:
    media: dict[str, Any] = {wanted.role: wanted.media} if wanted.media is not None else {}
    chunks = pipeline.clips(
        [wanted.label],
        [sample_seed(wanted.seed or 0, 0)],
        seconds=seconds,
        conditioning=pipeline.condition(**media, seconds=seconds),
        watch=next_step,
        **wanted.settings,
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
