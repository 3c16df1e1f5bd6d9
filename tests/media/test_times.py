"""Media: picture and sound of one instant stay together, at any rate of frames and of samples, with any layout."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from flowreel.media import Clip, iterate, probe, resize_frames, samples_for
from flowreel.media.downmix import downmix
from tests.filming import BRIGHT, DARK, RATE, click, even_times, grey, make
from tests.media.test_reader import first_bright, onset

MEL_STEP = 0.01  # seconds


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov", ".ts"])
@pytest.mark.parametrize("source", [5, 12, 15, Fraction(24000, 1001), 50, 90, 120])
def test_flash_and_beep_of_one_instant_land_in_one_frame(tmp_path, suffix, source):
    count = max(8, round(source))
    rate = 48000 if suffix == ".webm" else RATE
    for number in (3, count // 2 + 1):
        instant = float(number / Fraction(source))
        pictures = grey([BRIGHT if k >= number else DARK for k in range(count)], 16, 16)
        sound = click(count / source, instant, rate)
        path = make(tmp_path / f"a{suffix}", pictures, even_times(count, source), sound, sound_rate=rate)
        for fps in (10, 24):
            clip = Clip.read(path, fps=fps)
            frame = int(instant * fps + 1e-3)
            assert first_bright(clip) == frame
            assert onset(clip) == pytest.approx(instant, abs=MEL_STEP / 2)
            assert int((onset(clip) + 1e-3) * fps) == frame
            assert clip.audio.shape == (samples_for(len(clip.frames), fps, RATE),)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_uneven_times_keep_flash_and_beep_together(tmp_path, suffix):
    tick = Fraction(1, 1000) if suffix == ".mkv" else Fraction(1, 90_000)
    generator = np.random.default_rng(0)
    gaps = generator.integers(8, 200, 30)  # ms: 5 to 125 frames a second
    times = [Fraction(int(t), 1000) for t in np.concatenate([[0], np.cumsum(gaps)])]
    for number in (4, 17):
        pictures = grey([BRIGHT if k >= number else DARK for k in range(len(times))], 16, 16)
        seconds = float(times[-1]) + 0.2
        path = make(tmp_path / f"a{suffix}", pictures, times, click(seconds, float(times[number])))
        for fps in (8, 10, 24, 60):
            clip = Clip.read(path, fps=fps)
            assert first_bright(clip) == int((times[number] + tick) * fps)
            assert onset(clip) == pytest.approx(float(times[number]), abs=MEL_STEP / 5)


def test_pcm_in_avi_is_in_time(tmp_path):
    for source in (10, 25, 60):
        number = source // 2
        pictures = grey([BRIGHT if k >= number else DARK for k in range(source)])
        path = make(tmp_path / "a.avi", pictures, even_times(source, source), click(1, number / source), codec="mpeg4")
        clip = Clip.read(path, fps=10)
        assert onset(clip) == pytest.approx(number / source, abs=2e-3)
        assert first_bright(clip) == int(number * 10 / source)


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 22050, 32000, 44100, 48000, 88200, 96000, 192000])
def test_every_rate_of_samples_keeps_time_and_loudness(tmp_path, rate):
    sound = click(1, 0.5, rate)
    time = np.arange(rate) / rate
    sound += (0.2 * np.sin(2 * np.pi * 500 * time) * (time < 0.4)).astype(np.float32)
    path = make(tmp_path / "a.mkv", grey([DARK] * 10), even_times(10, 10), sound, sound_rate=rate)
    assert probe(path).sample_rate == rate
    for wanted in (16000, 44100):
        clip = Clip.read(path, fps=10, sample_rate=wanted)
        assert onset(clip) == pytest.approx(0.5, abs=1e-3)
        steady = clip.audio[wanted // 10 : wanted * 3 // 10]
        assert np.sqrt(2 * np.mean(steady**2)) == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize("channels", range(1, 9))
def test_any_number_of_channels_becomes_one(tmp_path, channels):
    sound = np.repeat(click(1, 0.5), channels, axis=0) * np.linspace(0.2, 1, channels)[:, None].astype(np.float32)
    for suffix, codec in ((".mkv", "pcm_s16le"), (".mkv", "flac"), (".mp4", "aac")):
        if (codec, channels) == ("aac", 7):
            continue  # FFmpeg's encoder has no 6.1
        path = make(tmp_path / f"a{suffix}", grey([DARK] * 10), even_times(10, 10), sound, sound_codec=codec)
        mean, first = Clip.read(path, fps=10), Clip.read(path, fps=10, channel="first")
        assert onset(mean) == pytest.approx(0.5, abs=2e-3)
        if codec != "aac":  # which puts the channels into an order of its own
            weights = downmix(["NONE"] * channels) if channels > 2 else np.full(channels, 1 / channels)
            mixed = min(1.0, 0.8 * float(np.linspace(0.2, 1, channels) @ weights))
            if codec == "pcm_s16le" or channels < 3:  # FLAC names its channels
                assert np.abs(mean.audio).max() == pytest.approx(mixed, abs=0.02)
            assert np.abs(first.audio).max() == pytest.approx(0.8 * 0.2, abs=0.02)


@pytest.mark.parametrize(("height", "width"), [(35, 63), (17, 19), (1, 7), (2, 2), (270, 481)])
def test_odd_sizes_are_read_whole(tmp_path, height, width):
    ramp = np.linspace(0, 250, width).astype(np.uint8)
    pictures = np.broadcast_to(ramp[None, None, :, None], (3, height, width, 3))
    for suffix, codec, pixels in ((".mp4", "libx264", "yuv444p"), (".mkv", "ffv1", "bgr0")):
        path = make(tmp_path / f"a{suffix}", pictures, even_times(3, 10), codec=codec, pixels=pixels)
        assert (probe(path).height, probe(path).width) == (height, width)
        clip = Clip.read(path)
        assert clip.frames.shape == (3, height, width, 3)
        assert np.abs(clip.frames.astype(int) - pictures).mean() < 4
        for fit in ("crop", "letterbox", "stretch"):
            assert Clip.read(path, size=(24, 40), fit=fit).frames.shape == (3, 24, 40, 3)


def test_a_smaller_picture_keeps_its_geometry(tmp_path):
    """What FFmpeg shrinks lies where Pillow would have put it: the centre of a blob, cut at any place."""
    y, x = np.mgrid[:240, :426]
    blob = np.exp(-((x - 200.3) ** 2 + (y - 118.6) ** 2) / 800)
    pictures = np.repeat(np.round(250 * blob).astype(np.uint8)[None, ..., None], 3, axis=3)
    path = make(tmp_path / "a.mkv", pictures, [Fraction(0)], codec="ffv1", pixels="bgr0")
    for fit, place in (("crop", (0.5, 0.5)), ("crop", (0.3, 0.41)), ("letterbox", (0.5, 0.5)), ("stretch", (0.5, 0.5))):
        for size in ((64, 64), (40, 96), (61, 47)):
            got = next(iterate(path, size=size, fit=fit, crop=place)).frames[0, ..., 0].astype(float)
            wanted = resize_frames(pictures, *size, fit, place)[0, ..., 0].astype(float)
            for axis in (0, 1):
                along = np.arange(size[axis])
                centres = [(p.sum(axis=1 - axis) * along).sum() / p.sum() for p in (got, wanted)]
                assert abs(centres[0] - centres[1]) < 0.03
            assert np.abs(got - wanted).max() <= 4
