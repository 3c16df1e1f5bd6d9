"""The page in a browser: it plays, is steered, takes a sound, gives a clip, and comes back after the server did."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowreel.media import Clip
from tests.conftest import tiny_pipeline
from tests.serve.serving import Served, served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=document-user-activation-required"]
        running = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield running
        running.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(tiny_pipeline(classes=("low", "high")), places=3) as running:
        yield running


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    context = browser.new_context(accept_downloads=True)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.goto(f"http://{server.host}/")
    playing(opened)
    yield opened
    assert not errors
    context.close()


def playing(page: Any, seconds: float = 20) -> None:
    until(page, "window.flowreel?.state === 'playing' && video.currentTime > 0", seconds)


def until(page: Any, condition: str, seconds: float) -> None:
    """Wait for a condition: by asking, as the page's own policy forbids what Playwright would wait with."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"() => Boolean({condition})"):
        assert time.monotonic() < end, (
            f"{condition} did not come about: {page.evaluate('() => window.flowreel?.state')}"
        )
        page.wait_for_timeout(50)


def at_rest(read: Callable[[], Any]) -> Any:
    """What ``read`` gives when it has stayed the same for 0.7 s, which must be soon."""
    last, end = read(), time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.7)
        if read() == last:
            return last
        last = read()
    raise AssertionError(f"it still changes: {last}")


def value(page: Any, expression: str) -> Any:
    return page.evaluate(f"() => {expression}")


def test_it_plays_with_sound(page: Any) -> None:
    before = value(page, "video.currentTime")
    until(page, f"video.currentTime > {before} + 1.5", 15)
    assert value(page, "video.videoWidth / video.videoHeight") == 1
    assert value(page, "video.webkitAudioDecodedByteCount") > 0
    assert value(page, "video.muted") is True
    assert value(page, "flowreel.rolled - video.currentTime") < 2
    page.click("#mute")
    assert value(page, "video.muted") is False
    until(page, "Number(fps.textContent.split(' ')[0]) > 3", 10)
    pixels = value(
        page,
        "(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])(document.querySelector('canvas'))",
    )
    assert len(set(pixels)) > 4, "nothing is drawn of the sound"


def test_another_class(page: Any) -> None:
    label = value(page, "flowreel.label")
    other = "high" if label == "low" else "low"
    page.click(f"#classes [data-label={other}]")
    until(page, f"flowreel.label === '{other}'", 10)
    assert other in page.inner_text("#now")


def test_pause_stops_the_video_and_the_server(page: Any, server: Served) -> None:
    page.click("#pause")
    until(page, "flowreel.state === 'paused'", 5)
    _, place = at_rest(lambda: (server.sessions.frames, value(page, "video.currentTime")))
    page.click("#pause")
    until(page, f"video.currentTime > {place} + 0.3", 10)


def test_restart_with_a_seed_and_steps(page: Any, server: Served) -> None:
    page.fill("#seed", "77")
    page.fill("#steps", "2")
    page.click("#restart")
    requests = [viewer.live for viewer in server.sessions.viewers]
    end = time.monotonic() + 10
    while not any((r.wanted.seed, r.wanted.steps) == (77, 2) for r in requests) and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert any((r.wanted.seed, r.wanted.steps) == (77, 2) for r in requests)
    place = value(page, "video.currentTime")
    until(page, f"video.currentTime > {place} + 0.5", 15)


def test_a_sound_and_a_clip_are_taken(
    page: Any, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3)).astype(np.uint8)
    clip = Clip(frames, np.sin(np.arange(32000) * 0.2).astype(np.float32) * 0.5)
    live = next(iter(server.sessions.viewers)).live
    asked: list[str] = []
    restart = live.restart
    monkeypatch.setattr(live, "restart", lambda wanted: (asked.append(wanted.role), restart(wanted)))
    page.set_input_files("#file", clip.save(tmp_path / "sound.wav"))
    end = time.monotonic() + 15
    while not asked and time.monotonic() < end:
        page.wait_for_timeout(50)
    page.wait_for_timeout(200)
    page.set_input_files("#file", clip.save(tmp_path / "clip.mp4"))
    page.wait_for_selector("#use[open]", timeout=15_000)
    page.click("#use-prefix")
    while len(asked) < 2 and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert asked == ["audio", "prefix"]
    place = value(page, "video.currentTime")
    until(page, f"video.currentTime > {place} + 1", 15)


def test_a_dropped_file_is_taken(page: Any, server: Served, tmp_path: Path) -> None:
    sound = Clip(np.zeros((10, 4, 4, 3), np.uint8), np.zeros(16000, np.float32)).save(tmp_path / "s.wav").read_bytes()
    uploads = server.sessions.counts.uploads
    page.evaluate(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "s.wav", {type: "audio/wav"}));
            for (const kind of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(sound),
    )
    end = time.monotonic() + 15
    while server.sessions.counts.uploads == uploads and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert server.sessions.counts.uploads == uploads + 1


def test_the_last_seconds_are_a_clip(page: Any, tmp_path: Path) -> None:
    until(page, "video.currentTime > 3", 20)
    with page.expect_download() as download:
        page.click("#download")
    path = tmp_path / "last.mp4"
    download.value.save_as(path)
    clip = Clip.read(path)
    assert 2 < clip.seconds <= 11
    assert clip.audio is not None


def test_keys(page: Any) -> None:
    page.keyboard.press("m")
    assert value(page, "video.muted") is False
    page.keyboard.press("Space")
    until(page, "flowreel.state === 'paused'", 5)
    page.keyboard.press("Space")
    until(page, "flowreel.state === 'playing'", 10)
    for number, label in (("1", "low"), ("2", "high")):
        page.keyboard.press(number)
        until(page, f"flowreel.asked === '{label}'", 5)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_labelled(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert value(page, "document.documentElement.scrollWidth") <= width
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a")]
            .filter((e) => e.offsetParent && !(e.textContent.trim() || e.ariaLabel || e.labels?.length || e.title))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    if width < 500:
        small = page.evaluate(
            """() => [...document.querySelectorAll("button")].filter((e) => e.offsetParent && e.offsetHeight < 44)
                .map((e) => e.id || e.textContent)"""
        )
        assert small == []


def test_it_comes_back_after_the_server_did(browser: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = browser.new_page()
    with served(tiny_pipeline(), port=port) as server:
        page.goto(f"http://{server.host}/")
        playing(page)
    until(page, "flowreel.state === 'lost'", 10)
    with served(tiny_pipeline(), port=port):
        until(page, "flowreel.connections === 2 && flowreel.state === 'playing'", 20)
    page.close()


def test_full_is_said_and_a_place_is_taken_when_there_is_one(browser: Any) -> None:
    with served(tiny_pipeline(), places=1) as server:
        first, second = browser.new_page(), browser.new_page()
        first.goto(f"http://{server.host}/")
        playing(first)
        second.goto(f"http://{server.host}/")
        until(second, "window.flowreel?.state === 'full'", 10)
        first.close()
        playing(second)
        second.close()


def test_a_broadcast_can_be_watched_but_not_steered(browser: Any) -> None:
    with served(tiny_pipeline(), places=3, broadcast=True) as server:
        pages = [browser.new_page() for _ in range(2)]
        for page in pages:
            page.goto(f"http://{server.host}/")
            playing(page)
            assert value(page, "restart.disabled") is True
        places = [value(page, "video.currentTime") for page in pages]
        assert abs(places[0] - places[1]) < 2.5
        for page in pages:
            page.close()


def test_a_browser_without_media_source_is_told(browser: Any, server: Served) -> None:
    page = browser.new_page()
    page.add_init_script("delete window.MediaSource; delete window.ManagedMediaSource;")
    page.goto(f"http://{server.host}/")
    until(page, "window.flowreel?.state === 'unsupported'", 10)
    assert page.locator("#status a[href='/stream.mp4'], a[href='/stream.mp4']").first.is_visible()
    page.close()
