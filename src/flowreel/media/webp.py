"""Reads animated WebP by Pillow, as FFmpeg does not."""

from __future__ import annotations

from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from flowreel.errors import InputError
from flowreel.media.demux import MAX_PIXELS, Timed

_TICK = Fraction(1, 1000)
_UNSTATED = Fraction(1, 10)  # seconds that browsers show a frame whose duration is 0


def durations(path: Path) -> list[Fraction]:
    """Seconds that each frame of a moving WebP is shown; none for stills and for other files.

    :class:`InputError` where the file is shorter than its header says.
    """
    try:
        with path.open("rb") as file:
            head = file.read(12)
            if head[:4] != b"RIFF" or head[8:] != b"WEBP":
                return []
            found = list(_durations(file))
            size = file.seek(0, 2)
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", path=path) from error
    if found and size < 8 + int.from_bytes(head[4:8], "little"):
        raise InputError("is damaged or cut off: the file is shorter than its header says", path=path)
    return found


def _durations(file: BinaryIO) -> Generator[Fraction]:
    """Of every chunk ANMF from here on: its time in milliseconds follows four numbers of 24 bits."""
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"ANMF":
            stated = int.from_bytes(file.read(15)[12:], "little")
            yield stated * _TICK or _UNSTATED
            file.seek(size - 15, 1)
        else:
            file.seek(size, 1)
        file.seek(size % 2, 1)


def pictures(path: Path, times: list[Fraction]) -> Generator[Timed]:
    """Every frame, shown as long as ``times`` says, the first one from 0 s on."""
    from PIL import Image

    start = Fraction(0)
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"has pictures of {image.width}x{image.height}, too large to be read", path=path)
            for number, seconds in enumerate(times):
                image.seek(number)
                frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGBA")), format="rgba")
                yield frame, start, start + seconds, _TICK
                start += seconds
    except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"is damaged or cut off: it can't be decoded after {float(start):.2f} s", path=path) from error
