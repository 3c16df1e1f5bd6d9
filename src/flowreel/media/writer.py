"""Writes clips to files chunk by chunk, with bounded memory.

A file appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from PIL import Image

from flowreel.config.rates import exact_rate
from flowreel.errors import InputError
from flowreel.media.audio import SLACK, place
from flowreel.media.clip import Clip
from flowreel.media.timing import check_sample_rate, samples_for
from flowreel.utils.files import PendingFile

_BT709 = 1  # AVCOL_SPC_BT709 and its primaries and transfer: the same number in each of FFmpeg's lists
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG


@dataclass(frozen=True)
class _Format:
    """One kind of file: FFmpeg's names of container and encoders ("" for a stream that it can't hold)."""

    container: str
    video: str = ""
    audio: str = ""
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)


FORMATS = {
    ".mp4": _Format("mp4", "libx264", "aac", "yuv420p", {"movflags": "+faststart"}),
    ".mkv": _Format("matroska", "ffv1", "pcm_f32le", "bgr0"),
    ".gif": _Format("gif", "gif", "", "pal8"),
    ".webp": _Format("webp", "libwebp_anim", "", "bgra", {"loop": "0"}),
    ".wav": _Format("wav", "", "pcm_s16le"),
}


class Writer:
    """Writes clips that follow each other into one file; a context manager.

    >>> with Writer("out.mp4", fps=10, height=64, width=64, sample_rate=16000) as writer:
    ...     for clip in clips:
    ...         writer.write(clip)

    The ending of the name decides: ``.mp4`` is H.264 + AAC with the index in front, in yuv420p where both sides are
    even and otherwise in yuv444p, which keeps odd sizes but does not play in every browser; ``.mkv`` is lossless (FFV1
    RGB + float PCM: reads back bit for bit); ``.gif`` and ``.webp`` hold no audio, it is left out; ``.wav`` (16 bit)
    holds nothing else. ``sample_rate`` None writes no audio; where a clip has none, or less than its frames last,
    silence is written. Samples beyond [-1, 1] are limited to it, they never wrap. ``quality`` is x264's constant rate
    factor, 0 to 51, lower is better.

    The file is made under a temporary name beside ``path`` and renamed by :meth:`close`; leaving the ``with`` block by
    an error, or an error while writing, removes it. Clips that don't fit the sizes and rates are an
    :class:`InputError`.
    """

    def __init__(
        self, path: str | Path, *, fps: float, height: int, width: int, sample_rate: int | None, quality: int = 18
    ) -> None:
        self.path = Path(path)
        self._rate = exact_rate(fps)
        self.fps, self.height, self.width = float(self._rate), height, width
        self._format = _format_of(self.path, sample_rate)
        self.sample_rate = sample_rate if self._format.audio else None
        if not 0 <= quality <= 51:
            raise InputError(f"quality must be x264's rate factor from 0 (best) to 51, not {quality}")
        self._frames = self._samples = 0
        self._container: Any = None
        self._pending = PendingFile(self.path)
        try:
            self._container = av.open(
                f"file:{self._pending.temporary}", "w", format=self._format.container, options=self._format.options
            )
            self._video = self._add_video(quality) if self._format.video else None
            self._audio = self._add_audio(self.sample_rate) if self.sample_rate else None
        except OSError as error:
            self.abort()
            raise InputError(f"{self.path} can't be written: {error.strerror}") from error
        except BaseException:
            self.abort()
            raise

    def _add_video(self, quality: int) -> Any:
        if not all(isinstance(side, (int, np.integer)) and side >= 1 for side in (self.height, self.width)):
            raise InputError(f"height and width must be whole numbers from 1, not {self.height!r} x {self.width!r}")
        pixels = self._format.pixels
        if pixels == "yuv420p" and (self.height % 2 or self.width % 2):
            pixels = "yuv444p"
        stream = self._container.add_stream(self._format.video, rate=self._rate)
        stream.height, stream.width, stream.pix_fmt = self.height, self.width, pixels
        context = stream.codec_context
        context.time_base = 1 / self._rate
        if self._format.video == "libx264":
            context.options = {"crf": str(quality), "preset": "medium"}
            context.gop_size = max(1, round(4 * self._rate))  # a place to seek to every four seconds
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED_RANGE
        elif self._format.video == "libwebp_anim":
            context.options = {"quality": "85"}
        return stream

    def _add_audio(self, sample_rate: int) -> Any:
        rates = av.Codec(self._format.audio, "w").audio_rates
        if rates and sample_rate not in rates:
            raise InputError(
                f"{self.path.suffix} sound can't have {sample_rate} Hz: resample it to one of "
                f"{', '.join(map(str, sorted(rates)))}, or write .mkv"
            )
        stream = self._container.add_stream(self._format.audio, rate=sample_rate, layout="mono")
        if self._format.audio == "aac":
            stream.bit_rate = min(160_000, 4 * sample_rate)  # with more, FFmpeg's encoder gets tones wrong
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def write(self, clip: Clip) -> None:
        """Append the clip."""
        self._check(clip)
        try:
            if self._video:
                for number, picture in enumerate(clip.frames, self._frames):
                    self._write_image(picture, number)
            if self._audio and clip.audio is not None:
                self._write_audio(clip.audio, slack=round(SLACK * clip.sample_rate))
        except BaseException:
            self.abort()
            raise
        self._frames += len(clip.frames)

    def close(self) -> None:
        """Finish the file and give it its name. Calling it again does nothing."""
        if self._container is None:
            return
        try:
            if self._frames == 0:
                raise InputError(f"{self.path}: nothing was written, so there is no file to finish")
            if self._audio:
                self._write_audio(np.zeros(0, np.float32), slack=0)
            for stream in filter(None, (self._video, self._audio)):
                self._container.mux(stream.encode(None))
            self._container.close()
            self._pending.keep()
        except BaseException:
            self.abort()
            raise
        self._container = None

    def abort(self) -> None:
        """Throw away what was written; a file that had the name before stays as it was."""
        if self._container is not None:
            with contextlib.suppress(av.FFmpegError):
                self._container.close()
        self._container = None
        self._pending.discard()

    def _check(self, clip: Clip) -> None:
        if self._container is None:
            raise InputError(f"{self.path} is closed: no more clips can be written to it")
        if self._video and clip.frames.shape[1:3] != (self.height, self.width):
            size = "x".join(map(str, clip.frames.shape[1:3]))
            raise InputError(f"a clip of {size} pixels can't be written to {self.path} of {self.height}x{self.width}")
        if exact_rate(clip.fps) != self._rate:
            raise InputError(f"a clip of {clip.fps:g} fps can't be written to {self.path} of {self.fps:g} fps")
        if self._audio and clip.audio is not None and clip.sample_rate != self.sample_rate:
            raise InputError(f"sound of {clip.sample_rate} Hz can't be written to {self.path} of {self.sample_rate} Hz")

    def _write_image(self, picture: np.ndarray, number: int) -> None:
        assert self._video is not None
        frame = _encodable(picture, self._video.pix_fmt)
        frame.pts, frame.time_base = number, 1 / self._rate
        self._container.mux(self._video.encode(frame))

    def _write_audio(self, samples: np.ndarray, slack: int) -> None:
        """Put the samples where the frames so far end."""
        assert self._audio is not None
        assert self.sample_rate is not None
        silence, samples = place(samples, samples_for(self._frames, self.fps, self.sample_rate), self._samples, slack)
        samples = np.concatenate([np.zeros(silence, np.float32), np.clip(samples, -1, 1)])
        if len(samples) == 0:
            return
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = self.sample_rate
        frame.pts, frame.time_base = self._samples, Fraction(1, self.sample_rate)
        self._container.mux(self._audio.encode(frame))
        self._samples += len(samples)


def _format_of(path: Path, sample_rate: int | None) -> _Format:
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise InputError(f"{path}: can't write {path.suffix!r} files; choose {', '.join(FORMATS)}")
    if sample_rate is not None:
        check_sample_rate(sample_rate)
    elif not form.video:
        raise InputError(f"{path}: there is no sound to write; choose a format with pictures, such as .mp4")
    return form


def _encodable(picture: np.ndarray, pixels: str) -> av.VideoFrame:
    if pixels == "pal8":
        return _with_palette(picture)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    if pixels.startswith("yuv"):
        return frame.reformat(format=pixels, dst_colorspace="ITU709", dst_color_range="MPEG")
    return frame.reformat(format=pixels)


def _with_palette(picture: np.ndarray) -> av.VideoFrame:
    """At most 256 colours, chosen for this frame alone, so that memory stays bounded."""
    image = Image.fromarray(np.ascontiguousarray(picture)).quantize(256, Image.Quantize.MEDIANCUT)
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
    palette[: len(colours), 1:] = colours
    return av.VideoFrame.from_ndarray((np.asarray(image), palette), format="pal8")  # type: ignore[arg-type]
