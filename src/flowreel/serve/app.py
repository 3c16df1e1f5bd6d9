"""The server's addresses: the page, the live stream, clips on request, and what there is to know about it.

Knows: addresses, what the server says of itself. Does not know: the messages of the live stream (``live.py``), how a
clip is made (``clips.py``), threads.
"""

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
from flowreel.serve import messages as control
from flowreel.serve.clip_api import generate, media
from flowreel.serve.errors import Refused
from flowreel.serve.schema import openapi, prometheus
from flowreel.serve.security import Guard
from flowreel.serve.sessions import Studio
from flowreel.serve.state import RETRY, House
from flowreel.serve.uploads import Form, Limits, Reader
from flowreel.serve.websocket import endless, watch

log = logging.getLogger("flowreel.serve")

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def app(
    studio: Studio, *, name: str, hosts: tuple[str, ...], local: bool, token: str, limits: Limits, longest: float
) -> Starlette:
    """The ASGI application.

    Args:
        name: of the pipeline, as it is shown.
        hosts, local, token: see :class:`Guard`.
        limits: of uploads.
        longest: seconds of a clip that may be asked for.
    """
    config = studio.pipeline.config
    form = Form(
        config.timing.fps,
        *config.frame_size,
        config.codec.video.fit,
        config.timing.sample_rate if config.timing.has_audio else None,
        config.codec.audio.channel if config.codec.audio else "mean",
    )
    house = House(studio, Reader(form, limits), name, longest)

    def to(answer: Callable[[House, Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            try:
                return await answer(house, request)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                if is_full(error):
                    log.error("%s %s: the disk is full: %s", request.method, request.url.path, gettempdir())
                    return refused(Refused(507, "the server's disk is full: try again later"))
                if isinstance(error, Refused):
                    return refused(error)
                log.exception("%s %s failed", request.method, request.url.path)
                return refused(Refused(500, "something went wrong here; the server's log says what"))

        return answered

    async def live(socket: WebSocket) -> None:
        await watch(house, socket)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await studio.close()

    routes = [
        *(Route(path, to(page)) for path in PAGE),
        WebSocketRoute("/ws", live),
        Route("/stream.mp4", to(endless)),
        Route("/api/media", to(media), methods=["POST"]),
        Route("/api/generate", to(generate), methods=["POST"]),
        Route("/api/info", to(info)),
        Route("/healthz", to(health)),
        Route("/metrics", to(metrics)),
        Route("/openapi.json", to(described)),
    ]
    application = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts, local=local, token=token)],
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


def refused(refusal: Refused) -> Response:
    headers = {"retry-after": str(RETRY)} if refusal.status in (429, 503) else {}
    return JSONResponse({"error": {"status": refusal.status, "message": refusal.message}}, refusal.status, headers)


async def missing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = "there is nothing at this address" if status == 404 else f"{request.method} is not for this address"
    return refused(Refused(status, what))


async def page(house: House, request: Request) -> Response:  # noqa: ARG001
    name, kind = PAGE[request.url.path]
    data = resources.files("flowreel.serve").joinpath("static", name).read_bytes()
    return Response(data, media_type=kind, headers={"cache-control": "no-cache"})


# --- what there is to know ----------------------------------------------------------------------------------------


async def info(house: House, request: Request) -> Response:  # noqa: ARG001
    config, studio, limits = house.pipeline.config, house.studio, house.reader.limits
    height, width = config.frame_size
    return JSONResponse(
        {
            "version": __version__,
            "model": house.name,
            "classes": list(config.classes),
            "fps": config.timing.fps,
            "width": width,
            "height": height,
            "sample_rate": config.timing.sample_rate if config.timing.has_audio else None,
            "guidance": config.guidance,
            "steps": config.steps,
            "roles": list(config.trained.roles),
            "broadcast": studio.broadcast,
            "viewers": len(studio.seats),
            "max_viewers": studio.places,
            "limits": {
                "upload_mb": limits.size / 2**20,
                "media_seconds": limits.media_seconds,
                "clip_seconds": house.longest,
                "steps": control.MOST_STEPS,
                "guidance": control.MOST_GUIDANCE,
            },
        }
    )


async def health(house: House, request: Request) -> Response:  # noqa: ARG001
    return PlainTextResponse("ok\n")


async def metrics(house: House, request: Request) -> Response:  # noqa: ARG001
    studio = house.studio
    values = asdict(studio.counts) | {"frames": studio.frames, "viewers": len(studio.seats), "places": studio.places}
    leads = [seat.roll.lead for seat in studio.seats]
    return PlainTextResponse(
        prometheus(values | {"lead_seconds": max(leads, default=0.0)}), media_type="text/plain; version=0.0.4"
    )


async def described(house: House, request: Request) -> Response:  # noqa: ARG001
    return JSONResponse(openapi(house.name, list(house.pipeline.config.classes), house.longest))
