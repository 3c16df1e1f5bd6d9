"""The server as programs see it: streams, clips, uploads, refusals, places, and that nothing is left over."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from flowreel.errors import InputError
from flowreel.media import Clip
from flowreel.serve.errors import RequestError
from flowreel.serve.uploads import Limits, Reader
from tests.conftest import tiny_pipeline
from tests.serve.serving import Client, Clock, Served, served


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(tiny_pipeline(), places=2, longest=5, limits=Limits(2**20, 10)) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A second of 16 x 16 pixels with sound, as an mp4."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (10, 16, 16, 3)).astype(np.uint8)
    Clip(frames, np.sin(np.arange(16000) * 0.2).astype(np.float32) * 0.5).save(path)
    return path.read_bytes()


def decoded(data: bytes) -> tuple[int, int]:
    """How many frames and samples."""
    with av.open(io.BytesIO(data)) as container:
        frames = samples = 0
        for frame in container.decode(*container.streams):
            if isinstance(frame, av.VideoFrame):
                frames += 1
            else:
                samples += frame.samples
        return frames, samples


def settled(server: Served, seconds: float = 5) -> None:
    """Wait until no viewer is left."""
    end = time.monotonic() + seconds
    while server.sessions.viewers and time.monotonic() < end:
        time.sleep(0.02)
    assert not server.sessions.viewers


# --- watching -----------------------------------------------------------------------------------------------------


def test_stream_plays_and_stays_a_little_ahead(server: Served) -> None:
    with server.watch("?label=low&seed=3") as socket:
        viewer = Client(socket)
        ready = viewer.until("ready")
        assert (ready["label"], ready["seed"], ready["classes"]) == ("low", 3, ["low", "high"])
        data, ends = b"", []
        while len(ends) < 12:
            fragment = viewer.until("fragment")
            data, ends = data + fragment["data"], [*ends, fragment["end"]]
        frames, samples = decoded(viewer.init + data)
        assert frames == round(ends[-1] * 10)
        assert samples >= frames * 1600 - 4096
        # a viewer who says nothing more gets what is ahead of it, and nothing beyond
        with contextlib.suppress(TimeoutError):
            while True:
                header, _ = viewer.next(timeout=1)
                ends.append(header["end"])
        assert ends[-1] - ends[11] < 0.6 + 0.4
    settled(server)


def test_steering_goes_through_in_the_stream(server: Served) -> None:
    with server.watch("?label=low") as socket:
        viewer = Client(socket)
        viewer.until("fragment")
        viewer.say(type="steer", label="high", guidance=1.5)
        state = viewer.until("state")
        assert (state["label"], state["guidance"]) == ("high", 1.5)
        label, start = "low", 0.0
        while label == "low":
            fragment = viewer.until("fragment")
            label, start = fragment["label"], fragment["start"]
        assert start < 3
        viewer.say(type="restart", seed=11, steps=2)
        state = viewer.until("state")
        assert (state["label"], state["seed"], state["steps"], state["guidance"]) == ("high", 11, 2, 1.5)
        assert viewer.until("fragment")["start"] > start, "the timeline goes on"
    settled(server)


def test_same_seed_is_the_same_stream(server: Served) -> None:
    streams = []
    for _ in range(2):
        with server.watch("?label=low&seed=5") as socket:
            viewer = Client(socket)
            viewer.until("ready")
            streams.append(b"".join(viewer.until("fragment")["data"] for _ in range(5)))
        settled(server)
    assert streams[0] == streams[1]


def test_pause_stops_the_generation(server: Served) -> None:
    with server.watch() as socket:
        viewer = Client(socket)
        viewer.until("fragment")
        viewer.say(type="pause", paused=True)
        assert viewer.until("state", playing=True)["paused"] is True
        before = server.sessions.frames
        time.sleep(0.5)
        assert server.sessions.frames <= before + 1, "the chunk that it was at is all that is made"
        viewer.say(type="pause", paused=False)
        viewer.until("fragment")
    settled(server)


def test_a_full_server_says_so_and_has_a_place_again(server: Served) -> None:
    with server.watch() as one, server.watch() as two:
        Client(one).until("fragment")
        Client(two).until("fragment")
        with server.watch() as three:
            assert Client(three).until("full")["retry"] > 0
            with pytest.raises(ConnectionClosed) as closed:
                three.recv(5)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        status, answer = server.json("POST", "/api/generate", {"seconds": 0.5})
        assert (status, answer["error"]["status"]) == (503, 503)
        status, _, headers = server.ask("GET", "/stream.mp4")
        assert status == 503
        assert int(headers["retry-after"]) > 0
    settled(server)
    with server.watch() as socket:
        Client(socket).until("fragment")
    settled(server)


def test_endless_mp4_for_players(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as player:
        player.sendall(f"GET /stream.mp4?label=high HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
        received, begun = b"", time.monotonic()
        while len(received) < 30_000 and time.monotonic() - begun < 10:
            received += player.recv(65536)
        assert b"video/mp4" in received
        assert received.count(b"moof") > 5
    settled(server)


def test_fifty_viewers_come_and_go(server: Served) -> None:
    before = {t.name for t in threading.enumerate()}
    rng = random.Random(0)
    for _ in range(50):
        with contextlib.suppress(ConnectionClosed), server.watch() as socket:
            viewer = Client(socket)
            for _ in range(rng.randrange(4)):
                viewer.next()
    settled(server)
    end = time.monotonic() + 5
    while sum(t.name == "live stream" for t in threading.enumerate()) > 1 and time.monotonic() < end:
        time.sleep(0.05)
    live_streams = [t.name for t in threading.enumerate() if t.name == "live stream"]
    assert len(live_streams) <= 1, "one generation waits for the next viewer, no other goes on"
    assert {t.name for t in threading.enumerate()} <= before | {"live stream"} | {
        t.name for t in threading.enumerate() if t.name.startswith("asyncio_")
    }


# --- clips and uploads --------------------------------------------------------------------------------------------


def test_clip_on_request(server: Served, tmp_path: Path) -> None:
    wanted = {"label": "high", "seconds": 1.2, "seed": 4, "guidance": 1.5}
    answers = [
        server.ask("POST", "/api/generate", json.dumps(wanted).encode(), {"content-type": "application/json"})
        for _ in range(2)
    ]
    assert [status for status, _, _ in answers] == [200, 200]
    assert answers[0][1] == answers[1][1], "the same seed is the same clip"
    assert "flowreel-high-4.mp4" in answers[0][2]["content-disposition"]
    (tmp_path / "made.mp4").write_bytes(answers[0][1])
    made = Clip.read(tmp_path / "made.mp4")
    assert len(made.frames) == 12
    wanted = server.sessions.pipeline.generate(label="high", seconds=1.2, seed=4, guidance=1.5)
    assert np.array_equal(made.frames, Clip.read(wanted.save(tmp_path / "wanted.mp4")).frames)


@pytest.mark.parametrize("role", ["audio", "video", "prefix"])
def test_clip_from_an_upload(server: Served, clip: bytes, role: str) -> None:
    status, body, _ = server.ask("POST", f"/api/generate?as={role}&seconds=0.6&label=low", clip)
    assert status == 200, body
    assert decoded(body)[0] == 6
    status, body, _ = server.ask("POST", "/api/media", clip)
    facts = json.loads(body)
    assert (status, facts["video"], facts["audio"], facts["seconds"]) == (200, True, True, 1.0)
    status, body, _ = server.ask(
        "POST",
        "/api/generate",
        json.dumps({"media": facts["media"], "as": role, "seconds": 0.6}).encode(),
        {"content-type": "application/json"},
    )
    assert status == 200, body


def test_stream_goes_on_from_an_upload_and_to_a_sound(server: Served, clip: bytes) -> None:
    _, body, _ = server.ask("POST", "/api/media", clip)
    name = json.loads(body)["media"]
    with server.watch() as socket:
        viewer = Client(socket)
        viewer.until("fragment")
        for role in ("prefix", "audio", "video"):
            viewer.say(type="use", media=name, **{"as": role})
            viewer.until("state")
            for _ in range(3):
                viewer.until("fragment")
        viewer.say(type="use", media="unknown", **{"as": "audio"})
        assert viewer.until("error")["status"] == 404
    settled(server)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"nothing at all", 422),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 422),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 422),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(200), 422),
        (b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(100), 422),
        (b"x" * (2**20 + 1), 413),
    ],
)
def test_hostile_uploads_are_refused(server: Served, data: bytes, status: int) -> None:
    got, body, _ = server.ask("POST", "/api/media", data)
    assert got == status, body
    message = json.loads(body)["error"]["message"]
    assert "/" not in message.replace("mp3 or", ""), "nothing of the server's inside is told"


def test_damaged_clips_are_refused_or_read(server: Served, clip: bytes) -> None:
    rng = random.Random(0)
    for _ in range(4):
        broken = bytearray(clip)
        for _ in range(60):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        status, body, _ = server.ask("POST", "/api/media", bytes(broken))
        assert status in (200, 422), body
    assert server.ask("GET", "/healthz")[0] == 200


def test_no_upload_is_left_behind(server: Served, clip: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server.ask("POST", "/api/media", clip)
    server.ask("POST", "/api/media", b"rubbish")
    server.ask("POST", "/api/generate?as=audio&seconds=0.4", clip)
    end = time.monotonic() + 5
    while list(tmp_path.iterdir()) and time.monotonic() < end:  # a clip is removed after its last byte was sent
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


# --- what there is to know, and what is refused -------------------------------------------------------------------


def test_page_and_facts(server: Served) -> None:
    for path, kind in (("/", "text/html"), ("/js/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, body, headers = server.ask("GET", path)
        assert (status, headers["content-type"].split(";")[0]) == (200, kind)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"http://" not in body.replace(b"http://www.w3.org", b""), "no asset from elsewhere"
    status, facts = server.json("GET", "/api/info")
    assert (facts["model"], facts["classes"], facts["max_viewers"]) == ("tiny", ["low", "high"], 2)
    status, description = server.json("GET", "/openapi.json")
    assert set(description["paths"]) == {
        *("/stream.mp4", "/api/generate", "/api/media", "/api/info", "/healthz", "/metrics")
    }
    status, text, _ = server.ask("GET", "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert float(values["flowreel_frames_total"]) > 0
    assert {"flowreel_viewers", "flowreel_realtime_factor", "flowreel_lead_seconds"} <= set(values)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/static/../app.py", None, 404),
        ("GET", "/api/generate", None, 405),
        ("GET", "/stream.mp4?label=nothing", None, 400),
        ("GET", "/stream.mp4?seed=x", None, 400),
        ("POST", "/api/generate", {"label": "nothing"}, 400),
        ("POST", "/api/generate", {"seconds": 1e9}, 400),
        ("POST", "/api/generate", {"seconds": -1}, 400),
        ("POST", "/api/generate", {"seconds": "long"}, 400),
        ("POST", "/api/generate", {"steps": 10**9}, 400),
        ("POST", "/api/generate", {"media": "unknown", "as": "audio"}, 404),
        ("POST", "/api/generate", {"media": "unknown", "as": ["audio"]}, 400),
        ("POST", "/api/generate", {"colour": "red"}, 400),
        ("POST", "/api/generate", ["label"], 400),
        ("POST", "/api/generate", {"label": "x" * 5000}, 413),
    ],
)
def test_wrong_requests_are_refused(server: Served, method: str, path: str, body: object, status: int) -> None:
    got, answer = server.json(method, path, body)
    assert (got, answer["error"]["status"]) == (status, status)
    assert answer["error"]["message"]


def test_other_sites_are_refused(server: Served) -> None:
    assert server.ask("GET", "/", headers={"Origin": "http://elsewhere.example"})[0] == 403
    assert server.ask("GET", "/", headers={"Origin": "http://[broken"})[0] == 403
    assert server.ask("GET", "/", headers={"Host": "elsewhere.example"})[0] == 421
    assert server.ask("GET", "/", headers={"Origin": f"http://{server.host}"})[0] == 200
    assert server.ask("GET", "/stream.mp4", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    opening = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert server.ask("GET", "/", headers=opening)[0] == 200
    assert server.ask("HEAD", "/stream.mp4")[0] == 200
    assert not server.sessions.viewers
    with pytest.raises(InvalidStatus) as error:
        server.watch(origin="http://elsewhere.example")
    assert error.value.response.status_code == 403


def talk_nonsense(socket: ClientConnection) -> None:
    for number in range(200):
        socket.send(f'{{"type": {number}' if number % 2 else b"\xff\x00")
        socket.recv(5)


def test_a_viewer_who_talks_nonsense_is_sent_away_and_others_are_not_disturbed(server: Served) -> None:
    with server.watch() as good, server.watch() as bad:
        viewer = Client(good)
        viewer.until("fragment")
        with pytest.raises(ConnectionClosed):
            talk_nonsense(bad)
        for _ in range(5):
            viewer.until("fragment")
    settled(server)


def test_a_viewer_who_says_nothing_has_to_go(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowreel.serve.websocket.SILENCE", 0.5)
    with server.watch() as silent, contextlib.suppress(ConnectionClosed):
        while True:
            silent.recv(10)  # a TimeoutError where it is not closed
    settled(server)


def test_a_token_is_asked_for() -> None:
    with served(tiny_pipeline(), token="secret-token") as server:
        assert server.ask("GET", "/")[0] == 401
        assert server.ask("GET", "/?token=wrong")[0] == 401
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.ask("GET", "/api/info", headers={"Authorization": "Bearer secret-token"})[0] == 200
        status, _, headers = server.ask("GET", "/?token=secret-token")
        assert status == 200
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert server.ask("GET", "/js/page.js", headers={"Cookie": cookie.split(";")[0]})[0] == 200
        with pytest.raises(InvalidStatus):
            server.watch()
        status, _, headers = server.ask("GET", "/?token=secret-token", headers={"Host": "elsewhere.example"})
        assert (status, "set-cookie" in headers) == (421, False)
        for place in ("/js/page.js/", "//elsewhere.example/", "/ws"):
            path = f"{place}?token=secret-token"
            status, _, headers = server.ask("GET", path)
            assert status == 404
            assert not any("secret-token" in value or "http" in value for value in headers.values())
        with server.watch("?token=secret-token") as socket:
            Client(socket).until("fragment")


def test_viewers_who_come_do_not_hurry_a_broadcast() -> None:
    clock = Clock()
    with served(tiny_pipeline(), places=3, broadcast=True, now=clock) as server, server.watch() as one:
        viewer = Client(one)
        viewer.until("fragment")
        for _ in range(20):
            with server.watch() as other:
                Client(other).until("ready")
        live = next(iter(server.sessions.viewers)).live
        assert live.made < 0.6 + 0.2, "no more than it is to be ahead of a clock that stands"
        begun = clock()
        while viewer.until("fragment")["end"] < 2.5:
            clock.on(0.1)
        assert live.made < clock() - begun + 0.6 + 0.2


def test_a_request_without_a_body_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowreel.serve.clip_api.PATIENCE", 1.0)
    with (
        served(tiny_pipeline(), places=1) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as idle,
    ):
        head = f"POST /api/generate HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: application/json\r\n"
        idle.sendall(f"{head}Content-Length: 10\r\n\r\n".encode())
        time.sleep(0.2)
        with server.watch() as socket_:
            Client(socket_).until("fragment")
        assert b"408" in idle.recv(100)


def test_who_says_to_have_played_the_future_gets_it_no_sooner() -> None:
    clock = Clock()
    with served(tiny_pipeline(), places=1, now=clock) as server, server.watch() as greedy:
        viewer = Client(greedy)
        viewer.until("fragment")
        live = next(iter(server.sessions.viewers)).live
        for seconds in (0, 2):
            clock.on(seconds)
            allowed = 3 + 1.25 * seconds + 0.6  # headstart, haste, and as far as it is to be ahead
            while viewer.until("fragment", playing=False)["end"] < allowed - 0.2:
                viewer.say(type="played", time=1e9)
            viewer.say(type="played", time=1e9)
            time.sleep(0.2)
            assert live.made < allowed + 0.2


def test_headers_must_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowreel.serve.protocol.TimedProtocol.SECONDS", 0.5)
    with served(tiny_pipeline()) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: x")
            assert slow.recv(100) == b""
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as second:
            second.sendall(f"GET /healthz HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"ok\n"):
                answer += second.recv(2000)
            second.sendall(b"G")
            assert second.recv(100) == b"", "the next request's headers must come in time, too"
        with server.watch() as socket_:
            viewer, begun = Client(socket_), time.monotonic()
            while time.monotonic() - begun < 1:
                viewer.until("fragment")


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_in_one_line(
    server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flowreel.serve.uploads.Reader._receive", full)
    status, answer = server.json("POST", "/api/media", {})
    assert (status, answer["error"]["message"]) == (507, "the server's disk is full: try again later")

    def full_too(*_: object) -> None:
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        except OSError as error:
            raise InputError("clip.mp4 can't be written") from error

    monkeypatch.setattr("flowreel.serve.clip_api._written", full_too)
    assert server.json("POST", "/api/generate", {"seconds": 1})[0] == 507
    lines = [record for record in caplog.records if record.name == "flowreel.serve"]
    assert ["the disk is full" in line.getMessage() for line in lines] == [True, True]
    assert not any(line.exc_info for line in lines)


def test_text_that_is_not_utf8_ends_the_connection_without_a_traceback(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with server.watch() as socket_:
        socket_.protocol.send_text(b"\xff\xfe")
        socket_.socket.sendall(b"".join(socket_.protocol.data_to_send()))
        with contextlib.suppress(ConnectionClosed):
            while True:
                socket_.recv(10)
        assert socket_.close_code == 1007
    settled(server)
    lines = [record for record in caplog.records if "UTF-8" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].exc_info is None


@pytest.mark.filterwarnings("ignore:a window of 3 frames")
def test_a_machine_slower_than_real_time_is_told_with_what_would_help(caplog: pytest.LogCaptureFixture) -> None:
    ticks = itertools.count()  # every look at this clock is a second later, so that a chunk takes a second and more
    with served(tiny_pipeline(), places=1, now=lambda: float(next(ticks))) as server, server.watch("?steps=4") as one:
        viewer = Client(one)
        pace = viewer.until("pace")
        assert pace["slow"] is True
        assert 0 < pace["speed"] < 0.5
        assert pace["steps"] == 1
        assert pace["window"] == 3
        viewer.say(type="restart", steps=1, window=3)
        state = viewer.until("state")
        assert (state["steps"], state["window"]) == (1, 3)
        assert viewer.until("pace")["slow"] is False, "it is measured anew"
        again = viewer.until("pace")  # still too slow, and nothing is left that would help
        assert (again["slow"], again["steps"], again["window"]) == (True, None, None)
        viewer.say(type="restart", seed=3)
        assert viewer.until("state")["seed"] == 3
        for window in (99, 0):
            viewer.say(type="restart", window=window)
            assert viewer.until("error")["status"] == 400
    said = [record.getMessage() for record in caplog.records if "slower than real time" in record.getMessage()]
    assert "--steps 1 or --window 3 is faster" in said[0]


def test_one_upload_is_read_at_a_time_and_few_wait(
    server: Served, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, most, go_on = [0], [0], threading.Event()

    async def slow(reader: Reader, path: Path) -> None:  # noqa: ARG001
        reading[0] += 1
        most[0] = max(most[0], reading[0])
        await asyncio.to_thread(go_on.wait, 20)
        reading[0] -= 1
        raise RequestError(422, "read")

    monkeypatch.setattr("flowreel.serve.uploads.Reader._decoded", slow)
    answers: list[int] = []
    askers = [
        threading.Thread(target=lambda: answers.append(server.ask("POST", "/api/media", clip)[0])) for _ in range(12)
    ]
    for asker in askers:
        asker.start()
    while len(answers) < 8:  # those that are refused at once
        time.sleep(0.01)
    go_on.set()
    for asker in askers:
        asker.join()
    assert sorted(answers) == [422] * 4 + [503] * 8
    assert most[0] == 1


# --- broadcast ----------------------------------------------------------------------------------------------------


def fragments(viewer: Client, clock: Clock, count: int) -> list[dict[str, Any]]:
    """The next fragments of a broadcast, whose clock goes on by as much as they last."""
    taken = []
    for _ in range(count):
        taken.append(viewer.until("fragment"))
        clock.on(0.1)
    return taken


def test_a_broadcast_is_the_same_for_all_and_a_slow_viewer_holds_nobody_up() -> None:
    clock = Clock()
    with served(tiny_pipeline(), places=3, broadcast=True, now=clock) as server:
        with server.watch() as one:
            first = Client(one)
            assert first.until("ready")["broadcast"] is True
            mine = {f["start"]: f["data"] for f in fragments(first, clock, 5)}
            with server.watch() as two:
                late = Client(two)
                late.until("init")
                seen = {f["start"]: f["data"] for f in fragments(late, clock, 3)}
                assert min(seen) > 0.2, "who comes late begins with what is new"
                assert decoded(late.init + seen[min(seen)])[0] > 0, "and can show it at once"
                while not set(seen) <= set(mine):
                    fragment = first.until("fragment")
                    mine[fragment["start"]] = fragment["data"]
                assert all(seen[start] == mine[start] for start in seen)
                first.say(type="steer", label="low")
                assert first.until("error")["status"] == 403
                # nobody reads the second one's socket any more; the first goes on, as fast as the clock
                while first.until("fragment")["end"] < 4.5:
                    clock.on(0.1)
        settled(server)
        before = server.sessions.frames
        clock.on(10)
        time.sleep(0.5)
        assert server.sessions.frames <= before + 1, "nobody watches, so nothing is made"
