"""Decoded frames to upright 8-bit RGB of the wanted size. Knows pixel formats and colours, not files or times.

Where a picture is larger than wanted, FFmpeg shrinks it as it converts it (antialiased bicubic, like Pillow's): to the
wanted size along a side that is seen whole, to ``GAP`` times as much along one that is cut (by areas), so that
:class:`Resizer` can cut between pixels. That is five to ten times as fast as converting the whole picture, and nearer
to the exact result: 0.5 of 255 off in the mean, where converting the whole in FFmpeg's fast way is 1 too dark. At
hard edges FFmpeg's cubic (a = -0.6, Pillow's is -0.5) overshoots a little more.
"""

from __future__ import annotations

import math

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from flowreel.media import hdr
from flowreel.media.resize import Resizer

GAP = 2.0
_UNSPECIFIED_MATRIX = 2  # AVCOL_SPC_UNSPECIFIED
_HD_ROWS = 720
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


class Converter:
    """Turns decoded frames into RGB pictures (H, W, 3) uint8, upright. Keeps FFmpeg's scaler from frame to frame.

    ``resizer`` None keeps the size; ``pixel_aspect`` is the width of one pixel over its height.
    """

    def __init__(self, resizer: Resizer | None, pixel_aspect: float = 1.0) -> None:
        self._resizer, self._aspect = resizer, pixel_aspect
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        turns = round(frame.rotation / 90) % 4
        h, w = frame.height, frame.width
        upright, aspect = ((w, h), 1 / self._aspect) if turns % 2 else ((h, w), self._aspect)
        sides = upright if self._resizer is None else self._reduced(upright, aspect)
        picture = self._rgb(frame, *(sides[::-1] if turns % 2 else sides))
        picture = np.ascontiguousarray(np.rot90(picture, turns) if turns else picture)
        return picture if self._resizer is None else self._resizer(picture, aspect, upright)

    def _reduced(self, upright: tuple[int, int], aspect: float) -> tuple[int, int]:
        """The height and width that FFmpeg shrinks the upright picture to."""
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
        """Whether :class:`Resizer` has more to do than to place the picture: then areas are a good first step."""
        resizer = self._resizer
        return resizer is not None and resizer.fit == "crop" and {height, width} != {resizer.height, resizer.width}

    def _rgb(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        curve = hdr.kind(frame.color_trc, frame.color_primaries)
        matrix = None
        if frame.colorspace == _UNSPECIFIED_MATRIX and not frame.format.is_rgb:
            # FFmpeg takes an untagged matrix as BT.601; players take BT.709 for high definition, BT.2020 for HDR.
            matrix = Colorspace.BT2020 if curve else Colorspace.ITU709 if frame.height >= _HD_ROWS else None
        flags = Interpolation.BICUBIC
        if (height, width) != (frame.height, frame.width):
            flags = _EXACT | (Interpolation.AREA if self._shrinks_on(height, width) else Interpolation.BICUBIC)
        deep = max(part.bits for part in frame.format.components) > 8
        converted = self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format="rgb48le" if curve or deep else "rgb24",
            src_colorspace=matrix,
            interpolation=flags | _EXACT if deep else flags,
            threads=1,
        )
        picture = converted.to_ndarray()
        if curve:
            return hdr.to_sdr(picture, curve, frame.color_primaries)
        return np.round(picture / 257).astype(np.uint8) if deep else picture
