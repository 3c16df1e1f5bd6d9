"""Media: exact times, fits, formats and errors. Files to read are made with plain PyAV, apart from the Writer."""

from __future__ import annotations

import io
import itertools
import struct
import tracemalloc
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flowreel.errors import InputError
from flowreel.media import (
    Clip,
    Writer,
    contact_sheet,
    iterate,
    probe,
    read_audio,
    resize_frames,
    samples_for,
    spectrogram,
    with_spectrogram,
)
from flowreel.media.figures import _strip, _ticks
from tests.filming import BRIGHT, DARK, RATE, click, even_times, grey, make

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"


def onset(clip: Clip) -> float:
    """Seconds at which the sound first is half as loud as it ever is."""
    assert clip.audio is not None
    loud = np.abs(clip.audio)
    return int(np.argmax(loud > loud.max() / 2)) / clip.sample_rate


def first_bright(clip: Clip) -> int:
    return int(np.argmax(clip.frames.mean(axis=(1, 2, 3)) > 128))


def levels(clip: Clip) -> list[int]:
    return [round(float(level)) for level in clip.frames.mean(axis=(1, 2, 3))]


def tone_clip(frames: int = 10, height: int = 32, width: int = 48, fps: float = 10.0, seed: int = 0) -> Clip:
    """Smooth moving colours and a quiet tone."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((width, height))
    pictures = np.stack([np.roll(np.asarray(coarse), shift, axis=1) for shift in range(frames)])
    time = np.arange(samples_for(frames, fps, RATE)) / RATE
    return Clip(pictures, (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), fps, RATE)


# --- reading: time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("source", [10, 24, 25, Fraction(30000, 1001), 60])
def test_flash_and_click_of_one_instant_land_in_one_frame(tmp_path, suffix, source):
    for number in (7, 22):
        instant = float(number / Fraction(source))
        pictures = grey([BRIGHT if k >= number else DARK for k in range(60)], 16, 16)
        path = make(tmp_path / f"flash{suffix}", pictures, even_times(60, source), click(60 / source, instant))
        for fps in (8, 10, 24):
            clip = Clip.read(path, fps=fps)
            frame = int(instant * fps + 1e-3)
            assert first_bright(clip) == frame
            assert onset(clip) == pytest.approx(instant, abs=2e-3)
            assert clip.audio.shape == (samples_for(len(clip.frames), fps, RATE),)
            assert len(clip.frames) == round(float(60 / Fraction(source)) * fps)


@pytest.mark.parametrize("fps", [10, 24, 30, Fraction(30000, 1001), 12.5])
def test_own_rate_gives_every_picture_once_though_the_ticks_are_coarse(tmp_path, fps):
    shades = list(range(0, 250, 6))
    path = make(tmp_path / "a.mkv", grey(shades), even_times(len(shades), fps), codec="ffv1", pixels="bgr0")
    assert levels(Clip.read(path)) == shades  # Matroska rounds times to milliseconds
    assert levels(Clip.read(path, fps=float(fps))) == shades
    assert Clip.read(path).fps == pytest.approx(float(fps), abs=1e-3)


def test_more_frames_than_the_file_repeat_and_fewer_show_the_latest(tmp_path):
    shades = [0, 50, 100, 150, 200, 250]
    path = make(tmp_path / "a.mkv", grey(shades), even_times(6, 10), codec="ffv1", pixels="bgr0")
    assert levels(Clip.read(path, fps=20)) == [shade for shade in shades for _ in range(2)]
    assert levels(Clip.read(path, fps=5)) == [50, 150, 250]


def test_variable_frame_rate_is_followed_by_timestamps(tmp_path):
    times = [Fraction(t, 100) for t in (0, 10, 15, 60, 62, 90)]
    path = make(tmp_path / "a.mp4", grey([0, 40, 80, 120, 160, 240]), times, click(1.2, 0.6))
    clip = Clip.read(path, fps=10, seconds=1.0)
    assert np.allclose(levels(clip), [0, 80, 80, 80, 80, 80, 160, 160, 160, 240], atol=3)
    assert onset(clip) == pytest.approx(0.6, abs=2e-3)


def test_a_late_sound_begins_with_silence_and_a_short_one_ends_with_it(tmp_path):
    for suffix in (".mp4", ".mkv", ".ts"):
        sound = click(0.5, 0.1)
        path = make(tmp_path / f"a{suffix}", grey([DARK] * 20), even_times(20, 10), sound, sound_start=Fraction(1, 2))
        clip = Clip.read(path, fps=10)
        assert clip.audio.shape == (2 * RATE,)
        assert onset(clip) == pytest.approx(0.6, abs=2e-3)
        assert np.abs(clip.audio[: RATE // 2 - 1100]).max() < 1e-3
        assert not clip.audio[round(1.2 * RATE) :].any()


def test_sound_before_the_first_picture_is_dropped(tmp_path):
    for suffix in (".mp4", ".mkv", ".ts"):
        times = [time + Fraction(2, 5) for time in even_times(10, 10)]
        path = make(tmp_path / f"a{suffix}", grey([DARK] * 5 + [BRIGHT] * 5), times, click(1.5, 0.9))
        clip = Clip.read(path, fps=10)
        assert first_bright(clip) == 5
        assert onset(clip) == pytest.approx(0.5, abs=2e-3)


def test_a_hole_in_the_sound_is_silence(tmp_path):
    path = tmp_path / "a.mkv"
    make(path, grey([DARK] * 20), even_times(20, 10))
    with av.open(str(tmp_path / "hole.mkv"), "w") as container, av.open(str(path)) as source:
        video = container.add_stream_from_template(source.streams.video[0])
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
        for start in (0, RATE):  # a click each, with half a second missing between
            block = av.AudioFrame.from_ndarray(click(0.5, 0.25), format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE, start, Fraction(1, RATE)
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    sound = np.abs(Clip.read(tmp_path / "hole.mkv", fps=10).audio)
    assert np.argmax(sound[: RATE // 2] > 0.4) / RATE == pytest.approx(0.25, abs=2e-3)
    assert not sound[RATE // 2 + 10 : RATE - 10].any()
    assert 1 + np.argmax(sound[RATE:] > 0.4) / RATE == pytest.approx(1.25, abs=2e-3)


def test_one_frame_without_sound(tmp_path):
    clip = Clip.read(make(tmp_path / "a.mp4", grey([200]), [Fraction(0)]))
    assert clip.frames.shape == (1, 32, 32, 3)
    assert clip.audio is None


# --- reading: chunks, parts, sound --------------------------------------------------------------------------------


def test_chunks_join_to_the_whole(tmp_path):
    clip = tone_clip(31, fps=24)
    clip.save(tmp_path / "a.mp4")
    for fps in (24, 29.97, 7):  # 16000 / fps is not whole
        whole = Clip.read(tmp_path / "a.mp4", fps=fps)
        for chunk in (1, 5, 64):
            parts = list(iterate(tmp_path / "a.mp4", fps=fps, chunk=chunk))
            assert all(len(part.frames) == chunk for part in parts[:-1])
            joined = Clip.join(parts)
            assert np.array_equal(joined.frames, whole.frames)
            assert np.array_equal(joined.audio, whole.audio)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_part_is_what_the_whole_holds_there(tmp_path, suffix):
    count = 100
    rise = np.linspace(0, 250, count).astype(np.uint8)
    rate = RATE if suffix == ".mkv" else 44100  # in whole milliseconds, to which Matroska rounds the times of blocks
    time = np.arange(5 * rate) / rate
    sweep = (0.4 * np.sin(2 * np.pi * (200 + 100 * time) * time))[None].astype(np.float32)
    path = make(tmp_path / f"a{suffix}", grey(rise), even_times(count, 20), sweep, sound_rate=rate)
    whole = Clip.read(path, fps=10)
    for start in (0.1, 2.3, 4.4):
        part = Clip.read(path, fps=10, start=start, seconds=0.6)
        first = round(start * 10)
        assert np.array_equal(part.frames, whole.frames[first : first + 6])
        assert np.allclose(part.audio, whole.audio[first * 1600 : (first + 6) * 1600], atol=3e-3)
    assert len(Clip.read(path, fps=10, start=4.4, seconds=9).frames) == 6


def test_a_start_past_the_end_is_refused(tmp_path):
    path = make(tmp_path / "a.mp4", grey([DARK] * 10), even_times(10, 10))
    with pytest.raises(InputError, match=r"ends at 1 s, before start 3 s"):
        Clip.read(path, fps=10, start=3)


def test_stereo_gives_the_mean_or_the_first_channel(tmp_path):
    time = np.arange(RATE) / RATE
    stereo = np.stack([0.8 * np.sin(2 * np.pi * 300 * time), 0.2 * np.sin(2 * np.pi * 300 * time)]).astype(np.float32)
    for suffix, codec in ((".mkv", "pcm_s16le"), (".mkv", "pcm_f32le"), (".mkv", "pcm_u8"), (".mp4", "aac")):
        path = make(tmp_path / f"a{suffix}", grey([DARK] * 10), even_times(10, 10), stereo, sound_codec=codec)
        mean, first = Clip.read(path, fps=10).audio, Clip.read(path, fps=10, channel="first").audio
        assert np.abs(mean[4000:12000]).max() == pytest.approx(0.5, abs=0.02)
        assert np.abs(first[4000:12000]).max() == pytest.approx(0.8, abs=0.02)


def test_resampling_keeps_time_and_range(tmp_path):
    for rate in (8000, 22050, 44100, 48000):
        pulse = click(1, 0.5, rate) / 0.8
        path = make(tmp_path / "a.mkv", grey([DARK] * 10), even_times(10, 10), pulse, sound_rate=rate)
        for wanted in (16000, 11025):
            clip = Clip.read(path, fps=10, sample_rate=wanted)
            assert clip.audio.shape == (wanted,)
            assert onset(clip) == pytest.approx(0.5, abs=1e-3)
            assert np.abs(clip.audio).max() <= 1
    assert Clip.read(path, fps=10, audio=False).audio is None


def test_memory_does_not_grow_with_the_file(tmp_path):
    frames = np.repeat(grey([DARK], 128, 128), 10, axis=0)  # 0.5 MB
    with Writer(tmp_path / "a.mp4", fps=10, height=128, width=128, sample_rate=RATE) as writer:
        tracemalloc.start()
        for _ in range(40):
            writer.write(Clip(frames, np.zeros(RATE, np.float32)))
        written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert sum(len(clip.frames) for clip in iterate(tmp_path / "a.mp4", fps=10, chunk=10)) == 400
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written < 3e6  # the frames are 20 MB
    assert read < 4e6


# --- reading: pictures --------------------------------------------------------------------------------------------


def test_fits():
    frame = np.zeros((1, 40, 80, 3), np.uint8)
    frame[:, :, :20, 0], frame[:, :, 20:60, 1], frame[:, :, 60:, 2] = 255, 255, 255  # red, green, blue
    assert np.array_equal(resize_frames(frame, 40, 80, "crop"), frame)
    crop = resize_frames(frame, 20, 20, "crop")
    assert (crop[0, :, 1:-1] == [0, 255, 0]).all()  # the middle square is green
    assert resize_frames(frame, 20, 20, "crop", (0.5, 0.0))[0, 5, 2].tolist() == [255, 0, 0]
    assert resize_frames(frame, 20, 20, "crop", (0.5, 1.0))[0, 5, -2].tolist() == [0, 0, 255]
    stretch = resize_frames(frame, 20, 20, "stretch")[0, 10]
    assert [stretch[k].argmax() for k in (1, 10, 18)] == [0, 1, 2]
    bars = resize_frames(frame, 33, 30, "letterbox")[0]
    assert not bars[:9].any()  # int(40 * 0.375) = 15 rows, (33 - 15) // 2 = 9 above and 9 below
    assert (bars[9:24].max(axis=(1, 2)) > 200).all()
    assert not bars[24:].any()


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_size_and_fit_apply_to_files(tmp_path, fit):
    clip = tone_clip(3, 40, 80)
    clip.save(tmp_path / "a.mkv")
    larger = Clip.read(tmp_path / "a.mkv", size=(44, 90), fit=fit).frames
    assert np.array_equal(larger, resize_frames(clip.frames, 44, 90, fit))
    smaller = Clip.read(tmp_path / "a.mkv", size=(24, 16), fit=fit).frames.astype(int)  # FFmpeg shrinks, not Pillow
    error = smaller - resize_frames(clip.frames, 24, 16, fit)
    assert np.abs(error).max() <= 16  # at hard edges: FFmpeg's cubic overshoots by a little more
    assert np.abs(error).mean() < 0.6
    assert Clip.read(tmp_path / "a.mkv", size=16, fit=fit).frames.shape == (3, 16, 16, 3)


def test_turned_pictures_are_read_upright(tmp_path):
    pictures = np.zeros((2, 32, 64, 3), np.uint8)
    pictures[:, :, :32] = BRIGHT  # the left half
    path = make(tmp_path / "a.mp4", pictures, even_times(2, 10))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # of version 0
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30)  # a quarter clockwise
    path.write_bytes(data)
    clip = Clip.read(path)
    assert clip.frames.shape == (2, 64, 32, 3)
    assert clip.frames[0, :28].mean() > 200  # what was left is on top
    assert clip.frames[0, 36:].mean() < 50
    assert (probe(path).height, probe(path).width) == (64, 32)


def test_wide_pixels_count(tmp_path):
    pictures = np.zeros((1, 32, 32, 3), np.uint8)
    pictures[:, :, 8:24] = BRIGHT
    path = make(tmp_path / "a.mp4", pictures, [Fraction(0)], aspect=Fraction(2, 1))  # is seen as 64 x 32
    assert Clip.read(path, size=32, fit="crop").frames[:, :, 1:-1].min() > 200  # the middle half fills the square
    bars = Clip.read(path, size=32, fit="letterbox").frames[0]
    assert not bars[:8].any()
    assert not bars[24:].any()
    assert bars[16, 16].min() > 200


def test_cover_pictures_are_not_video(tmp_path):
    cover = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(cover, "JPEG")
    for name, with_video in (("both.mp4", True), ("sound.mp4", False)):
        with av.open(str(tmp_path / name), "w") as container:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width = picture.height = 16
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            sound = container.add_stream("aac", rate=RATE, layout="mono")
            video = container.add_stream("libx264", rate=10) if with_video else None
            if video is not None:
                video.width = video.height = 32
                video.pix_fmt = "yuv420p"
            container.start_encoding()
            packet = av.Packet(cover.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = picture, 0, 0, True
            container.mux(packet)
            block = av.AudioFrame.from_ndarray(click(1, 0.5), format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
            container.mux([*sound.encode(block), *sound.encode(None)])
            if video is not None:
                for shade in grey([DARK] * 10):
                    container.mux(video.encode(av.VideoFrame.from_ndarray(shade)))
                container.mux(video.encode(None))
    assert Clip.read(tmp_path / "both.mp4").frames.shape == (10, 32, 32, 3)
    with pytest.raises(InputError, match=r"no video stream, only audio, cover picture"):
        Clip.read(tmp_path / "sound.mp4")


def test_full_range_and_untagged_colours(tmp_path):
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    pictures[:, :16, :16], pictures[:, 16:, 16:], pictures[:, :16, 16:] = (250, 5, 5), (5, 5, 250), 255
    for pixels in ("yuvj420p", "yuv420p", "yuv444p"):
        path = make(tmp_path / "a.mp4", pictures, even_times(2, 10), pixels=pixels)
        read = Clip.read(path).frames[0]
        for y, x in ((8, 8), (24, 24), (8, 24), (24, 8)):
            assert np.abs(read[y, x].astype(int) - pictures[0, y, x]).max() <= 8, (pixels, y, x)


# --- reading: errors ----------------------------------------------------------------------------------------------


def test_what_can_not_be_read_says_why(tmp_path):
    good = make(tmp_path / "good.mp4", tone_clip(40).frames, even_times(40, 10), click(4, 2))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 20)
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{good}\n")
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:-2000])
    tone_clip().save(tmp_path / "sound.wav")
    for name, reason in {
        "absent.mp4": "does not exist",
        ".": "not a file",
        "empty.mp4": r"empty \(0 bytes\)",
        "text.mp4": "can't be read as media: Invalid data",
        "list.mp4": "can't be read as media",
        "cut.mp4": "can't be read as media",
        "sound.wav": "no video stream, only audio",
    }.items():
        for read in (Clip.read, probe):
            with pytest.raises(InputError, match=reason):
                read(tmp_path / name)


def test_a_file_that_is_cut_off_can_be_read_up_to_there(tmp_path):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    with Writer(tmp_path / "a.mp4", fps=10, height=32, width=32, sample_rate=None) as writer:
        writer.write(Clip(noise, None))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(InputError, match=r"damaged or cut off: its video can't be decoded after \d\.\d\d s"):
        Clip.read(tmp_path / "cut.mp4")
    assert len(Clip.read(tmp_path / "cut.mp4", seconds=1).frames) == 10


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fps": 0}, "fps must be"),
        ({"fps": float("nan")}, "fps must be"),
        ({"sample_rate": 0}, "sample_rate must be"),
        ({"size": (0, 5)}, "size must be"),
        ({"size": (1, 2, 3)}, "size must be"),
        ({"fit": "zoom", "size": 8}, "fit must be one of crop, letterbox, stretch, not 'zoom'"),
        ({"start": -1}, "start must be"),
        ({"seconds": 0}, "seconds must be"),
        ({"channel": "left"}, "channel must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_reading(wrong, message):
    with pytest.raises(InputError, match=message):
        Clip.read("absent.mp4", **wrong)


def test_a_clip_checks_what_it_is_given():
    frames, audio = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(10, np.float32)
    assert Clip(frames, audio).seconds == 0.2
    for wrong, message in (
        (lambda: Clip(frames.astype(np.float32), audio), "uint8 array"),
        (lambda: Clip(frames[0], audio), r"not uint8 \(4, 4, 3\)"),
        (lambda: Clip(frames[:0], audio), "hold no pixels"),
        (lambda: Clip(frames, audio.astype(np.float64)), "float32 array"),
        (lambda: Clip(frames, audio[None]), r"not float32 \(1, 10\)"),
        (lambda: Clip(frames, audio * np.nan), "10 values that are NaN"),
        (lambda: Clip(frames, audio, fps=-1), "fps"),
        (lambda: Clip(frames, audio, sample_rate=0), "sample_rate"),
        (lambda: Clip.join([]), "no clips"),
        (lambda: Clip.join([Clip(frames, audio), Clip(frames, None)]), "differ"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("fps", "rate"), [(10, 16000), (25, 44100), (29.97, 48000), (24, 8000)])
def test_flash_and_click_come_back_where_they_were(tmp_path, suffix, fps, rate):
    for number in (0, 5, 17):
        sound = click(30 / fps, number / fps, rate)[0]
        frames = grey([BRIGHT if k >= number else DARK for k in range(30)])
        Clip(frames, sound[: samples_for(30, fps, rate)], fps, rate).save(tmp_path / f"a{suffix}")
        clip = Clip.read(tmp_path / f"a{suffix}", sample_rate=rate)
        assert len(clip.frames) == 30
        assert clip.audio.shape == (samples_for(30, fps, rate),)
        assert first_bright(clip) == number
        assert onset(clip) == pytest.approx(number / fps, abs=2e-3)


def test_mkv_is_lossless(tmp_path):
    generator = np.random.default_rng(1)
    for height, width in ((32, 48), (31, 45)):
        frames = generator.integers(0, 256, (7, height, width, 3), dtype=np.uint8)
        audio = generator.uniform(-1, 1, samples_for(7, 30, RATE)).astype(np.float32)
        Clip(frames, audio, 30.0).save(tmp_path / "a.mkv")
        read = Clip.read(tmp_path / "a.mkv")
        assert np.array_equal(read.frames, frames)
        assert np.array_equal(read.audio, audio)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47), (34, 47), (2, 2), (1, 1)])
def test_mp4_keeps_size_and_colours(tmp_path, height, width):
    clip = tone_clip(6, height, width)
    clip.save(tmp_path / "a.mp4")
    read = Clip.read(tmp_path / "a.mp4")
    assert read.frames.shape == clip.frames.shape
    assert np.abs(read.frames.astype(int) - clip.frames).mean() < (
        8 if height > 2 else 20
    )  # colours share 2 x 2 pixels
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].pix_fmt == ("yuv444p" if height % 2 or width % 2 else "yuv420p")
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_moving_pictures_without_sound(tmp_path):
    clip = tone_clip(5, 30, 41, fps=8)
    for suffix in (".gif", ".webp"):
        clip.save(tmp_path / f"a{suffix}")
        with Image.open(tmp_path / f"a{suffix}") as image:
            assert (image.n_frames, image.size) == (5, (41, 30))
            assert image.info["loop"] == 0
            shown, durations = [], []
            for number in range(5):
                image.seek(number)
                shown.append(np.asarray(image.convert("RGB"), dtype=int))
                durations.append(image.info["duration"])
        assert np.abs(np.stack(shown) - clip.frames).mean() < 8
        assert sum(durations) == pytest.approx(5 / 8 * 1000, abs=15)


def test_wav_holds_the_sound_and_does_not_wrap(tmp_path):
    audio = np.array([0.0, 0.5, 1.0, -1.0, 1.5, -7.0] + [0.25] * 1594, np.float32)
    Clip(grey([DARK]), audio).save(tmp_path / "a.WAV")
    with wave.open(str(tmp_path / "a.WAV")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE, 1, 1600)
        samples = np.frombuffer(file.readframes(1600), np.int16)
    assert samples[:6].tolist() == [0, 16384, 32767, -32768, 32767, -32768]
    with pytest.raises(InputError, match="no sound to write"):
        Clip(grey([DARK]), None).save(tmp_path / "b.wav")


def test_loud_sound_comes_back_loud_and_whole(tmp_path):
    time = np.arange(RATE) / RATE
    sine = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    Clip(grey([DARK] * 10), sine).save(tmp_path / "a.mp4")
    read = Clip.read(tmp_path / "a.mp4").audio
    error = (read - sine)[1000:-1000]
    assert np.sqrt(np.mean(error**2)) < 0.05  # a wrapped crest would be off by 2
    assert np.abs(error).max() < 0.5


def test_written_in_chunks_is_written_at_once(tmp_path):
    clip = tone_clip(24, fps=24)
    clip.save(tmp_path / "whole.mkv")
    with Writer(tmp_path / "parts.mkv", fps=24, height=32, width=48, sample_rate=RATE) as writer:
        cuts = [0, 1, 2, 10, 24]
        for a, b in itertools.pairwise(cuts):
            sound = clip.audio[samples_for(a, 24, RATE) : samples_for(b, 24, RATE)]
            writer.write(Clip(clip.frames[a:b], sound, 24))
    whole, parts = Clip.read(tmp_path / "whole.mkv"), Clip.read(tmp_path / "parts.mkv")
    assert np.array_equal(whole.frames, parts.frames)
    assert np.array_equal(whole.audio, parts.audio)


def test_a_part_without_sound_is_silent_and_the_rest_stays_in_place(tmp_path):
    frames = grey([DARK] * 10)
    with Writer(tmp_path / "a.mp4", fps=10, height=32, width=32, sample_rate=RATE) as writer:
        writer.write(Clip(frames, None))
        writer.write(Clip(frames, click(1, 0.5)[0, : RATE * 3 // 4]))  # too short by a quarter of a second
        writer.write(Clip(frames, click(1, 0.5)[0]))
    audio = np.abs(Clip.read(tmp_path / "a.mp4").audio)
    assert audio.shape == (3 * RATE,)
    assert audio[:RATE].max() < 0.05
    for second in (1, 2):
        at = np.argmax(audio[second * RATE : (second + 1) * RATE] > 0.4) / RATE
        assert at == pytest.approx(0.5, abs=2e-3)


def test_the_file_appears_when_it_is_complete_and_errors_leave_nothing(tmp_path):
    clip = tone_clip(4)
    path = tmp_path / "new folder" / "a.mp4"

    def files() -> list[str]:
        return sorted(file.name for file in path.parent.iterdir())

    with Writer(path, fps=10, height=32, width=48, sample_rate=RATE) as writer:
        writer.write(clip)
        assert not path.exists()
        assert len(files()) == 1
    assert files() == ["a.mp4"]
    before = path.read_bytes()
    writer.close()  # once more does nothing
    with pytest.raises(InputError, match="closed"):
        writer.write(clip)

    def interrupted() -> None:
        with Writer(path, fps=10, height=32, width=48, sample_rate=RATE) as writer:
            writer.write(clip)
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    with pytest.raises(InputError, match="nothing was written"):
        Writer(path, fps=10, height=32, width=48, sample_rate=RATE).close()
    assert files() == ["a.mp4"]
    assert path.read_bytes() == before


def test_what_can_not_be_written_says_why(tmp_path):
    clip = tone_clip(2)

    def writer(name: str = "a.mp4", **changes) -> Writer:
        return Writer(tmp_path / name, **{"fps": 10, "height": 32, "width": 48, "sample_rate": RATE, **changes})

    for attempt, message in (
        (
            lambda: clip.save(tmp_path / "a.avi"),
            "'.avi' files; choose .mp4, .mkv, .gif, .webp, .wav or .png",
        ),
        (lambda: clip.save(tmp_path / "a"), "can't write '' files"),
        (lambda: clip.save(tmp_path), "can't write|is a folder"),
        (lambda: writer(sample_rate=12345), "can't have 12345 Hz: resample it to one of 7350, 8000"),
        (lambda: writer(height=0), "height and width"),
        (lambda: writer(fps=-1), "fps must be"),
        (lambda: writer(quality=99), "quality"),
    ):
        with pytest.raises(InputError, match=message):
            attempt()
    for changes, message in (
        ({"height": 30}, "32x48 pixels can't be written to .* of 30x48"),
        ({"fps": 25}, "10 fps can't be written"),
        ({"sample_rate": 8000}, "16000 Hz can't be written"),
    ):
        with pytest.raises(InputError, match=message), writer(**changes) as open_writer:
            open_writer.write(clip)
    assert list(tmp_path.iterdir()) == []


def test_names_with_colons_and_percent_signs_are_names(tmp_path):
    path = tmp_path / "http:a %03d [1].mp4"
    tone_clip(3).save(path)
    assert len(Clip.read(path).frames) == 3


# --- drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 64, 64), (16, 64, 64), (100, 90, 160), (9, 200, 40)])
def test_contact_sheets_hold_every_row_and_the_sound(tmp_path, frames, height, width):
    clip = tone_clip(frames, height, width)
    clip.save(tmp_path / "a.png")
    contact_sheet(Clip(clip.frames, None), tmp_path / "silent.png", columns=4, rows=2)
    with Image.open(tmp_path / "a.png") as sheet, Image.open(tmp_path / "silent.png") as silent:
        rows = min(4, -(-frames // 8))
        assert sheet.height > rows * (72 + 15)
        assert silent.height < 2 * (200 + 30) + 40
        assert sheet.width > 44 * min(frames, 8)
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100


def test_the_strip_shows_tones_and_clicks_where_they_are():
    time = np.arange(2 * RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    drawn = _strip(tone, RATE, 0.5, 1.5, 100, 80)
    row = int(drawn.mean(axis=1).argmax())
    place = dict(_ticks(RATE))["1 kHz"]
    assert row == pytest.approx((1 - place) * 80, abs=2)
    assert drawn.max() == pytest.approx(20 * np.log10(0.5), abs=1.5)
    loudest = _strip(click(120, 60)[0], RATE, 0, 120, 100, 20).max(axis=0)
    assert set(np.flatnonzero(loudest > -60)) <= {49, 50}  # no click is missed however long the sound


def test_spectrograms_are_drawn(tmp_path):
    spectrogram(tone_clip().audio, RATE, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 800
    with pytest.raises(InputError, match="with samples"):
        spectrogram(np.zeros(0, np.float32), RATE, tmp_path / "b.png")


# --- real clips ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the folder of real clips is not beside the repository")
def test_real_clips_are_read(tmp_path):
    paths = sorted(CLIPS.rglob("*.mp4"))
    assert paths
    for path in paths:
        info = probe(path)
        clip = Clip.read(path, fps=10, size=(48, 64), fit="letterbox", start=0.5, seconds=1)
        assert clip.frames.shape == (10, 48, 64, 3)
        assert clip.frames.std() > 10
        assert (clip.audio is not None) == info.has_audio == (path.relative_to(CLIPS).parts[0] != "silent")
        if clip.audio is not None:
            assert clip.audio.shape == (RATE,)
            assert np.abs(clip.audio).max() > 1e-3
    clip.save(tmp_path / "a.mp4")
    assert Clip.read(tmp_path / "a.mp4").frames.shape == clip.frames.shape


def test_read_sound_takes_files_with_and_without_pictures(tmp_path: Path) -> None:
    tone = (0.5 * np.sin(np.arange(16000) * 0.2)).astype(np.float32)
    clip = Clip(np.zeros((10, 16, 16, 3), np.uint8), tone, 10, 16000)
    for name in ("a.wav", "a.mkv"):
        np.testing.assert_allclose(read_audio(clip.save(tmp_path / name)), tone, atol=1e-4)
    silent = Clip(clip.frames, None, 10).save(tmp_path / "b.mp4")
    with pytest.raises(InputError, match="no audio"):
        read_audio(silent)


def test_a_moving_picture_shows_its_sound_below():
    tone = (0.5 * np.sin(np.arange(16000) * 0.3)).astype(np.float32)
    tone[8000:] = 0
    clip = Clip(np.full((10, 8, 8, 3), 200, np.uint8), tone, 10, 16000)
    drawn = with_spectrogram(clip, scale=4)
    assert drawn.audio is None
    assert (drawn.frames[:, :32] == 200).all()
    strip = drawn.frames[0, 34:].astype(int)
    assert strip[:, 4:14].max() > 200 > strip[:, 18:].max()
    lines = [int(frame[34:].min(axis=(0, 2)).argmax()) for frame in drawn.frames]
    assert lines == sorted(set(lines))
    with pytest.raises(InputError, match="no sound"):
        with_spectrogram(Clip(clip.frames, None, 10))
