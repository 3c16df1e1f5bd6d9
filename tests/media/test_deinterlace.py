"""Media: interlaced video becomes whole pictures, at the same times, from any start."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.context import Flags
from av.filter import Graph

from flowreel.media import Clip, iterate, probe
from flowreel.media.deinterlace import progressive_frames
from tests.filming import even_times, grey, make

FPS = 25
HEIGHT, WIDTH = 64, 96


def fields(count: int) -> np.ndarray:
    """``count`` pictures (T, H, W, 3) whose even lines show a bar at one instant and whose odd lines half a picture
    later, as it moves to the right."""
    x = np.arange(WIDTH)
    pictures = np.full((count, HEIGHT, WIDTH), 40, np.uint8)
    for number in range(count):
        for line in (0, 1):
            begin = 6 * number + 3 * line
            pictures[number, line::2, (x - begin) % WIDTH < 12] = 220
    return np.repeat(pictures[..., None], 3, axis=3)


def film(path: Path, pictures: np.ndarray, gop: int = 12) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "4"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.flags |= Flags.interlaced_dct
        stream.codec_context.gop_size = gop
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def coded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def filtered(frames: list[av.VideoFrame], options: str) -> list[np.ndarray]:
    """All frames through one filter of their own."""
    graph = Graph()
    first = frames[0]
    source = graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=Fraction(1, FPS))
    graph.link_nodes(source, graph.add("bwdif", options), graph.add("buffersink")).configure()
    done = []
    for frame in [*frames, None]:
        graph.vpush(frame)
        while True:
            try:
                done.append(graph.vpull().to_ndarray(format="rgb24"))
            except (av.BlockingIOError, av.EOFError):
                break
    return done


def combs(picture: np.ndarray) -> float:
    """How much the lines of a picture differ from those two further: lines of another instant do."""
    lines = picture[..., 0].astype(int)
    return float(np.abs(lines[1:-1] * 2 - lines[:-2] - lines[2:]).mean())


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "a.mp4", fields(40))


def test_the_film_of_these_tests_is_interlaced(interlaced):
    frames = coded(interlaced)
    assert all(frame.interlaced_frame for frame in frames)
    assert combs(frames[20].to_ndarray(format="rgb24")) > 20


def test_lines_of_two_instants_become_one_picture(interlaced):
    clip = Clip.read(interlaced)
    expected = filtered(coded(interlaced), "mode=send_frame:deint=all")
    assert len(clip.frames) == len(expected) == 40
    for picture, want in zip(clip.frames, expected, strict=True):
        assert np.abs(picture.astype(int) - want).max() <= 2
        assert combs(picture) < 6
    assert probe(interlaced).seconds == clip.seconds == 1.6
    parts = np.concatenate([part.frames for part in iterate(interlaced, chunk=7)])
    assert np.array_equal(parts, clip.frames)


@pytest.mark.parametrize("number", [1, 11, 12, 13, 24, 25, 30, 39])
def test_a_start_gives_the_same_pictures(interlaced, number):
    """Pictures depend on the one before, also where a start is the first of a group of pictures (12, 24)."""
    whole = Clip.read(interlaced)
    part = Clip.read(interlaced, start=number / FPS)
    assert np.array_equal(part.frames, whole.frames[number:])
    short = Clip.read(interlaced, start=number / FPS, seconds=1 / FPS)
    assert np.array_equal(short.frames, whole.frames[number : number + 1])


def test_at_another_rate_and_size_the_times_stay(interlaced):
    clip = Clip.read(interlaced, fps=50, size=(32, 48))
    half = Clip.read(interlaced, size=(32, 48))
    assert np.array_equal(clip.frames[::2], half.frames)
    assert np.array_equal(clip.frames[1::2], half.frames)


def test_progressive_frames_between_stay_as_they_are(interlaced, tmp_path):
    path = make(tmp_path / "b.mp4", grey(list(range(20, 220, 10)), HEIGHT, WIDTH), even_times(20, FPS))
    combed, whole = coded(interlaced), coded(path)
    mixed = [*whole[:5], *combed[:6], *whole[5:10], *combed[6:8]]
    untouched = [frame.to_ndarray() for frame in mixed]
    timed = [(frame, Fraction(k, FPS), Fraction(k + 1, FPS), Fraction(1, FPS)) for k, frame in enumerate(mixed)]
    done = list(progressive_frames(timed))
    assert [entry[1:] for entry in done] == [entry[1:] for entry in timed]
    for k, (frame, *_) in enumerate(done):
        kept = np.array_equal(frame.to_ndarray(), untouched[k])
        assert kept == (k < 5 or 11 <= k < 16)


def test_progressive_films_see_no_filter(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", grey([20, 120, 220]), even_times(3, FPS))
    monkeypatch.setattr("flowreel.media.deinterlace._Bwdif", None)
    assert len(Clip.read(path).frames) == 3


def test_another_size_midway_begins_anew(interlaced):
    small = [frame.reformat(width=48, height=32) for frame in coded(interlaced)[:1]]
    frames = [*coded(interlaced)[:4], *small, *coded(interlaced)[4:7]]
    timed = [(frame, Fraction(k), Fraction(k + 1), Fraction(1)) for k, frame in enumerate(frames)]
    done = list(progressive_frames(timed))
    assert [(frame.width, time) for frame, time, _, _ in done] == [(f.width, k) for k, f in enumerate(frames)]


def test_one_interlaced_picture_is_given(tmp_path):
    path = film(tmp_path / "a.mp4", fields(1))
    assert len(Clip.read(path).frames) == 1
    assert probe(path).seconds == 1 / FPS


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mov"])
def test_in_other_containers(tmp_path, suffix):
    path = film(tmp_path / f"a{suffix}", fields(20))
    assert max(combs(picture) for picture in Clip.read(path, fps=FPS).frames) < 6
