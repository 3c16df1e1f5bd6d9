"""flowreel serve as a command: what it refuses, that it says when it is ready, and that it ends cleanly."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from flowreel.cli import COMMANDS, main, parse


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--host 0.0.0.0", "give --token TEXT"),
        ("--host 192.168.1.5 --token short", "8 to 200 letters"),
        ("--port 70000", "--port must be at least 0 and at most 65535"),
        ("--max-viewers -1", "--max_viewers must be at least 0"),
        ("--host not-a-host.invalid --no-token", "can't be listened on"),
        ("--broadcats", "did you mean --broadcast"),
    ],
)
def test_what_cannot_be_served_is_refused(options: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *options.split()]) == 2
    assert says in capsys.readouterr().err


def test_an_address_in_use_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_options_are_spelled_as_people_do() -> None:
    _, config = parse("serve", COMMANDS["serve"], ["--max-viewers", "3", "--broadcast", "--no-token"])
    assert (config.max_viewers, config.broadcast, config.no_token) == (3, True, True)


def test_it_is_ready_serves_and_ends() -> None:
    command = [sys.executable, "-m", "flowreel", "serve", "--port", "0", "--label", "rain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = []
        while not lines or "ready" not in lines[-1]:
            lines.append(server.stdout.readline())
            assert lines[-1], server.stderr.read() if server.stderr else ""
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", lines[-1])
        assert found, lines
        with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)) as page:
            page.request("GET", "/")
            with page.getresponse() as answer:
                assert answer.status == 200
        with pytest.raises(InvalidStatus):  # which is no error of the server's
            connect(f"ws://127.0.0.1:{found[1]}/ws", origin=Origin("http://elsewhere.example"))
        with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)) as player:
            player.request("GET", "/stream.mp4")
            with player.getresponse() as stream:
                assert len(stream.read(5000)) == 5000
                begun = time.monotonic()
                server.send_signal(signal.SIGINT)
                out, err = server.communicate(timeout=20)
        assert (server.returncode, out.splitlines()[-1]) == (0, "stopped")
        assert all(line.startswith("flowreel: ") for line in err.splitlines()), err
        assert time.monotonic() - begun < 10
