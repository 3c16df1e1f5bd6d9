"""A clip: frames, the audio that belongs to them, and their clocks.

Shape legend: T frames, H W rows and columns in pixels, S audio samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from flowreel.config.rates import exact_rate
from flowreel.errors import InputError
from flowreel.media.timing import check_sample_rate, samples_for

if TYPE_CHECKING:
    from flowreel.media.resize import Fit

Channel = Literal["mean", "first"]


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames (T, H, W, 3) uint8 RGB, and their audio (S,) float32 in [-1, 1] at ``sample_rate`` Hz, or None.

    Frame k is on screen from k/fps to (k+1)/fps seconds; sample i audio at i/sample_rate seconds. ``fps`` may be given
    as any real number, and is that of :func:`exact_rate`: 29.97 becomes 30000/1001. Clips that are read
    or generated have S == ``samples_for(T, fps, sample_rate)``; others may have any S. Wrong types or shapes are an
    :class:`InputError`.
    """

    frames: np.ndarray
    audio: np.ndarray | None = None
    fps: float = 10.0
    sample_rate: int = 16000
    label: str | None = None

    def __post_init__(self) -> None:
        frames, audio = self.frames, self.audio
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise InputError(f"frames must be a uint8 array (T, H, W, 3), not {_describe(frames)}")
        if 0 in frames.shape:
            raise InputError(f"frames {frames.shape} hold no pixels: a clip has at least one frame of one pixel")
        if audio is not None:
            if not isinstance(audio, np.ndarray) or audio.dtype != np.float32 or audio.ndim != 1:
                raise InputError(f"audio must be a float32 array (S,) or None, not {_describe(audio)}")
            if not np.isfinite(audio).all():
                raise InputError(f"audio holds {int((~np.isfinite(audio)).sum())} values that are NaN or infinite")
        object.__setattr__(self, "fps", float(exact_rate(self.fps)))
        check_sample_rate(self.sample_rate)

    def __repr__(self) -> str:
        count, height, width = self.frames.shape[:3]
        sound = "silent" if self.audio is None else f"{len(self.audio)} samples at {self.sample_rate} Hz"
        return f"Clip({count} frames of {width}x{height} at {self.fps:g}/s, {sound}, label {self.label!r})"

    @property
    def seconds(self) -> float:
        """How long the frames last."""
        return len(self.frames) / self.fps

    def save(self, path: str | Path) -> Path:
        """Write the clip in the format of the name's ending, and return the path.

        ``.mp4`` H.264 + AAC (see :class:`Writer` on odd sizes); ``.mkv`` without loss; ``.gif`` and ``.webp`` moving
        frames without audio; ``.wav`` the audio alone; ``.png`` a contact sheet with the audio's spectrogram. The
        file appears under its name only when it is complete. Another ending is an :class:`InputError`.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            from flowreel.media.figures import contact_sheet

            return contact_sheet(self, path)
        from flowreel.media.writer import FORMATS, Writer

        if path.suffix.lower() not in FORMATS:
            raise InputError(f"{path}: can't write {path.suffix!r} files; choose {', '.join(FORMATS)} or .png")
        height, width = self.frames.shape[1:3]
        rate = None if self.audio is None else self.sample_rate
        with Writer(path, fps=self.fps, height=height, width=width, sample_rate=rate) as writer:
            writer.write(self)
        return path

    @classmethod
    def read(
        cls,
        path: str | Path,
        fps: float | None = None,
        sample_rate: int = 16000,
        size: int | tuple[int, int] | None = None,
        fit: Fit = "crop",
        start: float = 0.0,
        seconds: float | None = None,
        channel: Channel = "mean",
        audio: bool = True,
    ) -> Clip:
        """Read a file whole; the parameters are those of :func:`iterate`, which reads long files in constant memory."""
        from flowreel.media.reader import iterate

        chunks = iterate(
            path,
            fps=fps,
            sample_rate=sample_rate,
            size=size,
            fit=fit,
            start=start,
            seconds=seconds,
            channel=channel,
            audio=audio,
        )
        return cls.join(chunks)

    def cut(self, frames: int, before: int = 0) -> tuple[Clip, Clip | None]:
        """The first ``frames`` frames with their audio, and what is left, or None. ``before``: how many frames of a
        stream came before this clip, which tells where a sample that two frames share belongs."""
        ends = [samples_for(before + n, self.fps, self.sample_rate) for n in (0, frames)]
        samples = ends[1] - ends[0]
        sound = (None, None) if self.audio is None else (self.audio[:samples], self.audio[samples:])
        left = None if len(self.frames) <= frames else replace(self, frames=self.frames[frames:], audio=sound[1])
        return replace(self, frames=self.frames[:frames], audio=sound[0]), left

    @classmethod
    def join(cls, clips: Iterable[Clip]) -> Clip:
        """One clip of several that follow each other: same size and clocks, all with audio or all without."""
        parts = list(clips)
        if not parts:
            raise InputError("there are no clips to join")
        first = parts[0]
        kinds = {(part.frames.shape[1:], part.fps, part.sample_rate, part.audio is None) for part in parts}
        if len(kinds) > 1:
            raise InputError(f"clips that differ in size, rate or sound can't be joined: {sorted(map(str, kinds))}")
        frames = np.concatenate([part.frames for part in parts])
        audio = None if first.audio is None else np.concatenate([p.audio for p in parts if p.audio is not None])
        return cls(frames, audio, first.fps, first.sample_rate, first.label)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{type(value).__name__} {value!r:.60}"
