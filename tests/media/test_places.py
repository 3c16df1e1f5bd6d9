"""Media: which of several streams is read, and that a part of a file is what the whole holds there, to the sample."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, features

from flowreel.errors import InputError
from flowreel.media import Clip, probe, read_audio, samples_for
from tests.filming import BRIGHT, DARK, RATE, click, even_times, grey, make
from tests.media.test_reader import first_bright, onset

CODED = {  # frames of sound of these codecs do not last a whole number of milliseconds
    ".mkv": ("aac", 44100),
    ".webm": ("libopus", 48000),
    ".flv": ("aac", 22050),
    ".ts": ("aac", 44100),
    ".mp4": ("aac", 44100),
    ".mpg": ("mp2", 44100),
    ".avi": ("pcm_s16le", 44100),
}


def noise(seconds: float, rate: int) -> np.ndarray:
    """(1, S): unlike itself at every shift."""
    return np.random.default_rng(0).uniform(-0.4, 0.4, (1, round(seconds * rate))).astype(np.float32)


def shift(part: np.ndarray, whole: np.ndarray, at: int, reach: int = 400) -> int:
    """Samples by which the part is late against ``whole[at:]``, at most ``reach``."""
    size = len(part) - 2 * reach
    inner = part[reach : reach + size]
    scores = [inner @ whole[at + k : at + k + size] for k in range(2 * reach)]
    return reach - int(np.argmax(scores))


@pytest.mark.parametrize("suffix", CODED)
def test_sound_after_a_start_is_the_wholes_to_the_sample(tmp_path, suffix):
    codec, rate = CODED[suffix]
    pictures = {".mpg": "mpeg2video", ".avi": "mpeg4", ".flv": "flv"}.get(suffix, "")
    path = make(
        tmp_path / f"a{suffix}",
        grey(np.linspace(0, 250, 150).astype(np.uint8)),
        even_times(150, 25),
        noise(6, rate),
        sound_rate=rate,
        codec=pictures,
        sound_codec=codec,
    )
    whole = Clip.read(path, fps=25)
    for number in (1, 33, 58, 101, 127):
        part = Clip.read(path, fps=25, start=number / 25, seconds=0.6)
        assert np.array_equal(part.frames, whole.frames[number : number + 15])
        assert shift(part.audio, whole.audio, number * RATE // 25) == 0


@pytest.mark.parametrize("start", [Fraction(-4, 1000), Fraction(3, 1000), Fraction(91, 1000), Fraction(4, 1000)])
def test_sound_lies_where_its_first_time_says(tmp_path, start):
    """Also where that is less than 5 ms away from the first picture, which timestamps may be off later on."""
    times = [time + Fraction(1, 10) for time in even_times(10, 10)]
    path = make(tmp_path / "a.mov", grey([DARK] * 10), times, click(1, 0.4), start + Fraction(1, 10))
    assert onset(Clip.read(path, fps=10)) == pytest.approx(0.4 + float(start), abs=1.5 / RATE)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_default_streams_are_read(tmp_path, suffix):
    """Not the first ones: a small preview and a silent track come before those that players show."""
    path = tmp_path / f"a{suffix}"
    sides, tones = (16, 48), (0.0, 0.5)
    with av.open(str(path), "w") as container:
        videos = [container.add_stream("libx264", rate=10) for _ in sides]
        for video, side in zip(videos, sides, strict=True):
            video.width = video.height = side
            video.pix_fmt = "yuv420p"
        rates = (48000, 32000)
        audios = [container.add_stream("aac", rate=rate, layout="mono") for rate in rates]
        for pair in (videos, audios):
            pair[0].disposition = 0
            pair[1].disposition = av.stream.Disposition.default
        for number in range(10):
            for video, side in zip(videos, sides, strict=True):
                frame = av.VideoFrame.from_ndarray(grey([200], side, side)[0], format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(video.encode(frame))
        for audio, rate, level in zip(audios, rates, tones, strict=True):
            wave = level * np.sin(2 * np.pi * 500 * np.arange(rate) / rate)
            block = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
            container.mux(audio.encode(block))
        for stream in (*videos, *audios):
            container.mux(stream.encode(None))
    info = probe(path)
    assert (info.width, info.height, info.sample_rate) == (48, 48, 32000)
    assert np.abs(Clip.read(path).audio).max() > 0.4
    assert np.abs(read_audio(path)).max() > 0.4


def in_avi(path: Path, codec: str, delay: int, number: int, fps: int) -> Path:
    """A flash and a click of one instant, with up to ``delay`` pictures that are coded after a later one."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps)
        video.width = video.height = 48
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.codec_context.max_b_frames = delay
        video.codec_context.gop_size = 7
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for k in range(3 * fps):
            level = BRIGHT if k >= number else DARK + k % 9
            frame = av.VideoFrame.from_ndarray(grey([level], 48, 48)[0], format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(click(3, number / fps), format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize(("codec", "delay"), [("libx264", 0), ("libx264", 3), ("mpeg4", 0), ("mpeg4", 2), ("mjpeg", 0)])
@pytest.mark.parametrize("fps", [12, 30])
def test_pictures_in_avi_are_in_time(tmp_path, codec, delay, fps):
    """AVI states no times: FFmpeg guesses them, a picture late and in another order where there are B-frames."""
    number = fps + 5
    path = in_avi(tmp_path / "a.avi", codec, delay, number, fps)
    whole = Clip.read(path, fps=2 * fps)
    assert len(whole.frames) == 6 * fps
    assert first_bright(whole) == 2 * number
    assert onset(whole) == pytest.approx(number / fps, abs=1e-3)
    for first in (2, fps, 2 * number - 3):
        part = Clip.read(path, fps=2 * fps, start=first / (2 * fps), seconds=0.5)
        assert np.array_equal(part.frames, whole.frames[first : first + fps])
        assert np.array_equal(part.audio, whole.audio[samples_for(first, 2 * fps, RATE) :][: len(part.audio)])


@pytest.mark.parametrize("suffix", [".mpg", ".vob", ".ts"])
def test_a_start_within_a_program_stream_is_found(tmp_path, suffix):
    rise = np.linspace(20, 230, 200).astype(np.uint8)
    path = make(
        tmp_path / f"a{suffix}",
        grey(rise, 48, 64),
        even_times(200, 25),
        noise(8, 48000),
        sound_rate=48000,
        codec="mpeg2video",
        sound_codec="mp2",
        gop=30,
    )
    whole = Clip.read(path, fps=25)
    for number in (13, 77, 171):
        part = Clip.read(path, fps=25, start=number / 25)
        assert np.array_equal(part.frames, whole.frames[number:])
        assert shift(part.audio[:4000], whole.audio, number * RATE // 25) == 0


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".flv", ".mp4", ".ts", ".avi"])
@pytest.mark.parametrize("later", [0, 3])
def test_the_length_is_that_of_the_pictures(tmp_path, suffix, later):
    """From the first picture on, however much longer the sound is, and wherever the file's clock begins."""
    delay = 0 if suffix == ".avi" else Fraction(3, 4)
    rate = 48000 if suffix == ".webm" else 44100
    times = [time + delay for time in even_times(35, 10)]
    codec = {".flv": "flv", ".avi": "mpeg4"}.get(suffix, "")
    path = make(
        tmp_path / f"a{suffix}", grey([DARK] * 35), times, noise(4.25 + later, rate), sound_rate=rate, codec=codec
    )
    assert probe(path).seconds == pytest.approx(3.5, abs=0.02)
    assert len(Clip.read(path, fps=10).frames) == 35


def webp(path: Path, levels: list[int], durations: list[int], alpha: int = 255) -> Path:
    """Plain pictures, each shown as many milliseconds as told, without loss."""
    pictures = [Image.new("RGBA", (48, 32), (level, level, level, alpha)) for level in levels]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, lossless=True)
    return path


def test_moving_webp_is_read_with_its_times(tmp_path):
    path = webp(tmp_path / "a.webp", [10, 60, 110, 160], [100, 300, 50, 150])
    info = probe(path)
    assert (info.height, info.width, info.has_audio) == (32, 48, False)
    assert info.seconds == pytest.approx(0.6)
    assert info.fps == pytest.approx(4 / 0.6)
    shown = [10, 10, 60, 60, 60, 60, 60, 60, 110, 160, 160, 160]
    assert np.array_equal(Clip.read(path, fps=20).frames[:, 0, 0, 0], shown)
    part = Clip.read(path, fps=20, start=0.35, seconds=0.2)
    assert np.array_equal(part.frames[:, 0, 0, 0], shown[7:11])
    assert part.audio is None


def test_transparent_webp_lies_over_black(tmp_path):
    path = webp(tmp_path / "a.webp", [200, 100], [100, 100], alpha=51)
    assert np.abs(Clip.read(path, fps=10).frames[:, 5, 5].astype(int) - [[40], [20]]).max() <= 1


def test_what_is_written_as_webp_comes_back(tmp_path):
    frames = grey(np.linspace(0, 240, 25).astype(np.uint8))
    for fps in (8, 25, 30):
        back = Clip.read(Clip(frames, None, fps).save(tmp_path / "a.webp"))
        assert back.frames.shape == frames.shape
        assert abs(back.fps - fps) < 0.5
        assert np.abs(back.frames.astype(int) - frames).max() < 8


def test_webp_that_can_not_be_read_says_why(tmp_path):
    still = tmp_path / "still.webp"
    Image.new("RGB", (32, 32), "red").save(still)
    whole = webp(tmp_path / "whole.webp", [10, 60], [100, 100]).read_bytes()
    cut, hurt = tmp_path / "cut.webp", tmp_path / "hurt.webp"
    cut.write_bytes(whole[:-20])
    hurt.write_bytes(whole.replace(b"VP8L", b"XXXX"))
    for path, reason in ((still, "still picture"), (cut, "cut off"), (hurt, "damaged")):
        with pytest.raises(InputError, match=reason):
            Clip.read(path, fps=10)
    with pytest.raises(InputError, match="has no audio stream"):
        read_audio(webp(tmp_path / "silent.webp", [10, 60], [100, 100]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.webp")
    for read in (probe, read_audio, Clip.read):
        with pytest.raises(InputError, match="not a file"):
            read(tmp_path / "a.webp")


def test_the_moving_part_of_avif_is_read_and_a_still_one_is_refused(tmp_path):
    moving = [Image.new("RGB", (64, 48), (level, level, level)) for level in (20, 90, 160, 230)]
    if not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    moving[0].save(tmp_path / "a.avif", save_all=True, append_images=moving[1:], duration=200)
    moving[0].save(tmp_path / "still.avif")
    info = probe(tmp_path / "a.avif")
    assert info.seconds == pytest.approx(0.8)
    clip = Clip.read(tmp_path / "a.avif", fps=5)
    assert np.abs(clip.frames[:, 9, 9, 0].astype(int) - [20, 90, 160, 230]).max() < 6
    with pytest.raises(InputError, match="still picture"):
        probe(tmp_path / "still.avif")
