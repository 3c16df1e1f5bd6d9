"""Draws a clip on one page: frames above their audio, and a spectrogram with axes.

Drawn with Pillow and matplotlib's object interface, so that no window system and no global state is touched.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flowreel.errors import InputError
from flowreel.media.clip import Clip
from flowreel.media.timing import check_sample_rate
from flowreel.utils.files import write_complete

_FLOOR_DB, _CEILING_DB = -90.0, -10.0  # of a full-scale tone
_LOWEST_HZ = 60.0
_CELL, _GAP, _MARGIN, _BAND, _STRIP = 128, 2, 54, 16, 72  # pixels of the contact sheet
_FONT = 12
_INK, _PAPER = (40, 40, 40), (250, 250, 250)


def contact_sheet(clip: Clip, path: str | Path, columns: int = 8, rows: int | None = None) -> Path:
    """Write a PNG of frames in rows, each with its time, and under each row the spectrogram of just that time.

    A frame stands above the audio that is heard from its instant to the next frame's. ``rows`` None is as many as
    the frames need, up to 4; where there are more frames than cells, evenly chosen ones are shown.
    """
    if columns < 1 or (rows is not None and rows < 1):
        raise InputError(f"a contact sheet has at least 1 column and 1 row, not {columns} and {rows}")
    total = len(clip.frames)
    columns = min(columns, total)
    rows = min(rows or 4, math.ceil(total / columns))
    cells = min(total, rows * columns)
    starts = [cell * total // cells for cell in range(cells)] + [total]
    picture_height, cell_width = _cell_size(*clip.frames.shape[1:3])
    row_height = _BAND + picture_height + (_GAP + _STRIP if clip.audio is not None else 0) + 3 * _GAP
    size = (_MARGIN + columns * (cell_width + _GAP) + _GAP, _BAND + 3 * _GAP + rows * row_height)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _text(draw, (_GAP + 2, _GAP), _title(clip))
    for cell, (first, after) in enumerate(pairwise(starts)):
        left = _MARGIN + (cell % columns) * (cell_width + _GAP)
        top = _BAND + 3 * _GAP + (cell // columns) * row_height
        _text(draw, (left, top), f"{first / clip.fps:.2f} s")
        sheet.paste(_scaled(clip.frames[first], picture_height, cell_width), (left, top + _BAND))
        if clip.audio is not None:
            strip = _strip(clip.audio, clip.sample_rate, first / clip.fps, after / clip.fps, cell_width + _GAP, _STRIP)
            top += _BAND + picture_height + _GAP
            sheet.paste(_heat(strip), (left, top))
            if cell % columns == 0:
                _label_frequencies(draw, clip.sample_rate, left, top)
    return _save(sheet, Path(path))


def spectrogram(audio: np.ndarray, sample_rate: int, path: str | Path) -> Path:
    """Write a PNG of the audio (S,) at ``sample_rate`` Hz: time against frequency (mel-spaced), level in dB."""
    if not isinstance(audio, np.ndarray) or audio.ndim != 1 or audio.size == 0:
        raise InputError(f"audio must be an array (S,) with samples in it, not {getattr(audio, 'shape', type(audio))}")
    check_sample_rate(sample_rate)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    seconds = len(audio) / sample_rate
    levels = _strip(audio, sample_rate, 0.0, seconds, 900, 220)
    image = axes.imshow(
        levels, aspect="auto", extent=(0, seconds, 0, 1), cmap="magma", vmin=_FLOOR_DB, vmax=_CEILING_DB
    )
    ticks = _ticks(sample_rate)
    axes.set_yticks([place for _, place in ticks], [name for name, _ in ticks])
    axes.set_xlabel("time (s)")
    axes.set_ylabel("frequency")
    figure.colorbar(image, label="level (dB)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_complete(Path(path), buffer.getvalue())


def with_spectrogram(clip: Clip, scale: int = 3) -> Clip:
    """The clip's frames, ``scale`` times as large, above the spectrogram of its whole audio with a line at the instant
    that is shown: for moving video, which have no audio of their own."""
    if clip.audio is None:
        raise InputError("the clip has no sound to draw")
    count, height, width = clip.frames.shape[:3]
    strip = np.asarray(_heat(_strip(clip.audio, clip.sample_rate, 0.0, clip.seconds, width * scale, _STRIP)))
    drawn = np.empty((count, height * scale + _GAP + _STRIP, width * scale, 3), np.uint8)
    drawn[:] = _PAPER
    drawn[:, : height * scale] = clip.frames.repeat(scale, axis=1).repeat(scale, axis=2)
    drawn[:, height * scale + _GAP :] = strip
    for number in range(count):
        place = round((number + 0.5) / count * width * scale)
        drawn[number, height * scale + _GAP :, place : place + 2] = _PAPER
    return Clip(drawn, None, clip.fps, clip.sample_rate, clip.label)


def _title(clip: Clip) -> str:
    count, height, width = clip.frames.shape[:3]
    sound = "no sound" if clip.audio is None else f"{clip.sample_rate / 1000:g} kHz"
    parts = [clip.label, f"{count} frames", f"{width}x{height}", f"{clip.fps:g} fps", f"{clip.seconds:.2f} s", sound]
    return ",  ".join(part for part in parts if part)


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT)


def _text(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    draw.text(place, text, fill=_INK, font=_font())


def _cell_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a frame on the sheet: small ones a whole number of times larger, large ones shrunk."""
    longest = max(height, width)
    scale = max(1, _CELL // longest) if longest <= _CELL else _CELL / longest
    return max(1, round(height * scale)), max(44, round(width * scale))


def _scaled(frame: np.ndarray, height: int, width: int) -> Image.Image:
    """The frame in a cell; pixels stay visible where it is enlarged."""
    grows = frame.shape[0] <= height
    method = Image.Resampling.NEAREST if grows else Image.Resampling.BICUBIC
    drawn = min(width, max(1, round(frame.shape[1] * height / frame.shape[0])))
    cell = Image.new("RGB", (width, height), _PAPER)
    cell.paste(Image.fromarray(np.ascontiguousarray(frame)).resize((drawn, height), method), (0, 0))
    return cell


def _strip(audio: np.ndarray, sample_rate: int, start: float, end: float, width: int, height: int) -> np.ndarray:
    """Levels in dB (height, width), high frequencies on top: column x is the audio of its part of [start, end)."""
    window = 1 << max(5, round(math.log2(sample_rate * 0.04)))
    per_column = max(1, math.ceil((end - start) * sample_rate / width / (window // 2)))
    centres = start + (np.arange(width * per_column) + 0.5) * (end - start) / (width * per_column)
    first = np.round(centres * sample_rate).astype(np.int64) - window // 2
    part = audio[max(0, first[0]) : max(0, first[-1] + window)].astype(np.float64)
    before = max(0, -int(first[0]))
    part = np.pad(part, (before, max(0, int(first[-1] - first[0]) + window - before - len(part))))
    first -= first[0]
    hann = np.hanning(window)
    edges = _hertz(np.linspace(_mel(_LOWEST_HZ), _mel(sample_rate / 2), height + 1)[:-1]) * window / sample_rate
    bins = np.minimum(np.round(edges).astype(np.int64), window // 2)
    levels = np.empty((width, height))
    for begin in range(0, width, 256):
        block = first[begin * per_column : (begin + 256) * per_column]
        spectrum = np.abs(np.fft.rfft(part[block[:, None] + np.arange(window)] * hann)) * 2 / hann.sum()
        rows = np.maximum.reduceat(spectrum, bins, axis=1).reshape(-1, per_column, height).max(axis=1)
        levels[begin : begin + 256] = 20 * np.log10(np.maximum(rows, 1e-9))
    return levels.T[::-1]


def _heat(levels: np.ndarray) -> Image.Image:
    from matplotlib import colormaps

    shade = np.clip((levels - _FLOOR_DB) / (_CEILING_DB - _FLOOR_DB), 0, 1)
    return Image.fromarray(colormaps["magma"](shade, bytes=True)[..., :3].copy())


def _ticks(sample_rate: int) -> list[tuple[str, float]]:
    """Names of frequencies and their places, 0 at the bottom to 1 at the top."""
    low, high = _mel(_LOWEST_HZ), _mel(sample_rate / 2)
    names = {200.0: "200 Hz", 1000.0: "1 kHz", 3000.0: "3 kHz", 8000.0: "8 kHz", 20000.0: "20 kHz"}
    return [(name, float((_mel(hz) - low) / (high - low))) for hz, name in names.items() if hz <= sample_rate / 2]


def _label_frequencies(draw: ImageDraw.ImageDraw, sample_rate: int, left: int, top: int) -> None:
    for name, place in _ticks(sample_rate):
        y = top + round((1 - place) * (_STRIP - 1))
        draw.line([(left - 5, y), (left - 1, y)], fill=_INK)
        box = draw.textbbox((0, 0), name, font=_font())
        height = min(max(top, y - 7), top + _STRIP - 13)
        _text(draw, (left - 8 - round(box[2]), height), name)


def _mel(hertz: float) -> float:
    """The mel scale of O'Shaughnessy (1987)."""
    return 2595 * math.log10(1 + hertz / 700)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def _save(image: Image.Image, path: Path) -> Path:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return write_complete(path, buffer.getvalue())


def stack_images(rows: Sequence[np.ndarray], path: str | Path) -> Path:
    """Write a PNG of frames (H, W, 3) uint8, of perhaps unequal width, below each other on black."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return _save(Image.fromarray(np.concatenate(padded)), Path(path))
