"""Which files of a folder are clips, and what is said of the others."""

from __future__ import annotations

import json
import os
import shutil
import socket
import unicodedata
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flowreel.config.classnames import find_class
from flowreel.data import scan
from flowreel.data.sources import find_clips, probed
from flowreel.errors import InputError
from flowreel.media.recognise import is_video_file
from flowreel.metrics import evaluate as synchrony
from tests.data.test_prepare import clips, codec, config, run, write_clip  # noqa: F401


def film(path: Path, kind: str, codec: str = "mpeg4") -> Path:  # noqa: F811
    """Half a second of colours in FFmpeg's container ``kind``, whatever the name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10, width=32, height=32, pix_fmt="yuv420p")
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def tone(path: Path, kind: str, codec: str) -> Path:  # noqa: F811
    """A file with audio alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
            frame.rate, frame.pts, frame.time_base = 44100, 1152 * number, Fraction(1, 44100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def names(folder: Path, lines: list[str] | None = None) -> list[str]:
    return [source.name for source in find_clips(folder, None, None if lines is None else lines.append)]


# --- files ---


KINDS = {
    "m4v": "mp4",
    "MPG": "mpeg",
    "ts": "mpegts",
    "m2ts": "mpegts",
    "flv": "flv",
    "wmv": "asf",
    "3gp": "3gp",
    "nut": "nut",
    "ogv": "ogg",
    "wtv": "wtv",
    "clip": "matroska",
    "part": "mov",
    "": "avi",
    "dat": "mpeg",
}
CODECS = {"ogg": "libvpx", "mpeg": "mpeg2video", "mpegts": "mpeg2video", "flv": "flv", "wtv": "mpeg2video"}


@pytest.mark.parametrize("suffix", KINDS)
def test_every_container_is_a_clip_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    kind = KINDS[suffix]
    path = tmp_path / (f"x.{suffix}" if suffix else "x")
    film(path, kind, CODECS.get(kind, "mpeg4"))
    (source,) = find_clips(tmp_path)
    assert (source.name, source.reason) == (path.name, "")
    (info,) = probed([source], pytest.fail)
    assert info is not None
    assert (info.height, info.width) == (32, 32)


def test_other_files_are_counted_in_one_line(tmp_path: Path) -> None:
    film(tmp_path / "a" / "1.mp4", "mp4")
    for name in ("1.json", "2.JSON", "notes.txt", "README", "app.ts", "list.m3u8"):
        (tmp_path / "a" / name).write_text("#EXTM3U\nconst clip = {}\n" * 50)
    (tmp_path / "a" / "weights").write_bytes(np.random.default_rng(0).bytes(20_000))
    (tmp_path / "a" / "nothing").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "p.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "p.jpg")
    tone(tmp_path / "a" / "s.mp3", "mp3", "libmp3lame" if "libmp3lame" in av.codecs_available else "mp3")
    lines: list[str] = []
    assert names(tmp_path, lines) == ["a/1.mp4"]
    assert lines == ["11 other files (no suffix, .jpg, .json, .m3u8, .mp3, .png, ...) are not clips"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.json").touch()
    with pytest.raises(InputError, match=r"no clips.*it has 1 other file \(\.json\)"):
        find_clips(tmp_path / "b")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animated_images_are_clips(tmp_path: Path, form: str) -> None:
    if form == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow writes no AVIF")
    pictures = [Image.fromarray(np.full((16, 16, 3), 80 * n, np.uint8)) for n in range(3)]
    moving, still = tmp_path / f"moving.{form.lower()}", tmp_path / f"still.{form.lower()}"
    pictures[0].save(still, format=form)
    pictures[0].save(moving, format=form, save_all=True, append_images=pictures[1:], duration=100)
    assert (is_video_file(moving), is_video_file(still)) == (True, False)


def test_audio_alone_is_no_clip_in_any_container(tmp_path: Path) -> None:
    assert not is_video_file(tone(tmp_path / "sound", "matroska", "aac"))
    assert not is_video_file(tone(tmp_path / "sound.m4b", "ipod", "aac"))
    assert is_video_file(tone(tmp_path / "sound.mp4", "mp4", "aac"))  # its reason is worth a line


def test_a_damaged_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    for kind in ("matroska", "mp4", "avi", "flv", "asf"):
        whole = film(tmp_path / "whole", kind, CODECS.get(kind, "mpeg4")).read_bytes()
        (tmp_path / kind).write_bytes(whole[:40])
        assert is_video_file(tmp_path / kind), kind


def test_what_cannot_be_used_is_in_the_index_with_its_reason(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config,  # noqa: F811
) -> None:
    folder = clips / "train" / "a"
    (folder / "gone.mkv").symlink_to(tmp_path / "nowhere.mkv")
    (folder / "round.mkv").symlink_to(folder / "round.mkv")
    (folder / "nas").symlink_to(tmp_path / "mnt")
    tone(folder / "tone.mp4", "mp4", "aac")
    index, lines = run(clips, tmp_path / "out", config)
    reasons = {entry["path"]: entry["reason"] for entry in index["skipped"]}
    assert reasons.keys() == {f"train/a/{name}" for name in ("gone.mkv", "round.mkv", "nas", "tone.mp4")}
    assert reasons["train/a/gone.mkv"] == reasons["train/a/nas"] == "it is a link to something that is not there"
    assert reasons["train/a/round.mkv"] == "it is a link that leads back to itself"
    assert "no video stream, only audio" in reasons["train/a/tone.mp4"]
    assert all(any(line == f"skipped {path}: {reason}" for line in lines) for path, reason in reasons.items())
    assert str(tmp_path) not in json.dumps(index["skipped"])
    assert "nothing to do" in run(clips, tmp_path / "out", config)[1][-1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_sockets_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "1.mp4", "mp4")
    os.mkfifo(tmp_path / "2.mp4")  # opening it would wait for ever
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's name may not be long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        lines: list[str] = []
        sources = find_clips(tmp_path, None, lines.append)
    assert [(source.name, source.reason[:12]) for source in sources] == [("1.mp4", ""), ("2.mp4", "it is a pipe")]
    assert lines == ["2 other files (no suffix) are not clips"]
    assert list(probed(sources[1:], lines.append)) == [None]


def test_folders_and_files_without_permission_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train/a/1.mp4", "train/b/2.mp4", "test/a/3.mp4", "train/a/4", "train/a/5.json"):
        film(tmp_path / name, "mp4")
    closed = {str(tmp_path / "train" / "b"), str(tmp_path / "test")}

    def scandir(path: Path) -> object:
        if str(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(scan.os, "scandir", scandir)
    monkeypatch.setattr(scan.os, "access", lambda path, _: Path(path).name not in ("4", "5.json"))
    found = {source.name: (source.split, source.label, source.reason) for source in find_clips(tmp_path)}
    assert found == {
        "train/a/1.mp4": ("train", "a", ""),
        "train/a/4": ("train", "a", "it can't be read: Permission denied"),
        "train/b/": ("train", "b", "the folder can't be read: Permission denied"),
        "test/": ("test", None, "the folder can't be read: Permission denied"),
    }
    closed.add(str(tmp_path))
    with pytest.raises(PermissionError):
        find_clips(tmp_path)


# --- links ---


def test_a_folder_that_two_links_lead_to_is_two_classes(tmp_path: Path) -> None:
    film(tmp_path / "pool" / "1.mp4", "mp4")
    film(tmp_path / "pool" / "deep" / "2.mp4", "mp4")
    for name in ("train/x", "train/y", "test/z"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "pool")
    sources = find_clips(tmp_path / "data")
    assert [(s.split, s.label, s.path.name) for s in sources] == [
        ("train", "x", "1.mp4"),
        ("train", "x", "2.mp4"),
        ("train", "y", "1.mp4"),
        ("train", "y", "2.mp4"),
        ("test", "z", "1.mp4"),
        ("test", "z", "2.mp4"),
    ]
    assert [bool(s.reason) for s in sources] == [False] * 4 + [True] * 2


def test_in_one_class_a_folder_is_read_once_and_the_second_is_named(tmp_path: Path) -> None:
    film(tmp_path / "a" / "one" / "1.mp4", "mp4")
    (tmp_path / "a" / "two").symlink_to("one")
    lines: list[str] = []
    assert names(tmp_path, lines) == ["a/one/1.mp4"]
    assert lines == ["left out a/two/: its files are those of a/one/"]


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    for number in range(6):
        film(tmp_path / f"k{number}" / f"{number}.mp4", "mp4")
        for other in range(6):
            (tmp_path / f"k{number}" / f"to{other}").symlink_to(tmp_path / f"k{other}")
    lines: list[str] = []
    found = names(tmp_path, lines)
    assert len(found) == 6 * 6  # in each class every file once
    assert any("leads back to a folder that contains it" in line for line in lines)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_what_is_trained_on_is_not_tested_on(
    clips: Path,  # noqa: F811
    tmp_path: Path,
    config,  # noqa: F811
    link,
) -> None:
    link(clips / "train" / "a" / "1.mkv", clips / "test" / "b" / "10.mkv")
    shutil.copy(clips / "train" / "a" / "1.mkv", clips / "test" / "b" / "11.mkv")  # a copy is another file
    index, lines = run(clips, tmp_path / "out", config)
    assert [entry["path"] for entry in index["splits"]["test"]] == ["test/b/11.mkv", "test/b/9.mkv"]
    assert index["skipped"] == [
        {"path": "test/b/10.mkv", "reason": "it is trained on too (it is the file train/a/1.mkv)"}
    ]
    assert "skipped 1 of 6 clips: 1 it is trained on too" in lines


# --- names ---


def test_class_folders_that_read_the_same_are_one_class(tmp_path: Path, config) -> None:  # noqa: F811
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_clip(tmp_path / "clips" / composed / "1.mkv", seed=1)
    write_clip(tmp_path / "clips" / apart / "2.mkv", seed=2)
    write_clip(tmp_path / "clips" / "tea" / "3.mkv", seed=3)
    if len(list((tmp_path / "clips").iterdir())) < 3:
        pytest.skip("this file system takes both names for one")
    index, _ = run(tmp_path / "clips", tmp_path / "out", config)
    assert index["classes"] == [composed, "tea"]
    assert sorted(entry["label"] for entry in index["splits"]["train"]) == [0, 0, 1]


def test_a_class_is_found_in_either_form_and_as_it_is_written_first() -> None:
    composed, apart = (unicodedata.normalize(form, "Händel") for form in ("NFC", "NFD"))
    assert find_class(apart, ["rain", composed]) == find_class(composed, ["rain", apart]) == 1
    assert [find_class(name, [composed, apart]) for name in (composed, apart)] == [0, 1]
    assert find_class("Handel", [composed]) is None


def test_synchrony_says_why_a_clip_is_left_out(tmp_path: Path) -> None:
    film(tmp_path / "rain" / "1.mp4", "mp4")
    (tmp_path / "rain" / "2.mp4").symlink_to(tmp_path / "gone")
    found = {path.name: (label, reason) for path, label, reason in synchrony._files(tmp_path)}
    assert found == {"1.mp4": ("rain", ""), "2.mp4": ("rain", "it is a link to something that is not there")}
