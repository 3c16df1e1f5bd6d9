"""Reads what FFmpeg does not say of a container: where it ends, and what follows it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BOXES = {b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"sidx", b"pnot"}


def stated_size(path: Path) -> int:
    """Where a Matroska file (MKV, WebM) ends as its header says; 0 for other files and live ones."""
    with path.open("rb") as file:
        head = file.read(256)
    if head[:4] != _EBML:
        return 0
    size, at = _ebml_size(head, 4)
    at += size or 0
    if head[at : at + 4] != _SEGMENT:
        return 0
    size, at = _ebml_size(head, at + 4)
    return 0 if size is None else at + size


def is_several(path: Path) -> bool:
    """Whether the file is several whole files one after the other, of which players show only the first."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == _EBML:
            return _begins(file, stated_size(path), _EBML)
        if head[:4] == b"RIFF" and head[8:] == b"AVI ":
            return sum(kind == b"AVI " for kind in _riff(file)) > 1
        if head[:4] == b"FLV\x01":
            return _follows_flv(file)
        if head == _ASF[:12]:
            return _follows_asf(file)
        if head[4:8] in _BOXES:
            return _holds_several(file)
    return False


def _holds_several(file: BinaryIO) -> bool:
    """Whether an MP4 has a second header that is no repeat of its own, as fragmented ones may have: there the numbers
    of the fragments continue."""
    headers, number = 0, 0
    for kind, at in _boxes(file):
        headers += kind == b"moov"
        if kind == b"moof":
            file.seek(at)
            head = file.read(24)  # of the moof and of the mfhd in it
            before, number = number, int.from_bytes(head[20:24]) if head[12:16] == b"mfhd" else number
            if headers > 1 and number <= before:
                return True
    return headers > 1 and not number


def _follows_flv(file: BinaryIO) -> bool:
    """Whether another FLV follows the last tag."""
    at = 9
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4] & 0x1F not in (8, 9, 18):  # audio, video, data
            return head[4:7] == b"FLV" or head[:3] == b"FLV"
        at += 4 + 11 + int.from_bytes(head[5:8])


def _follows_asf(file: BinaryIO) -> bool:
    """Whether another ASF lies where the header says that this one ends."""
    file.seek(0)
    header = file.read(1 << 16)
    at = header.find(_ASF_PROPERTIES)
    if at < 0 or len(header) < at + 48:
        return False
    (size,) = struct.unpack("<Q", header[at + 40 : at + 48])
    return _begins(file, size, _ASF)


def _begins(file: BinaryIO, at: int, mark: bytes) -> bool:
    """Whether ``mark`` lies at ``at``, behind the start; a stated place may be damaged and anywhere."""
    if not 0 < at < file.seek(0, 2):
        return False
    file.seek(at)
    return file.read(len(mark)) == mark


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The types and places of the outermost boxes of an MP4, as far as there are any."""
    at, end = 0, file.seek(0, 2)
    while at < end:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or not head[4:8].isascii():
            return
        size, kind = struct.unpack(">I4s", head[:8])
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">Q", head[8:])
        yield kind, at
        if size < 8:  # 0: up to the end of the file
            return
        at += size


def _riff(file: BinaryIO) -> Iterator[bytes]:
    """The forms of the outermost RIFF chunks: ``AVI ``, then ``AVIX`` where a file continues after 1 GB."""
    at, end = 0, file.seek(0, 2)
    while at < end:
        file.seek(at)
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF":
            return
        yield head[8:]
        (size,) = struct.unpack("<I", head[4:8])
        at += 8 + size + size % 2


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """The size that is coded at ``at``, None if it is unknown, and where what it is the size of begins."""
    if at >= len(data) or data[at] == 0:
        return None, at
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length
