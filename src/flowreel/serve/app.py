"""The addresses of the server: page, live stream, clips, uploads, descriptions."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from importlib import resources
from tempfile import gettempdir

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from flowreel import __version__
from flowreel.serve import messages
from flowreel.serve.clip_api import generate, media
from flowreel.serve.errors import RequestError
from flowreel.serve.schema import openapi, prometheus
from flowreel.serve.security import SecurityMiddleware
from flowreel.serve.sessions import SessionManager
from flowreel.serve.state import RETRY, ServerState
from flowreel.serve.uploads import Form, Limits, Reader
from flowreel.serve.websocket import endless, watch

log = logging.getLogger("flowreel.serve")

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{
        f"/js/{name}.js": (f"js/{name}.js", "text/javascript")
        for name in ("page", "player", "connection", "mp4", "spectrum", "dom")
    },
}
"""The files of the page by their addresses, with their types."""


def app(
    sessions: SessionManager,
    *,
    name: str,
    hosts: tuple[str, ...],
    local: bool,
    token: str,
    limits: Limits,
    longest: float,
) -> Starlette:
    """The ASGI application.

    Args:
        name: of the pipeline, as it is shown.
        hosts, local, token: see :class:`SecurityMiddleware`.
        limits: of uploads.
        longest: seconds of a clip that may be asked for.
    """
    config = sessions.pipeline.config
    form = Form(
        config.timing.fps,
        *config.frame_size,
        config.codec.video.fit,
        config.timing.sample_rate if config.timing.has_audio else None,
        config.codec.audio.channel if config.codec.audio else "mean",
    )
    state = ServerState(sessions, Reader(form, limits), name, longest)

    def to(answer: Callable[[ServerState, Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            try:
                return await answer(state, request)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                if is_full(error):
                    log.error("%s %s: the disk is full: %s", request.method, request.url.path, gettempdir())
                    return refused(RequestError(507, "the server's disk is full: try again later"))
                if isinstance(error, RequestError):
                    return refused(error)
                log.exception("%s %s failed", request.method, request.url.path)
                return refused(RequestError(500, "something went wrong here; the server's log says what"))

        return answered

    async def live(socket: WebSocket) -> None:
        await watch(state, socket)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await sessions.close()

    routes = [
        *(Route(path, to(page)) for path in PAGE),
        WebSocketRoute("/ws", live),
        Route("/stream.mp4", to(endless)),
        Route("/api/media", to(media), methods=["POST"]),
        Route("/api/generate", to(generate), methods=["POST"]),
        Route("/api/info", to(info)),
        Route("/healthz", to(health)),
        Route("/metrics", to(metrics)),
        Route("/openapi.json", to(description)),
    ]
    application = Starlette(
        routes=routes,
        middleware=[Middleware(SecurityMiddleware, hosts=hosts, local=local, token=token)],
        lifespan=lifespan,
        exception_handlers={404: missing, 405: missing},
    )
    application.router.redirect_slashes = False  # Starlette's redirects name the host and repeat the query's token
    return application


def is_full(error: BaseException | None) -> bool:
    """Whether it came of a disk that is full, or of a quota that is used up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def refused(error: RequestError) -> Response:
    headers = {"retry-after": str(RETRY)} if error.status in (429, 503) else {}
    return JSONResponse({"error": {"status": error.status, "message": error.message}}, error.status, headers)


async def missing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = "there is nothing at this address" if status == 404 else f"{request.method} is not for this address"
    return refused(RequestError(status, what))


async def page(state: ServerState, request: Request) -> Response:  # noqa: ARG001
    name, kind = PAGE[request.url.path]
    data = resources.files("flowreel.serve").joinpath("static", name).read_bytes()
    return Response(data, media_type=kind, headers={"cache-control": "no-cache"})


# --- what there is to know ----------------------------------------------------------------------------------------


async def info(state: ServerState, request: Request) -> Response:  # noqa: ARG001
    config, sessions, limits = state.pipeline.config, state.sessions, state.reader.limits
    height, width = config.frame_size
    return JSONResponse(
        {
            "version": __version__,
            "model": state.name,
            "classes": list(config.classes),
            "fps": config.timing.fps,
            "width": width,
            "height": height,
            "sample_rate": config.timing.sample_rate if config.timing.has_audio else None,
            "guidance": config.guidance,
            "steps": config.steps,
            "roles": list(config.trained.roles),
            "broadcast": sessions.broadcast,
            "viewers": len(sessions.viewers),
            "max_viewers": sessions.places,
            "limits": {
                "upload_mb": limits.size / 2**20,
                "media_seconds": limits.media_seconds,
                "clip_seconds": state.longest,
                "steps": messages.MOST_STEPS,
                "guidance": messages.MOST_GUIDANCE,
            },
        }
    )


async def health(state: ServerState, request: Request) -> Response:  # noqa: ARG001
    return PlainTextResponse("ok\n")


async def metrics(state: ServerState, request: Request) -> Response:  # noqa: ARG001
    sessions = state.sessions
    values = asdict(sessions.counts) | {
        "frames": sessions.frames,
        "viewers": len(sessions.viewers),
        "places": sessions.places,
    }
    leads = [viewer.live.lead for viewer in sessions.viewers]
    return PlainTextResponse(
        prometheus(values | {"lead_seconds": max(leads, default=0.0)}), media_type="text/plain; version=0.0.4"
    )


async def description(state: ServerState, request: Request) -> Response:  # noqa: ARG001
    return JSONResponse(openapi(state.name, list(state.pipeline.config.classes), state.longest))
