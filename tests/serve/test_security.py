"""Who may ask: hosts, tokens and rates, asked of the middleware itself, without a server."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from flowreel.cli import COMMANDS, parse
from flowreel.config import ServeConfig
from flowreel.errors import InputError
from flowreel.serve.security import LOOPBACK, SecurityMiddleware, own_names

TOKEN = "secret-token"


def status(
    security: SecurityMiddleware, query: str = "", path: str = "/api/info", client: str = "10.1.1.1", **headers: str
) -> int:
    """The status of one request; the headers are named as parameters."""
    named = {"host": "localhost:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "client": (client, 1),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(security(scope, receive, send))
    return sent[0]["status"]


def security(token: str = TOKEN, local: bool = True, names: tuple[str, ...] = (), **options: Any) -> SecurityMiddleware:
    return SecurityMiddleware(PlainTextResponse("ok"), hosts=(*LOOPBACK, *names), local=local, token=token, **options)


@pytest.mark.parametrize(
    "cookie",
    [
        f"flowreel_token={TOKEN}",
        f'prefs={{"theme": ["dark", 1]}}; flowreel_token={TOKEN}',
        f"a[b]=(c,d)@e; flowreel_token={TOKEN}; {{}}",
        f'open="never closed; flowreel_token={TOKEN}',
        f"named é;;=;=x; flowreel_token={TOKEN}",
        f"flowreel_token=old-token-here; flowreel_token={TOKEN}",
    ],
)
def test_cookies_of_other_applications_do_not_hide_ours(cookie: str) -> None:
    assert status(security(), cookie=cookie) == 200


@pytest.mark.parametrize("cookie", ["", "flowreel_token", "flowreel_token=", "xflowreel_token=secret-token", TOKEN])
def test_a_cookie_without_the_token_does_not_let_in(cookie: str) -> None:
    assert status(security(), cookie=cookie) == 401


@pytest.mark.parametrize(
    ("authorization", "right"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"BEARER  {TOKEN} ", 200),
        (f"Basic {TOKEN}", 401),
        (f"Bearer{TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer", 401),
    ],
)
def test_the_scheme_of_the_token_is_bearer_in_any_case(authorization: str, right: int) -> None:
    assert status(security(), authorization=authorization) == right


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize(
    ("host", "local", "right"),
    [
        ("localhost:8000", True, 200),
        ("LOCALHOST", True, 200),
        ("localhost.:8000", True, 200),
        ("127.0.0.1:8000", True, 200),
        ("[::1]:8000", True, 200),
        ("elsewhere.example", True, 421),
        ("elsewhere.example", False, 421),
        ("localhost.elsewhere.example", False, 421),
        ("192.168.1.5:8000", False, 200),
        ("192.168.1.5:8000", True, 421),
        ("Video.Example.org", True, 200),
        ("[broken", False, 421),
        ("", False, 421),
    ],
)
def test_only_own_and_allowed_hosts_are_answered(token: str, host: str, local: bool, right: int) -> None:
    assert status(security(token, local, ("video.example.ORG",)), f"token={TOKEN}", host=host) == right


def test_this_machine_is_called_by_its_own_name() -> None:
    assert status(security(names=own_names()), f"token={TOKEN}", host=f"{socket.gethostname()}:8000") == 200


def test_hosts_to_allow_are_names_without_scheme_or_port() -> None:
    _, config = parse("serve", COMMANDS["serve"], ["--allow-host", "video.example.org,fd00::1"])
    assert config.allow_host == ("video.example.org", "fd00::1")
    for wrong in ("https://video.example.org", "video.example.org:443", "*", "", "10.0.0.1:80"):
        with pytest.raises(InputError, match="--allow_host takes host names"):
            ServeConfig(allow_host=(wrong,))


def test_each_address_has_so_many_requests_a_second() -> None:
    now = 100.0
    limited = security("", rate=2.0, burst=5.0, now=lambda: now)
    assert [status(limited) for _ in range(7)] == [200] * 5 + [429] * 2
    assert status(limited, client="10.1.1.2") == 200, "another address has its own"
    now += 0.4
    assert status(limited) == 429
    now += 0.1
    assert [status(limited) for _ in range(2)] == [200, 429]
    now += 1000
    assert [status(limited) for _ in range(6)] == [200] * 5 + [429]
