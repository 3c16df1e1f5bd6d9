"""The figures of the live page: how soon it plays, stalls, synchrony, changes of class, growth, abuse, leaving.

    python benchmarks/live.py                                  # all (about 40 minutes on two cores), as a table
    python benchmarks/live.py --only opening,watching,steering --json live.json
    python benchmarks/live.py --minutes 2                      # shorter rolls for synchrony and growth

Needs Chromium and playwright. Each figure has a server of its own, ``flowreel serve`` as a user starts it; only the
synchrony of what is received is measured within one process, beside the generation that it is compared with.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import flowreel
from flowreel.media import Clip
from flowreel.serve.live_stream import Fragment, LiveStream, StreamRequest
from flowreel.utils.files import read_json, write_json

Figures = dict[str, Any]
PATIENCE = 120
"""Seconds that something may take before it is taken not to come about."""


# --- a server, its page, its viewers ------------------------------------------------------------------------------


class Server:
    """``flowreel serve`` in a process of its own."""

    def __init__(self, pipe: str, *options: str) -> None:
        command = [sys.executable, "-m", "flowreel", "serve", pipe, "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if found := re.search(r"ready: http://127\.0\.0\.1:(\d+)/", line):
                self.port = int(found[1])
                return
        raise SystemExit("the server did not start: " + " ".join(self.lines))

    @property
    def speed(self) -> float:
        """The real-time factor that it measured when it started."""
        return float(re.findall(r"([\d.]+) times real time", " ".join(self.lines))[0])

    @property
    def memory(self) -> float:
        """MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    @property
    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    @property
    def files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        own: str = "127.0.0.1",
    ) -> tuple[int, bytes]:
        """Status and body; ``own`` is the address that it comes from."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(own, 0))
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()

    def watch(self, **options: Any) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}/ws", max_size=2**24, open_timeout=20, **options)

    def metric(self, name: str) -> float:
        _, text = self.ask("GET", "/metrics")
        return float(re.findall(rf"^flowreel_{name} (\S+)", text.decode(), re.MULTILINE)[0])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes the pipe
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)


@contextlib.contextmanager
def pages() -> Iterator[Callable[[int], Any]]:
    """Opens the page of the server at a port."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("Chromium is not installed")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])

        def opened(port: int) -> Any:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
            return page

        yield opened
        browser.close()


def until(page: Any, condition: str) -> float:
    """Wait for a condition in the page; the seconds that it took."""
    begun = time.perf_counter()
    while not page.evaluate(f"() => Boolean({condition})"):
        if time.perf_counter() - begun > PATIENCE:
            raise SystemExit(f"{condition} did not come about in {PATIENCE} s")
        time.sleep(0.02)
    return time.perf_counter() - begun


def header(message: bytes | str) -> dict[str, Any]:
    """The head of a message, without its media."""
    if isinstance(message, str):
        return json.loads(message)
    return json.loads(message[4 : 4 + int.from_bytes(message[:4], "little")])


# --- figures ------------------------------------------------------------------------------------------------------


def opening(pipe: str, _: argparse.Namespace) -> Figures:
    """From opening the page to the first frame that plays: the page's own clock, which begins with the navigation."""
    times = []
    with Server(pipe) as server, pages() as opened:
        for _ in range(5):
            time.sleep(6)  # the server is warm: a generation waits for the next viewer
            page = opened(server.port)
            until(page, "window.flowreel?.state === 'playing' && video.currentTime > 0")
            times.append(page.evaluate("() => (performance.now() - 1000 * video.currentTime) / 1000"))
            page.close()
    return {"seconds": sorted(times), "median": float(np.median(times)), "worst": max(times)}


def watching(pipe: str, options: argparse.Namespace) -> Figures:
    """A page that is watched: stalls over half a second, and dropped frames."""
    with Server(pipe) as server, pages() as opened:
        page = opened(server.port)
        until(page, "window.flowreel?.state === 'playing' && video.currentTime > 0")
        time.sleep(options.watch)
        got = page.evaluate(
            "() => ({stalls: flowreel.stalls, dropped: flowreel.dropped, played: video.currentTime, "
            "frames: video.getVideoPlaybackQuality().totalVideoFrames, buffered: flowreel.buffered})"
        )
        stalls = [seconds for seconds in got["stalls"] if seconds > 0.5]
        share = got["dropped"] / max(1, got["frames"])
        return {
            "seconds": options.watch,
            "played": got["played"],
            "stalls": len(stalls),
            "shorter": len(got["stalls"]) - len(stalls),
            "dropped": share,
            "speed": server.speed,
        }


def steering(pipe: str, _: argparse.Namespace) -> Figures:
    """From a click on another class to the first frame and sound of it at the playhead."""
    times = []
    with Server(pipe) as server, pages() as opened:
        page = opened(server.port)
        until(page, "window.flowreel?.state === 'playing' && video.currentTime > 3")
        classes = page.evaluate("() => [...classes.querySelectorAll('[data-label]')].map((b) => b.dataset.label)")
        for label in [*classes, classes[0]]:
            if page.evaluate("() => flowreel.label") == label:
                continue
            page.click(f"#classes [data-label={label}]")
            times.append(until(page, f"flowreel.label === '{label}'"))
            time.sleep(2)
    return {"seconds": times, "worst": max(times)}


def synchrony(pipe: str, options: argparse.Namespace) -> Figures:
    """Where sound and picture lie in what is received, against what was generated, for every second of a long roll."""
    pipeline = flowreel.load(pipe, device="cpu")
    made: list[Clip] = []

    class Overheard(type(pipeline)):  # type: ignore[misc]
        """The pipeline, whose chunks are kept."""

        def stream(self, **wanted: Any) -> Any:
            chunks = super().stream(**wanted)

            def kept() -> Iterator[Clip]:
                for chunk in chunks:
                    made.append(chunk)
                    yield chunk

            return kept()

    pipeline.__class__ = Overheard
    live, ready = LiveStream(pipeline, StreamRequest(seed=1)), threading.Event()
    live.notify = ready.set
    received = [live.init]
    live.start()
    while live.made < 60 * options.minutes:
        ready.wait()
        ready.clear()
        while isinstance(part := live.take(), Fragment):
            received.append(part.data)
            live.played(part.end)
    live.close()
    live.join(10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "received.mp4"
        path.write_bytes(b"".join(received))
        size = made[0].frames.shape[1]
        got = Clip.read(path, fps=made[0].fps, sample_rate=made[0].sample_rate, size=size)
    wanted = Clip.join(made[: len(received) - 1])
    return compared(wanted, got)


def compared(wanted: Clip, got: Clip) -> Figures:
    """The lag of sound and of picture in every second, in ms: of the sound where it differs least, of the picture by
    the frames that it is nearest to. Where another is about as near, the picture stands still."""
    assert wanted.audio is not None
    assert got.audio is not None
    rate, fps = wanted.sample_rate, round(wanted.fps)
    offsets, silent, still = [], 0, 0
    for second in range(1, int(min(wanted.seconds, got.seconds)) - 1):
        sound = wanted.audio[second * rate : (second + 1) * rate]
        if np.abs(sound).max() < 0.02:
            silent += 1
            continue
        reach = rate // 10
        near = got.audio[second * rate - reach : (second + 1) * rate + reach]
        energy = np.concatenate([[0], np.square(near, dtype=float).cumsum()])
        misfit = energy[rate:] - energy[:-rate] - 2 * np.correlate(near, sound, "valid")  # squared, but for a constant
        heard = int(misfit.argmin()) - reach
        pictures = wanted.frames[second * fps : (second + 1) * fps].astype(float)
        errors = [
            np.abs(got.frames[second * fps + lag : (second + 1) * fps + lag] - pictures).mean() for lag in (-1, 0, 1)
        ]
        nearest, next_nearest = sorted(errors)[:2]
        if nearest > 0.8 * next_nearest:
            still += 1
            continue
        seen = (int(np.argmin(errors)) - 1) / fps
        offsets.append(1000 * (heard / rate - seen))
    return {"seconds": len(offsets), "silent": silent, "still": still, "worst_ms": float(np.abs(offsets).max())}


def growth(pipe: str, options: argparse.Namespace) -> Figures:
    """A broadcast with two viewers, one of whom reads a tenth of what comes; the server's memory after a tenth of the
    time, and at the end."""
    stop = threading.Event()
    taken = {"fast": 0, "slow": 0}
    came = dict.fromkeys(taken, 0)

    def read(server: Server, name: str) -> None:
        while not stop.is_set():  # who answers no ping or says nothing for minutes is let go, and comes again
            came[name] += 1
            with contextlib.suppress(ConnectionClosed), server.watch(max_queue=1, ping_interval=None) as socket:
                while not stop.is_set():
                    socket.recv(30)
                    taken[name] += 1
                    if name == "slow":
                        time.sleep(2)

    with Server(pipe, "--broadcast") as server:
        viewers = [threading.Thread(target=read, args=(server, name), daemon=True) for name in taken]
        for viewer in viewers:
            viewer.start()
        time.sleep(6 * options.minutes)
        sizes = [server.memory]
        for _ in range(54):
            time.sleep(options.minutes)
            sizes.append(server.memory)
        stop.set()
        dropped = server.metric("dropped_fragments_total")
    tail = float(np.median(sizes[-3:]))
    return {
        "minutes": options.minutes,
        "memory_mb": [sizes[0], tail],
        "growth": tail / sizes[0] - 1,
        "taken": taken,
        "came": came,
        "dropped": dropped,
    }


def abuse(pipe: str, options: argparse.Namespace) -> Figures:
    """Malformed messages and uploads by the thousand, while someone watches."""
    rng = random.Random(0)
    statuses: dict[str, int] = {}
    gaps: list[float] = []
    stop = threading.Event()

    def watch(server: Server) -> None:
        last = time.monotonic()
        with server.watch() as socket:
            while not stop.is_set():
                head = header(socket.recv(30))
                if head.get("kind") == "fragment":
                    gaps.append(time.monotonic() - last)
                    last = time.monotonic()
                    socket.send(json.dumps({"type": "played", "time": head["end"] - 0.4}))

    with Server(pipe, "--max-viewers", "2") as server:
        viewer = threading.Thread(target=watch, args=(server,), daemon=True)
        viewer.start()
        begun = time.monotonic()
        while len(gaps) < 4:  # the first fragments come at once
            if time.monotonic() - begun > PATIENCE:
                raise SystemExit(f"a viewer got {len(gaps)} fragments in {PATIENCE} s")
            time.sleep(0.05)
        clip = Path(tempfile.mkdtemp()) / "clip.mp4"
        Clip(np.random.default_rng(0).integers(0, 255, (10, 16, 16, 3)).astype(np.uint8)).save(clip)
        good = clip.read_bytes()
        shutil.rmtree(clip.parent)
        for number in range(options.count):
            status = hostile(server, rng, number, good)
            statuses[status] = statuses.get(status, 0) + 1
        alive = server.ask("GET", "/healthz")[0] == 200
        stop.set()
        viewer.join(10)
    return {"sent": options.count, "answers": statuses, "alive": alive, "longest_gap": max(gaps[3:])}


def hostile(server: Server, rng: random.Random, number: int, good: bytes) -> str:
    """One wrong message or request from an address of its own; how it was answered."""
    own = f"127.0.{number % 200}.{2 + number % 250}"
    kind = number % 5
    if kind == 0:
        texts = [
            '{"type":',
            "[[[[",
            '{"type":"steer","label":{}}',
            '{"type":"restart","seed":1e400}',
            "\x00",
            "9" * 5000,
        ]
        texts += ['{"type":"played","time":"x"}', '{"type":"use","media":"../../x","as":"audio"}', '{"type":null}']
        try:
            with server.watch(source_address=(own, 0)) as socket:
                while header(socket.recv(20)).get("kind") != "init":
                    pass
                socket.send(rng.choice(texts) if rng.random() < 0.8 else rng.randbytes(50))
                while (head := header(socket.recv(20))).get("type") not in ("error", "full"):
                    pass
                return f"message {head.get('status', head['type'])}"
        except ConnectionClosed as closed:
            return f"closed {closed.rcvd.code if closed.rcvd else ''}"
    if kind == 1:
        broken = bytearray(good)
        for _ in range(rng.randrange(1, 200)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        body = rng.choice(
            [bytes(broken), rng.randbytes(2000), b"#EXTM3U\nfile:///etc/passwd\n", good[: rng.randrange(500)]]
        )
        return f"upload {server.ask('POST', '/api/media', body, own=own)[0]}"
    if kind == 2:
        values = [{"seconds": 1e308}, {"label": 10**30}, {"steps": -1}, {"media": "x", "as": 3}, [], {"seed": "0x"}]
        body = json.dumps(rng.choice(values)).encode()
        return f"clip {server.ask('POST', '/api/generate', body, {'content-type': 'application/json'}, own)[0]}"
    if kind == 3:
        origin = rng.choice(["http://elsewhere.example", "null", "http://[x", "file://"])
        try:
            with server.watch(origin=origin, source_address=(own, 0)):
                return "origin taken"
        except InvalidStatus as error:
            return f"origin {error.response.status_code}"
    path = rng.choice(["/../../etc/passwd", "/%2e%2e/x", "/js/page.js/..", "/api/info?" + "a=1&" * 500, "/nothing"])
    host = rng.choice([None, "elsewhere.example"])
    return f"request {server.ask('GET', path, headers={'Host': host} if host else None, own=own)[0]}"


def leaving(pipe: str, options: argparse.Namespace) -> Figures:
    """Viewers who come and go at any moment, one for 20 wrong messages; what is left of them."""
    viewers = max(1, options.count // 20)
    rng = random.Random(0)
    with Server(pipe, "--max-viewers", "4") as server:
        time.sleep(8)
        before = (server.threads, server.files)
        for _ in range(viewers):
            with contextlib.suppress(ConnectionClosed), server.watch() as socket:
                for _ in itertools.repeat(None, rng.randrange(6)):
                    socket.recv(20)
                time.sleep(rng.random() * 0.3)
            time.sleep(rng.random() * 0.3)
        begun = time.monotonic()
        while server.metric("viewers") and time.monotonic() - begun < 10:
            time.sleep(0.05)
        freed = time.monotonic() - begun
        time.sleep(12)
        after = (server.threads, server.files)
        frames = server.metric("frames_total")
        time.sleep(3)
        still = server.metric("frames_total") - frames
    counts = {"threads": [before[0], after[0]], "files": [before[1], after[1]]}
    return {"viewers": viewers, **counts, "freed": freed, "frames_made": still}


FIGURES: dict[str, Callable[[str, argparse.Namespace], Figures]] = {
    "opening": opening,
    "watching": watching,
    "steering": steering,
    "synchrony": synchrony,
    "growth": growth,
    "abuse": abuse,
    "leaving": leaving,
}


def table(figures: Figures) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| figure | to reach | measured |"
    yield "|---|---|---|"
    if f := figures.get("opening"):
        yield f"| opening the page to the first frame | under 1.5 s | {f['median']:.2f} s (worst {f['worst']:.2f} s) |"
    if f := figures.get("watching"):
        yield (
            f"| {f['seconds']:.0f} s of watching: stalls over 0.5 s; dropped frames | none; under 1 % | "
            f"{f['stalls']} ({f['shorter']} shorter); {100 * f['dropped']:.1f} % |"
        )
    if f := figures.get("synchrony"):
        yield (
            f"| sound against picture in what is received, {f['seconds']} s that sound and move | within 20 ms | "
            f"{f['worst_ms']:.1f} ms at most |"
        )
    if f := figures.get("steering"):
        yield f"| a change of class, seen and heard | within 3 s | at most {f['worst']:.1f} s, of {len(f['seconds'])} |"
    if f := figures.get("growth"):
        yield (
            f"| broadcast of {f['minutes']:g} minutes, 2 viewers, one slow: memory after a tenth of it | under 2 % | "
            f"{100 * f['growth']:+.1f} % ({f['memory_mb'][0]:.0f} MB) |"
        )
    if f := figures.get("abuse"):
        alive = "alive" if f["alive"] else "not alive"
        yield (
            f"| {f['sent']} wrong messages, uploads and requests | alive, all refused, viewers undisturbed | {alive}; "
            f"longest wait of a viewer for a fragment {f['longest_gap']:.1f} s |"
        )
    if f := figures.get("leaving"):
        yield (
            f"| {f['viewers']} viewers come and go | nothing left over | "
            f"threads {f['threads'][0]} → {f['threads'][1]}, files {f['files'][0]} → {f['files'][1]}, "
            f"{f['frames_made']:.0f} frames made for nobody; freed in {f['freed']:.1f} s |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipe", default="world")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(FIGURES), help=", ".join(FIGURES))
    parser.add_argument("--watch", type=float, default=60.0, help="seconds of watching")
    parser.add_argument("--minutes", type=float, default=10.0, help="of synchrony and growth")
    parser.add_argument("--count", type=int, default=1000, help="of wrong messages; and 20 times the viewers who leave")
    parser.add_argument("--json", type=Path, help="keep the figures here, and go on from those that are there")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(FIGURES):
        parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(FIGURES)}")
    figures: Figures = read_json(options.json) if options.json and options.json.is_file() else {}
    for name in options.only:
        if name not in figures:
            begun = time.perf_counter()
            figures[name] = FIGURES[name](options.pipe, options)
            print(f"{name}: {time.perf_counter() - begun:.0f} s: {figures[name]}", flush=True)
            if options.json:
                write_json(options.json, figures)
    print(f"\n{os.cpu_count()} CPU cores\n")
    print("\n".join(table(figures)))


if __name__ == "__main__":
    main()
