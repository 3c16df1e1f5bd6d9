"""Chunks of a stream as fragments of one MP4 (ISO 14496-12) that never ends: H.264 and AAC.

Every fragment begins with a key frame, so whoever has the initialisation segment can begin with any of them, and one
that is left out costs its own time alone. Audio and video keep their places in the chunks: what the AAC encoder
puts in front of a stream is taken away again.
"""

from __future__ import annotations

import io
import math
from fractions import Fraction
from typing import Any

import av
import numpy as np

from flowreel.config.rates import exact_rate
from flowreel.errors import InputError
from flowreel.media import Clip

SMALLEST = 128
"""The least pixels of the longer side, reached by repeating pixels, as H.264 halves the resolution of colour."""
_FLAGS = "empty_moov+default_base_moof+skip_trailer+frag_discont"


class Fragmenter:
    """Makes the fragments of one stream.

    >>> fragmenter = Fragmenter(fps=10, height=64, width=64, sample_rate=16000)
    >>> file.write(fragmenter.init)
    >>> for clip in chunks:
    ...     file.write(fragmenter.push(clip))

    Attributes:
        init: the initialisation segment.
        mime: what MediaSource calls it, with the codecs.
        frames: how many were pushed.

    Args:
        sample_rate: None for a stream without audio.
        quality: x264's constant rate factor, lower is better.
    """

    def __init__(self, *, fps: float, height: int, width: int, sample_rate: int | None, quality: int = 18) -> None:
        self._rate = exact_rate(fps)
        self.fps, self.height, self.width, self.sample_rate = float(self._rate), height, width, sample_rate
        self._repeat = max(1, math.ceil(SMALLEST / max(height, width)))
        self.frames = self._samples = self._fragments = 0
        file = io.BytesIO()
        self._encoders = av.open(file, "w", format="mp4", options={"movflags": _FLAGS})
        self._video = self._add_video(quality)
        self._audio = self._add_audio(sample_rate) if sample_rate else None
        self._encoders.start_encoding()
        self.init = file.getvalue()
        profile = self.init[(place := self.init.index(b"avcC") + 5) : place + 3]
        audio = ", mp4a.40.2" if self._audio else ""
        self.mime = f'video/mp4; codecs="avc1.{profile.hex().upper()}{audio}"'

    def _add_video(self, quality: int) -> Any:
        stream: Any = self._encoders.add_stream("libx264", rate=self._rate)
        sides = (self.height * self._repeat, self.width * self._repeat)
        stream.height, stream.width = (side + side % 2 for side in sides)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self._rate
        context.options = {"crf": str(quality), "preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"}
        context.gop_size = 1_000_000  # key frames are asked for
        context.thread_count = 1  # its own threads would live until the encoder is collected
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1
        return stream

    def _add_audio(self, sample_rate: int) -> Any:
        rates = av.Codec("aac", "w").audio_rates or [sample_rate]
        if sample_rate not in rates:
            raise InputError(
                f"audio at {sample_rate} Hz can't be sent to a browser: AAC has {', '.join(map(str, sorted(rates)))}"
            )
        stream: Any = self._encoders.add_stream("aac", rate=sample_rate, layout="mono")
        stream.bit_rate = min(160_000, 4 * sample_rate)
        return stream

    def push(self, clip: Clip) -> bytes:
        """The fragment of the next chunk. Sound that does not fill a block of AAC yet comes with the next one.

        Raises:
            InputError: a chunk of another size or clock.
        """
        if clip.frames.shape[1:3] != (self.height, self.width) or exact_rate(clip.fps) != self._rate:
            raise InputError(
                f"a chunk of {clip.frames.shape[1]}x{clip.frames.shape[2]} pixels at {clip.fps:g} frames a second does "
                f"not fit a stream of {self.height}x{self.width} at {self.fps:g}"
            )
        packets = [(self._video, packet) for packet in self._encode_pictures(clip.frames)]
        if self._audio and clip.audio is not None:
            packets += [(self._audio, packet) for packet in self._encode_sound(clip.audio) if packet.pts >= 0]
        return self._muxed(packets)

    def _encode_pictures(self, frames: np.ndarray) -> list[Any]:
        packets = []
        for number, image in enumerate(frames):
            large = image.repeat(self._repeat, 0).repeat(self._repeat, 1)
            odd = ((0, large.shape[0] % 2), (0, large.shape[1] % 2), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(large, odd, "edge")), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", threads=1)
            frame.pts, frame.time_base = self.frames + number, 1 / self._rate
            frame.pict_type = av.video.frame.PictureType.I if number == 0 else av.video.frame.PictureType.NONE
            packets += self._video.encode(frame)
        self.frames += len(frames)
        return packets

    def _encode_sound(self, samples: np.ndarray) -> list[Any]:
        frame = av.AudioFrame.from_ndarray(np.clip(samples, -1, 1)[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = self.sample_rate or 0, self._samples
        frame.time_base = Fraction(1, self.sample_rate or 1)
        self._samples += len(samples)
        return list(self._audio.encode(frame)) if self._audio else []

    def _muxed(self, packets: list[tuple[Any, Any]]) -> bytes:
        """A moof and an mdat with these packets.

        A container a fragment, as one that stays open would hold a fragment back until the next begins.
        """
        self._fragments += 1
        file = io.BytesIO()
        options = {"movflags": _FLAGS, "fragment_index": str(self._fragments), "avoid_negative_ts": "disabled"}
        with av.open(file, "w", format="mp4", options=options) as container:
            streams = {
                id(encoder): container.add_stream_from_template(encoder, opaque=True) for encoder in self._tracks
            }
            container.start_encoding()
            header = file.tell()
            for encoder, packet in packets:
                packet.stream = streams[id(encoder)]
                container.mux_one(packet)
        return file.getvalue()[header:]

    @property
    def _tracks(self) -> list[Any]:
        return [self._video, *([self._audio] if self._audio else [])]

    def close(self) -> None:
        """Free the encoders."""
        self._encoders.close()
