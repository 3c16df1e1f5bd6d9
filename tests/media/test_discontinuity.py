"""Media: recordings whose clock restarts or leaps become one timeline; files that are several in one are refused."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flowreel.errors import InputError
from flowreel.media import Clip, iterate, probe, read_audio
from flowreel.media.audio import SLACK
from flowreel.media.discontinuity import Timeline, join
from tests.filming import BRIGHT, DARK, RATE, click, even_times, grey, make
from tests.media.test_reader import onset

FPS = 10
WRAP = Fraction(2**33, 90_000)  # seconds after which the clock of MPEG begins anew


def part(folder: Path, suffix: str, count: int, bright: int, at: Fraction | int = 0) -> bytes:
    """A recording of ``count`` pictures and their sound, whose clock begins at ``at`` seconds: picture ``bright``
    flashes, and a beep begins with it."""
    path = folder / f"part{suffix}"
    pictures = grey([BRIGHT if k == bright else DARK for k in range(count)])
    times = [at + time for time in even_times(count, FPS)]
    codecs = ("mpeg2video", "mp2") if suffix == ".mpg" else ("libx264", "aac")
    beep = click(count / FPS, bright / FPS)
    make(path, pictures, times, beep, Fraction(at), codec=codecs[0], sound_codec=codecs[1])
    return path.read_bytes()


def flashes(clip: Clip) -> list[int]:
    bright = clip.frames.mean(axis=(1, 2, 3)) > 128
    return [k for k in range(len(bright)) if bright[k] and not (k and bright[k - 1])]


def beeps(clip: Clip) -> list[float]:
    assert clip.audio is not None
    loud = np.flatnonzero(np.abs(clip.audio) > 0.25) / clip.sample_rate
    return [float(time) for k, time in enumerate(loud) if k == 0 or time - loud[k - 1] > 0.3]


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize("clocks", [(0, 0), (0, 500), (500, 0), (0, 77, 0, 33), (0, 0, 0)], ids=str)
def test_parts_with_clocks_of_their_own_follow_each_other(tmp_path, suffix, clocks):
    counts = [17, 23, 30, 11][: len(clocks)]
    name = tmp_path / "recording.mp4"  # as recordings are often called
    name.write_bytes(b"".join(part(tmp_path, suffix, n, n // 2, at) for n, at in zip(counts, clocks, strict=True)))
    starts = list(itertools.accumulate(counts[:-1], initial=0))
    clip = Clip.read(name, fps=FPS)
    expected = [start + n // 2 for start, n in zip(starts, counts, strict=True)]
    # Where sound and picture of a part end at different times, the next one waits for the later: less than a picture.
    assert len(clip.frames) == pytest.approx(sum(counts), abs=1)
    assert flashes(clip) == pytest.approx(expected, abs=1)
    assert beeps(clip) == pytest.approx([k / FPS for k in flashes(clip)], abs=0.1)
    assert probe(name).seconds == pytest.approx(clip.seconds, abs=0.1)
    assert probe(name).fps == FPS
    parts = list(iterate(name, fps=FPS, chunk=7))
    assert np.array_equal(np.concatenate([c.frames for c in parts]), clip.frames)
    assert np.array_equal(np.concatenate([c.audio for c in parts]), clip.audio)


def test_picture_and_sound_of_every_part_stay_together(tmp_path):
    """Measured finely: the beep of each part begins when its flash does, to what times may be off by."""
    name = tmp_path / "a.ts"
    name.write_bytes(part(tmp_path, ".ts", 17, 6) + part(tmp_path, ".ts", 23, 11, 40) + part(tmp_path, ".ts", 20, 4))
    clip = Clip.read(name, fps=1000)
    flashed = [k / 1000 for k in flashes(clip)]
    assert len(flashed) == 3
    assert beeps(clip) == pytest.approx(flashed, abs=float(SLACK) + 1e-3)


@pytest.mark.parametrize("begin", [0.5, 1.7, 2.2, 4.0])
def test_a_start_after_the_seam_is_the_same_stretch(tmp_path, begin):
    name = tmp_path / "a.ts"
    name.write_bytes(part(tmp_path, ".ts", 17, 6, 200) + part(tmp_path, ".ts", 33, 11))
    whole = Clip.read(name, fps=FPS)
    later = Clip.read(name, fps=FPS, start=begin)
    first = round(begin * FPS)
    assert np.array_equal(later.frames, whole.frames[first:])
    assert np.abs(later.audio - whole.audio[first * RATE // FPS :][: len(later.audio)]).max() < 1e-3


def test_a_clock_that_runs_over_goes_on(tmp_path):
    name = tmp_path / "a.ts"
    name.write_bytes(part(tmp_path, ".ts", 40, 30, WRAP - 3))
    clip = Clip.read(name, fps=FPS)
    assert flashes(clip) == [30]
    assert onset(clip) == pytest.approx(3, abs=0.01)
    assert probe(name).seconds == clip.seconds == 4


def test_a_short_gap_stays_a_gap(tmp_path):
    """FFmpeg's limit is 10 s: less is lost reception, during which the picture stands and nothing is heard."""
    name = tmp_path / "a.ts"
    name.write_bytes(part(tmp_path, ".ts", 20, 5) + part(tmp_path, ".ts", 20, 5, Fraction(8064, 1000)))
    clip = Clip.read(name, fps=FPS)
    assert flashes(clip) == pytest.approx([5, 85], abs=1)
    assert beeps(clip) == pytest.approx([0.5, 8.5], abs=0.1)
    assert not clip.audio[2 * RATE + 2000 : 8 * RATE - 2000].any()
    assert probe(name).seconds == pytest.approx(clip.seconds, abs=0.1) == pytest.approx(10, abs=0.1)


def test_sound_alone_is_joined_as_well(tmp_path):
    name = tmp_path / "a.ts"
    path = tmp_path / "sound.ts"
    whole = []
    for at in (0, 0):
        with av.open(str(path), "w", format="mpegts") as container:
            stream = container.add_stream("mp2", rate=RATE, layout="mono")
            sound = click(2, 0.5)
            for begin in range(0, sound.shape[1], 1152):
                block = av.AudioFrame.from_ndarray(sound[:, begin : begin + 1152].copy(), format="flt", layout="mono")
                block.sample_rate, block.pts, block.time_base = RATE, begin + at * RATE, Fraction(1, RATE)
                container.mux(stream.encode(block))
            container.mux(stream.encode(None))
        whole.append(path.read_bytes())
    name.write_bytes(b"".join(whole))
    loud = np.flatnonzero(np.abs(read_audio(name)) > 0.2) / RATE
    assert loud[0] == pytest.approx(0.5, abs=0.06)
    assert loud[-1] - loud[0] == pytest.approx(2, abs=0.1)


def test_sound_that_begins_with_the_second_part_is_heard_in_time(tmp_path):
    name, silent = tmp_path / "a.ts", tmp_path / "silent.ts"
    make(silent, grey([DARK] * 20), even_times(20, FPS), codec="libx264")
    name.write_bytes(silent.read_bytes() + part(tmp_path, ".ts", 20, 12) + part(tmp_path, ".ts", 15, 4))
    clip = Clip.read(name, fps=FPS)
    assert flashes(clip) == pytest.approx([32, 44], abs=1)
    assert beeps(clip) == pytest.approx([k / FPS for k in flashes(clip)], abs=0.1)


@pytest.mark.parametrize("size", [1 << 60, (1 << 64) - 1, 1 << 33])
def test_a_box_of_an_impossible_size_is_no_crash(tmp_path, size):
    path = tmp_path / "a.mp4"
    _short(path, {})
    with path.open("ab") as file:
        file.write(b"\0\0\0\1free" + size.to_bytes(8, "big"))
    assert len(Clip.read(path, fps=FPS).frames) == 12
    assert probe(path).seconds == pytest.approx(1.2)


@dataclass
class Stream:
    """What a timeline asks of a stream: pictures 40 ms apart, sound in blocks of 20 ms."""

    index: int
    type: str
    time_base: Fraction = Fraction(1, 1000)
    average_rate: Fraction | None = Fraction(25)
    guessed_rate: Fraction | None = None


@dataclass
class Packet:
    stream: Stream
    dts: int | None
    duration: int

    @property
    def pts(self) -> int | None:
        return self.dts


VIDEO, AUDIO = Stream(0, "video"), Stream(1, "audio")


def pictures(*milliseconds: int) -> list[Packet]:
    return [Packet(VIDEO, time, 40) for time in range(*milliseconds, 40)]


def sound(*milliseconds: int) -> list[Packet]:
    return [Packet(AUDIO, time, 20) for time in range(*milliseconds, 20)]


def timeline(*packets: list[Packet]) -> tuple[Timeline, dict[int, list[float]]]:
    """The timeline, and when each stream's packets are shown."""
    listed = list(itertools.chain(*packets))
    made = join([VIDEO, AUDIO], iter(listed))
    shown: dict[int, list[float]] = {0: [], 1: []}
    for packet in listed:
        index = packet.stream.index
        shift = [shift for at, shift in made.shifts[index] if at <= len(shown[index])][-1]
        time = packet.dts or 0
        shown[index].append(float(time * packet.stream.time_base + shift))
    return made, shown


def test_one_clock_is_left_as_it_is():
    made, _ = timeline(pictures(0, 2000), sound(0, 2000), pictures(2000, 4000), sound(2000, 4000))
    assert made.shifts == {0: ((0, 0),), 1: ((0, 0),)}
    assert made.ends == {0: 4, 1: 4}


def test_sound_that_is_stored_after_the_new_pictures_belongs_to_the_old_clock():
    made, shown = timeline(
        pictures(50_000, 52_000), sound(50_000, 51_500), pictures(0, 400), sound(51_500, 52_000), sound(0, 400)
    )
    assert shown[0][50:] == pytest.approx(np.arange(52, 52.4, 0.04))
    assert shown[1][75:] == pytest.approx(np.arange(51.5, 52.4, 0.02))
    assert made.ends == {0: Fraction(524, 10), 1: Fraction(524, 10)}


def test_sound_that_reaches_the_new_clock_first_waits_for_the_pictures():
    _, shown = timeline(sound(0, 900), pictures(0, 1000), sound(0, 400), pictures(0, 400))
    assert shown[0][25:] == pytest.approx(np.arange(1, 1.4, 0.04))
    assert shown[1][45:] == pytest.approx(np.arange(1, 1.4, 0.02))


def test_sound_that_goes_on_after_the_pictures_is_kept():
    made, shown = timeline(pictures(0, 1000), sound(0, 4000), pictures(0, 400), sound(0, 400))
    assert shown[1][200] == shown[0][25] == 4
    assert made.ends[1] == Fraction(44, 10)


def test_a_part_without_sound_keeps_the_next_one_in_time():
    _, shown = timeline(pictures(0, 1000), sound(0, 1000), pictures(70_000, 73_000), pictures(0, 1000), sound(0, 1000))
    assert shown[0][-25:] == pytest.approx(np.arange(4, 5, 0.04))
    assert shown[1][-50:] == pytest.approx(np.arange(4, 5, 0.02))


def test_sound_that_begins_with_the_second_part_is_in_time():
    _, shown = timeline(pictures(0, 1000), pictures(70_000, 71_000), sound(70_000, 71_000))
    assert shown[1][0] == shown[0][25] == 1


def test_sound_that_begins_before_the_pictures_of_its_part_is_in_time():
    """As FFmpeg hands packets out: a picture is known to be whole only when the next one begins."""
    made, shown = timeline(pictures(0, 2000), sound(0, 100), pictures(0, 400), sound(100, 400), pictures(400, 800))
    assert made.shifts[1] == ((0, 2),)
    assert shown[1][0] == shown[0][50] == 2


def test_one_damaged_time_moves_nothing_else():
    made, shown = timeline(pictures(0, 1000), [Packet(VIDEO, 900_000, 40)], pictures(1040, 2000), sound(0, 2000))
    assert shown[0] == pytest.approx(np.arange(0, 2, 0.04))
    assert made.ends[0] == 2


@pytest.mark.parametrize("odd", [640, 100, 2500, 9000])
def test_one_odd_time_does_not_part_picture_and_sound(odd):
    times = [pictures(0, 1000), sound(0, 1000), [Packet(VIDEO, odd, 40)], pictures(1040, 3000), sound(1000, 3000)]
    made, shown = timeline(*times)
    assert made.ends == {0: 3, 1: 3}
    assert shown[0][26:] == pytest.approx(np.arange(1.04, 3, 0.04))
    assert shown[1] == pytest.approx(np.arange(0, 3, 0.02))


def test_a_clock_that_is_set_back_a_little_goes_on():
    _, shown = timeline(pictures(0, 1000), sound(0, 1000), pictures(600, 2000), sound(600, 2000))
    assert shown[0] == pytest.approx(np.arange(0, 2.4, 0.04))
    assert shown[1] == pytest.approx(np.arange(0, 2.4, 0.02))


def test_packets_without_a_time_belong_to_what_came_before():
    made, _ = timeline(pictures(0, 1000), [Packet(VIDEO, None, 40)], pictures(0, 400))
    assert made.shifts[0] == ((0, 0), (26, 1))


@pytest.mark.parametrize("kind", ["a.mp4", "fragments.mp4", "a.mov", "a.mkv", "a.avi", "a.flv"])
def test_several_files_in_one_are_refused(tmp_path, kind):
    path = tmp_path / kind
    options = {"movflags": "frag_keyframe+empty_moov"} if kind.startswith("fragments") else {}
    _short(path, options)
    assert len(Clip.read(path, fps=FPS).frames) == 12
    once = path.read_bytes()
    path.write_bytes(once + once)
    for ask in (probe, Clip.read):
        with pytest.raises(InputError, match="several files put one after the other"):
            ask(path)


def test_fragments_that_repeat_their_header_are_read(tmp_path):
    path = tmp_path / "a.mp4"
    _short(path, {"movflags": "empty_moov+default_base_moof", "frag_duration": "300000"})
    whole = path.read_bytes()
    first = whole.index(b"moof") - 4
    second = whole.index(b"moof", first + 8) - 4
    path.write_bytes(whole[:second] + whole[:first] + whole[second:])
    assert len(Clip.read(path, fps=FPS).frames) == 12
    assert probe(path).seconds == pytest.approx(1.2)


def test_live_recordings_in_one_file_are_refused_where_times_go_back(tmp_path):
    path = tmp_path / "a.mkv"
    _short(path, {"live": "1"})
    once = path.read_bytes()
    assert len(Clip.read(path, fps=FPS).frames) == 12
    path.write_bytes(once + once)
    with pytest.raises(InputError, match=r"times leap back by 1\.\d s; is it several files"):
        Clip.read(path)


def _short(path: Path, options: dict[str, str]) -> None:
    """1.2 s of pictures in the container that the name says."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=FPS)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.max_b_frames = 0
        for number, picture in enumerate(grey(list(range(20, 140, 10)))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_an_empty_packet_keeps_the_picture_on(tmp_path):
    """As in Theora, where a picture like the one before takes no bytes."""
    path = tmp_path / "a.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.height = stream.width = 32
        stream.pix_fmt, stream.codec_context.gop_size = "bgr0", 1
        for number, picture in enumerate(grey(list(range(20, 100, 10)))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            (packet,) = stream.encode(frame)
            if number in (3, 6, 7):
                empty = av.Packet(0)
                empty.stream, empty.time_base = stream, packet.time_base
                empty.pts, empty.dts, empty.duration = packet.pts, packet.dts, packet.duration
                packet = empty
            container.mux(packet)
    levels = Clip.read(path, fps=FPS).frames[:, 0, 0, 0].tolist()
    assert levels == [20, 30, 40, 40, 60, 70, 70, 70]
