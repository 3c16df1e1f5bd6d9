"""Pictures are shown as players show them: mirrored, turned, of limited range, untagged."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flowreel.media import Clip, probe


def write(path: Path, frames: list[av.VideoFrame], codec: str, pixels: str, **tags: int) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10, options={"qp": "4"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixels
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Put x' = a x + c y, y' = b x + d y into the display matrix of an MP4 file's picture."""
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    numbers = [n << 16 for n in (a, b)] + [0] + [n << 16 for n in (c, d)] + [0, 0, 0, 1 << 30]
    path.write_bytes(data[:at] + struct.pack(">9i", *numbers) + data[at + 36 :])


@pytest.mark.parametrize(
    "matrix", [(s, 0, 0, t) for s in (1, -1) for t in (1, -1)] + [(0, s, t, 0) for s in (1, -1) for t in (1, -1)]
)
def test_every_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = matrix
    coded = np.zeros((48, 96, 3), np.uint8)
    coded[:24, :48], coded[:24, 48:], coded[24:, :48] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    write(tmp_path / "a.mp4", [av.VideoFrame.from_ndarray(coded)] * 5, "libx264", "yuv420p")
    with_matrix(tmp_path / "a.mp4", *matrix)
    shown = Clip.read(tmp_path / "a.mp4").frames[2]
    info = probe(tmp_path / "a.mp4")
    assert shown.shape[:2] == (info.height, info.width) == ((48, 96) if a else (96, 48))
    for y in (12, 36):
        for x in (24, 72):  # the middles of the quarters go where the matrix sends them
            right = (a * (x - 48) + c * (y - 24)) + info.width // 2
            down = (b * (x - 48) + d * (y - 24)) + info.height // 2
            assert np.abs(shown[down, right].astype(int) - coded[y, x]).max() < 40, (y, x)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize(("limited", "lowest", "highest"), [(True, 16, 235), (False, 0, 255)])
def test_grey_is_stretched_where_its_range_is_limited(
    tmp_path: Path, bits: int, limited: bool, lowest: int, highest: int
) -> None:
    levels = np.array([0, 51, 128, 204, 255])
    coded = (lowest + (highest - lowest) * levels / 255) * (1 if bits == 8 else 4 if limited else 1023 / 255)
    kind, pixels = (np.uint8, "gray") if bits == 8 else (np.uint16, "gray10le")
    picture = np.repeat(np.round(coded).astype(kind)[None], 32, 0).repeat(16, 1)
    frame = av.VideoFrame.from_ndarray(picture, format=pixels)
    frame.color_range = 1 if limited else 2
    write(tmp_path / "a.mkv", [frame] * 3, "ffv1", pixels, color_range=1 if limited else 2)
    shown = Clip.read(tmp_path / "a.mkv").frames[1][16, 8::16]
    assert np.abs(shown.astype(int) - levels[:, None]).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "high"), [(544, 1280, True), (640, 854, True), (576, 720, False), (360, 1024, False)]
)
def test_an_untagged_picture_is_high_definition_by_rows_or_columns(
    tmp_path: Path, height: int, width: int, high: bool
) -> None:
    red, blue = (0.2126, 0.0722) if high else (0.299, 0.114)  # BT.709, BT.601
    r, g, b = 30 / 255, 180 / 255, 90 / 255
    luma = red * r + (1 - red - blue) * g + blue * b
    levels = (16 + 219 * luma, 128 + 112 * (b - luma) / (1 - blue), 128 + 112 * (r - luma) / (1 - red))
    picture = np.concatenate(
        [np.full(height * width // part, round(n), np.uint8) for n, part in zip(levels, (1, 4, 4), strict=True)]
    )
    frame = av.VideoFrame.from_ndarray(picture.reshape(-1, width), format="yuv420p")
    write(tmp_path / "a.mp4", [frame] * 2, "libx264", "yuv420p")
    shown = Clip.read(tmp_path / "a.mp4", size=16).frames[0][8, 8].astype(int)
    assert np.abs(shown - (30, 180, 90)).max() < 5
