"""Converts decoded frames to upright 8-bit RGB of the wanted size.

Where a frame is larger than wanted, FFmpeg shrinks it as it converts it (antialiased bicubic, like Pillow's): to the
wanted size along a side that is seen whole, to ``GAP`` times as much along one that is cut (by areas), so that
:class:`Resizer` can cut between pixels. That is five to ten times as fast as converting the whole frame, and nearer
to the exact result: 0.5 of 255 off in the mean, where converting the whole in FFmpeg's fast way is 1 too dark. At
hard edges FFmpeg's cubic (a = -0.6, Pillow's is -0.5) overshoots a little more.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from flowreel.media import hdr
from flowreel.media.resize import Resizer

GAP = 2.0
_UNSPECIFIED_MATRIX = 2  # AVCOL_SPC_UNSPECIFIED
_SD_ROWS, _HD_COLUMNS = 576, 1280  # what players take as high definition where nothing is said: more rows, or columns
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


class Placing(NamedTuple):
    """How a coded frame becomes the one that is shown: rows and columns change places if it is ``turned``, then rows
    are reversed if it is ``upside_down``, and columns if it is ``mirrored``."""

    turned: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def applied(self, picture: np.ndarray) -> np.ndarray:
        """The frame (H, W, 3) as it is displayed."""
        picture = picture.swapaxes(0, 1) if self.turned else picture
        steps = (-1 if self.upside_down else 1, -1 if self.mirrored else 1)
        return np.ascontiguousarray(picture[:: steps[0], :: steps[1]])


def placing_of(frame: av.VideoFrame) -> Placing:
    """What the display matrix of a frame says (ISO 14496-12, tkhd), to the nearest quarter turn."""
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return Placing()
    a, b, _, c, d = np.frombuffer(memoryview(found), np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    turned = abs(b) > abs(a)
    return Placing(turned, (b if turned else d) < 0, (c if turned else a) < 0)


class Converter:
    """Turns decoded frames into RGB frames (H, W, 3) uint8, upright. Keeps FFmpeg's scaler from frame to frame.

    ``resizer`` None keeps the size; ``pixel_aspect`` is the width of one pixel over its height.
    """

    def __init__(self, resizer: Resizer | None, pixel_aspect: float = 1.0) -> None:
        self._resizer, self._aspect = resizer, pixel_aspect
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        placing = placing_of(frame)
        h, w = frame.height, frame.width
        upright, aspect = ((w, h), 1 / self._aspect) if placing.turned else ((h, w), self._aspect)
        sides = upright if self._resizer is None else self._reduced(upright, aspect)
        picture = placing.applied(self._rgb(frame, *(sides[::-1] if placing.turned else sides)))
        return picture if self._resizer is None else self._resizer(picture, aspect, upright)

    def _reduced(self, upright: tuple[int, int], aspect: float) -> tuple[int, int]:
        """The height and width that FFmpeg shrinks the upright frame to."""
        assert self._resizer is not None
        wanted = self._resizer.height, self._resizer.width
        shown = self._resizer.sides(*upright, aspect)
        cut = self._resizer.fit == "crop"
        rows, columns = (
            min(side, math.ceil(GAP * fine) if cut and fine != want else round(fine))
            for side, fine, want in zip(upright, shown, wanted, strict=True)
        )
        return rows, columns

    def _shrinks_on(self, height: int, width: int) -> bool:
        """Whether :class:`Resizer` has more to do than to place the frame: then areas are a good first step."""
        resizer = self._resizer
        return resizer is not None and resizer.fit == "crop" and {height, width} != {resizer.height, resizer.width}

    def _rgb(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        curve = hdr.kind(frame.color_trc, frame.color_primaries)
        primaries, deep = frame.color_primaries, _is_deep(frame.format)
        if _has_alpha(frame.format):
            # Before it is shrunk, so that hidden colours don't reach their neighbours.
            layer = self._converted(frame, frame.height, frame.width, "rgba64le" if curve or deep else "rgba")
            frame = av.VideoFrame.from_ndarray(_over_black(layer), "rgb48le" if curve or deep else "rgb24")
        picture = self._converted(frame, height, width, "rgb48le" if curve or deep else "rgb24")
        if curve:
            return hdr.to_sdr(picture, curve, primaries)
        return np.round(picture / 257).astype(np.uint8) if deep else picture

    def _converted(self, frame: av.VideoFrame, height: int, width: int, pixels: str) -> np.ndarray:
        """The frame of that size in ``pixels`` (H, W, C), as coded but for the range."""
        matrix = None
        if frame.colorspace == _UNSPECIFIED_MATRIX and not frame.format.is_rgb:
            # FFmpeg takes an untagged matrix as BT.601; players take BT.709 for high definition, BT.2020 for HDR.
            high = frame.height > _SD_ROWS or frame.width >= _HD_COLUMNS
            curve = hdr.kind(frame.color_trc, frame.color_primaries)
            matrix = Colorspace.BT2020 if curve else Colorspace.ITU709 if high else None
        flags = Interpolation.BICUBIC
        if (height, width) != (frame.height, frame.width):
            flags = _EXACT | (Interpolation.AREA if self._shrinks_on(height, width) else Interpolation.BICUBIC)
        converted = self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format=pixels,
            src_colorspace=matrix,
            interpolation=flags | _EXACT if _is_deep(frame.format) else flags,
            threads=1,
        )
        picture: np.ndarray = converted.to_ndarray()
        if frame.color_range == ColorRange.MPEG and _is_grey(frame.format):
            bits = frame.format.components[0].bits
            picture[..., :3] = _stretched(picture[..., :3], bits)  # FFmpeg takes grey as full range
        return picture


def _is_deep(pixels: av.VideoFormat) -> bool:
    return max(part.bits for part in pixels.components) > 8


def _has_alpha(pixels: av.VideoFormat) -> bool:
    return pixels.has_palette or any(part.is_alpha for part in pixels.components)


def _over_black(layer: np.ndarray) -> np.ndarray:
    """What is seen of a layer (H, W, 4) uint8 or uint16, its last channel how opaque it is: (H, W, 3)."""
    top = np.iinfo(layer.dtype).max
    colours, alpha = layer[..., :3].astype(np.uint32), layer[..., 3:].astype(np.uint32)
    return ((colours * alpha + top // 2) // top).astype(layer.dtype)


def _is_grey(pixels: av.VideoFormat) -> bool:
    return pixels.name.startswith(("gray", "ya8", "ya16"))


def _stretched(picture: np.ndarray, bits: int) -> np.ndarray:
    """Black at 16 and white at 235, of 8 of the ``bits``, brought to the ends of the range of ``frame``."""
    top, whole = float(np.iinfo(picture.dtype).max), (1 << bits) - 1
    black, white = ((level << (bits - 8)) / whole * top for level in (16, 235))
    return np.clip((picture - black) * (top / (white - black)) + 0.5, 0, top).astype(picture.dtype)
