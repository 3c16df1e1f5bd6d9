"""Resizes frames: crop, letterbox or stretch, with Pillow's antialiased bicubic filter.

Shape legend: T frames, H W rows and columns in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from flowreel.errors import InputError

Fit = Literal["crop", "letterbox", "stretch"]


@dataclass(frozen=True)
class Resizer:
    """Turns one frame (h, w, 3) uint8 into (height, width, 3).

    ``fit`` "crop": scale until the frame covers the size, cut what sticks out; ``crop`` (y, x) in [0, 1] says where,
    (0.5, 0.5) is the centre. "letterbox" (as R-FLAV does, arXiv 2503.08307): the whole frame, each side
    ``int(side * ratio)``, black bars around its middle. "stretch": both sides on their own.
    """

    height: int
    width: int
    fit: Fit = "crop"
    crop: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        if not all(isinstance(side, (int, np.integer)) and side >= 1 for side in (self.height, self.width)):
            raise InputError(f"size must be whole numbers of pixels from 1, not {self.height!r} x {self.width!r}")
        if self.fit not in get_args(Fit):
            raise InputError(f"fit must be one of {', '.join(get_args(Fit))}, not {self.fit!r}")
        if len(self.crop) != 2 or not all(0 <= place <= 1 for place in self.crop):
            raise InputError(f"crop must be two numbers (y, x) from 0 to 1, not {self.crop!r}")

    def sides(self, h: int, w: int, pixel_aspect: float = 1.0) -> tuple[float, float]:
        """Rows and columns that a whole frame of ``h`` x ``w`` pixels has at the size at which it is shown."""
        if self.fit == "stretch":
            return self.height, self.width
        wide = w * pixel_aspect
        if self.fit == "letterbox":
            ratio = min(self.width / wide, self.height / h)
            return max(1, int(h * ratio)), max(1, int(wide * ratio))
        if self.width / wide > self.height / h:
            return h * self.width / wide, self.width
        return self.height, wide * self.height / h

    def __call__(
        self, picture: np.ndarray, pixel_aspect: float = 1.0, whole: tuple[int, int] | None = None
    ) -> np.ndarray:
        """``pixel_aspect`` is the width of one pixel over its height: 1 unless a file says otherwise. ``whole`` are the
        rows and columns of the frame, where what is given is a smaller copy of it: they alone decide what is seen.
        """
        h, w = picture.shape[:2] if whole is None else whole
        if (h, w) == (self.height, self.width) and pixel_aspect == 1:
            return picture
        rows, columns = self.sides(h, w, pixel_aspect)
        if (rows, columns) == (self.height, self.width) == picture.shape[:2]:
            return picture
        image = Image.fromarray(np.ascontiguousarray(picture))
        if self.fit == "letterbox":
            return self._letterboxed(image, int(rows), int(columns))
        box = self._crop_box(rows, columns, image)
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box))

    def _crop_box(self, rows: float, columns: float, image: Image.Image) -> tuple[float, float, float, float]:
        """The part of ``image`` that is seen where the whole is ``rows`` x ``columns``: left, top, right, bottom."""
        y, x = image.height / rows, image.width / columns
        top, left = (rows - self.height) * self.crop[0] * y, (columns - self.width) * self.crop[1] * x
        return left, top, min(image.width, left + self.width * x), min(image.height, top + self.height * y)

    def _letterboxed(self, image: Image.Image, rows: int, columns: int) -> np.ndarray:
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        top, left = (self.height - rows) // 2, (self.width - columns) // 2
        inner = image.resize((columns, rows), Image.Resampling.BICUBIC)
        canvas[top : top + rows, left : left + columns] = np.asarray(inner)
        return canvas


def resize_frames(
    frames: np.ndarray, height: int, width: int, fit: Fit = "crop", crop: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """Frames (T, h, w, 3) uint8 -> (T, height, width, 3) uint8; ``fit`` and ``crop`` as in :class:`Resizer`."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        shape = getattr(frames, "shape", type(frames).__name__)
        raise InputError(f"frames must be a uint8 array (T, H, W, 3), not {getattr(frames, 'dtype', '')} {shape}")
    resizer = Resizer(height, width, fit, crop)
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for target, frame in zip(resized, frames, strict=True):
        target[:] = resizer(frame)
    return resized
