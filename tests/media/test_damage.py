"""Media that is broken, misnamed or extreme: frames or an InputError that says why, and memory that stays bounded."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flowreel.errors import InputError
from flowreel.media import Clip, iterate, probe, read_audio
from tests import bad_media
from tests.filming import DARK, RATE, click, even_times, grey, make

FPS = 10


def read(path: Path) -> tuple[int, int]:
    """Frames and samples of a file that can be read."""
    info = probe(path)
    frames = samples = 0
    for clip in iterate(path, fps=FPS, size=32):
        assert clip.frames.shape[1:] == (32, 32, 3)
        assert (clip.audio is not None) == info.has_audio
        frames += len(clip.frames)
        samples += 0 if clip.audio is None else len(clip.audio)
    return frames, samples


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> tuple[Path, dict[str, str | None]]:
    """The folder of bad files, and what is expected of each."""
    folder = tmp_path_factory.mktemp("bad")
    return folder, bad_media.make(folder)


def test_every_kind_of_bad_file_gives_its_reason(bad):
    folder, expected = bad
    assert {path.name for path in folder.iterdir()} == set(expected)
    frames = {}
    for name, reason in expected.items():
        if reason is None:
            frames[name] = read(folder / name)
        else:
            with pytest.raises(InputError, match=reason):
                read(folder / name)
    assert frames["one frame.mp4"] == (1, 0)
    assert (
        frames["blip.mp4"]
        == frames["240 fps.mp4"]
        == frames["7.1.mkv"]
        == frames["7.1.mp4"]
        == frames["an mkv.mp4"]
        == (10, RATE)
    )
    assert frames["8k portrait.mp4"] == (2, 0)


def test_extreme_files_hold_what_was_put_in(bad):
    folder, _ = bad
    info = probe(folder / "8k portrait.mp4")
    assert (info.height, info.width) == (7680, 4320)
    tall = Clip.read(folder / "8k portrait.mp4", size=(64, 32), fit="letterbox").frames[0]
    assert not tall[:3].any()  # 56 rows in the middle
    assert tall[6:30].min() > 225
    assert tall[34:].max() < 25
    shades = Clip.read(folder / "240 fps.mp4", fps=FPS).frames.mean(axis=(1, 2, 3))
    assert np.abs(shades - (24 * np.arange(1, 11) - 1)).max() < 3  # the last picture of each frame's time
    blip = Clip.read(folder / "blip.mp4", fps=FPS).audio
    assert np.abs(blip[:160]).max() > 0.1
    assert not blip[2000:].any()
    around = np.abs(Clip.read(folder / "7.1.mkv", fps=FPS).audio)
    assert int(np.argmax(around > 0.4)) == pytest.approx(0.5 * RATE, abs=16)


def test_flipped_bytes_give_frames_or_a_reason(tmp_path):
    """A damaged time must not become minutes of still frames: a file of a second that states its length keeps to it."""
    reasons = []
    lengths = []
    for name in bad_media.flipped(tmp_path, 200, seed=1):
        try:
            lengths.append(read(tmp_path / name)[0])
        except InputError as error:
            reasons.append(str(error))
            assert name in reasons[-1]
            assert len(reasons[-1]) > len(str(tmp_path / name)) + 20
    assert len(reasons) > 20
    assert len(lengths) > 50
    assert max(lengths) <= 60 * FPS


@pytest.mark.slow
def test_many_flipped_bytes_give_frames_or_a_reason(tmp_path):
    for seed in range(2, 12):
        folder = tmp_path / str(seed)
        for name in bad_media.flipped(folder, 400, seed):
            with contextlib.suppress(InputError):
                assert read(folder / name)[0] <= 600 * FPS


def with_one_late_packet(path: Path, late: str, seconds: int) -> Path:
    """A file of two seconds in which the last packet of one stream comes ``seconds`` later than it says it lasts."""
    whole = make(path.with_name("whole.mkv"), grey([DARK] * 20), even_times(20, 10), click(2, 1))
    moved = {}
    with av.open(str(whole)) as source, av.open(str(path), "w", format="matroska") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        packets = [packet for packet in source.demux() if packet.dts is not None]
        last = max(k for k, packet in enumerate(packets) if packet.stream.type == late)
        for k, packet in enumerate(packets):
            if k == last:
                moved = {"pts": packet.pts + seconds * 1000, "dts": packet.dts + seconds * 1000}
                packet.pts, packet.dts = moved["pts"], moved["dts"]
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    assert moved
    data = path.read_bytes()
    where = data.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes
    path.write_bytes(data[:where] + np.array(2000, ">f8").tobytes() + data[where + 8 :])
    return path


@pytest.mark.parametrize("late", ["video", "audio"])
def test_a_leap_past_the_stated_end_is_damage(tmp_path, late):
    path = with_one_late_packet(tmp_path / "a.mkv", late, 3000)
    with pytest.raises(InputError, match=f"its {late} can't be decoded after .* leap by 300. s, past the end"):
        read(path)
    if late == "audio":
        with pytest.raises(InputError, match="past the end"):
            read_audio(path)
    assert len(Clip.read(path, fps=FPS, seconds=1).frames) == 10


def test_a_long_still_that_the_file_states_is_none(tmp_path):
    times = [Fraction(0), Fraction(1), Fraction(100), Fraction(101)]
    for suffix in (".mp4", ".mkv"):
        path = make(tmp_path / f"a{suffix}", grey([0, 80, 160, 240]), times, click(101, 100.5))
        clip = Clip.read(path, fps=1)
        assert np.allclose(clip.frames[[0, 50, 99, 100], 0, 0, 0], [0, 80, 80, 160], atol=3)


def test_a_rate_of_hours_for_each_picture_is_refused(tmp_path):
    path = make(tmp_path / "a.avi", grey([DARK] * 10), even_times(10, 10), codec="mpeg4")
    data = path.read_bytes()
    where = data.index(b"strh") + 8 + 20  # scale and rate
    path.write_bytes(data[:where] + np.array([3600, 1], "<u4").tobytes() + data[where + 8 :])
    with pytest.raises(InputError, match="states 3600 s for each of its pictures"):
        probe(path)


def test_pictures_that_change_their_size_need_one(tmp_path):
    parts = []
    for number, side in enumerate((32, 48)):
        part = make(tmp_path / f"{number}.ts", grey([200] * 5, side, side), [Fraction(k, 10) for k in range(5)])
        parts.append(part.read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match="change their size midway"):
        Clip.read(tmp_path / "a.ts", fps=FPS)
    assert Clip.read(tmp_path / "a.ts", fps=FPS, size=16).frames.shape[1:] == (16, 16, 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights for a moment")
def test_a_folder_without_permission_says_so(tmp_path):
    path = make(tmp_path / "a.mp4", grey([DARK]), even_times(1, 10))
    script = (
        "import os, sys; os.seteuid(65534)\n"
        "from flowreel.errors import InputError\n"
        "from flowreel.media import probe\n"
        "try: probe(sys.argv[1])\n"
        "except InputError as error: print(error)\n"
    )
    for closed in (path, tmp_path):
        closed.chmod(0)
        shown = subprocess.run([sys.executable, "-c", _first_import(script), str(path)], capture_output=True, text=True)
        closed.chmod(0o755)
        assert re.search("(?i)can't be read.*permission denied", shown.stdout), shown.stderr


def _first_import(script: str) -> str:
    """Import before rights are given up, so that the interpreter's own files can still be read."""
    return "import flowreel.media.reader, flowreel.media.audio\n" + script


# getrusage would count the memory of the process that started this one.
PEAK = """
import re, sys
from pathlib import Path
from flowreel.media import iterate
assert sum(len(clip.frames) for clip in iterate(sys.argv[1], fps=10, size=32)) == int(sys.argv[2])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process so")
@pytest.mark.slow
def test_twenty_minutes_take_as_much_memory_as_two(tmp_path):
    peaks = {}
    for minutes in (2, 20):
        count = minutes * 600
        path = tmp_path / f"{minutes}.mkv"
        pictures = (grey([k % 256], 64, 64)[0] for k in range(count))
        make(path, pictures, even_times(count, 10), np.tile(click(1, 0.5), (1, 60 * minutes)))
        done = subprocess.run([sys.executable, "-c", PEAK, str(path), str(count)], capture_output=True, text=True)
        peaks[minutes] = int(done.stdout) / 1024
    assert peaks[20] < peaks[2] + 8, peaks  # MB; the frames alone would be 37 MB, the sound 77 MB
