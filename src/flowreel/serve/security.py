"""Checks hosts, origins, the token and rates, and sets the security headers of every answer."""

from __future__ import annotations

import hmac
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "::1", "localhost")
COOKIE = "flowreel_token"
CLIENTS = 1024
"""Addresses that rates are remembered of."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Bucket:
    """Tokens that come back at ``rate`` a second, at most ``burst``; ``now`` gives the time in seconds."""

    def __init__(self, rate: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._now = rate, burst, now
        self._left, self._at = burst, now()

    def take(self) -> bool:
        """Whether there was one."""
        now = self._now()
        self._left, self._at = min(self.burst, self._left + (now - self._at) * self.rate), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class SecurityMiddleware:
    """ASGI middleware that refuses before anything else sees a request.

    A page of another site can reach a server on loopback through its visitor's browser: so the Host must be one of
    ours (a name that was made to point here is not), and an Origin must be that Host. This holds with a token as well.

    Args:
        hosts: names and addresses that the server may be called by, in any case.
        local: whether others can't reach it. If they can, it may be called by any IP address, as nobody can make an
            address point elsewhere.
        token: what everyone must give, as ``?token=``, as ``Authorization: Bearer`` or as the cookie that the page
            gets; "" for none.
        rate, burst: of requests from one address, see :class:`Bucket`.
        now: gives the time in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: tuple[str, ...],
        local: bool,
        token: str,
        rate: float = 20.0,
        burst: float = 60.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app, self.local, self.token = app, local, token
        self.hosts = frozenset(_plain(host) for host in hosts)
        self._rate, self._burst, self._now = rate, burst, now
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        error = self._refusal(scope, headers)
        if error is not None:
            await _refuse(scope, receive, send, *error)
            return
        await self.app(scope, receive, self._dressed(scope, send))

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(_name(f"//{host}")):
            return 421, "this server doesn't answer to this host name: start it with --allow-host NAME to allow it"
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        opening = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
        if (origin is not None and not _same(origin, host)) or (site not in ("none", "same-origin") and not opening):
            return 403, "a page of another origin may not ask this server"
        if not self._bucket(scope).take():
            return 429, "too many requests: wait a second"
        if self.token and scope["path"] != "/healthz" and not self._has_token(scope, headers):
            return 401, "give the token that the server was started with: add ?token=... to the address"
        return None

    def _is_ours(self, name: str) -> bool:
        """Whether it is a name of this server, or an address, which nobody can point elsewhere."""
        try:
            ip_address(name)
        except ValueError:
            return name in self.hosts
        return name in self.hosts or not self.local

    def _bucket(self, scope: Scope) -> Bucket:
        client = scope.get("client")
        name = client[0] if client else ""
        bucket = self._buckets.pop(name, None) or Bucket(self._rate, self._burst, self._now)
        self._buckets[name] = bucket
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)
        return bucket

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        tokens = [*_query_tokens(scope), *_bearer_tokens(headers), *_cookie_tokens(headers)]
        expected = self.token.encode()
        matches = [hmac.compare_digest(one.encode(), expected) for one in tokens]
        return any(matches)

    def _dressed(self, scope: Scope, send: Send) -> Send:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self.token and scope["path"] == "/" and _query_tokens(scope):
                    headers.append("set-cookie", f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        return dressed


def _query_tokens(scope: Scope) -> list[str]:
    try:
        return parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=20).get("token", [])
    except ValueError:  # too many fields
        return []


def _bearer_tokens(headers: Headers) -> list[str]:
    """The token of an ``Authorization`` header whose scheme is Bearer, in any case."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    return [token.strip()] if scheme.lower() == "bearer" else []


def _cookie_tokens(headers: Headers) -> list[str]:
    """The values of our cookie. Cookies of other applications on the same host may have any form."""
    pairs = [pair.partition("=") for line in headers.getlist("cookie") for pair in line.split(";")]
    return [value.strip() for name, _, value in pairs if name.strip() == COOKIE]


def _same(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _name(address: str) -> str:
    try:
        return _plain(urlsplit(address).hostname or "")
    except ValueError:
        return ""


def _plain(host: str) -> str:
    """A host's name as it is compared."""
    return host.lower().strip("[]").rstrip(".")


def own_names() -> tuple[str, ...]:
    """What this machine is called, also in a local network without a name server."""
    name = socket.gethostname()
    return name, f"{name.partition('.')[0]}.local"


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": message})
        return
    response = JSONResponse({"error": {"status": status, "message": message}}, status, HEADERS)
    await response(scope, receive, send)
