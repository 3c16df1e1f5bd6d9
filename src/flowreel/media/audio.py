"""Reads the audio of a file as one stream of mono samples that starts at an exact instant.

Without end: silence follows.

The delay of an encoder (AAC 1024 samples, LAME's MP3 1105) is taken off by FFmpeg where the container states it: MP4,
MOV, MKV, WebM, TS. AVI has no place for it, so compressed audio in AVI is late by up to 25 ms. It is left so: FFmpeg's
own AVI files delay the video as well, by one frame, and nothing in a file tells who made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from flowreel.errors import InputError
from flowreel.media import webp
from flowreel.media.clip import Channel
from flowreel.media.demux import audio_stream, check_file, decoded, explained, started
from flowreel.media.downmix import downmix
from flowreel.media.timing import check_sample_rate

SLACK = Fraction(5, 1000)  # seconds that timestamps may be off before samples are cut or silence is put in
_PLANES = 8  # AV_NUM_DATA_POINTERS
_RUN_UP = Fraction(1, 4)  # seconds decoded before the start, in which decoder and resampler settle


class AudioTrack:
    """Mono float32 samples in [-1, 1] at ``sample_rate``, from ``start`` seconds after ``zero`` on the file's clock."""

    def __init__(self, path: Path, zero: Fraction, start: Fraction, sample_rate: int, channel: Channel) -> None:
        self._blocks = _blocks(path, zero, start, sample_rate, channel)
        self._rest = np.zeros(0, np.float32)

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` samples; after the end of the track, silence."""
        parts, have = [self._rest], len(self._rest)
        while have < count and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            have += len(block)
        joined = np.concatenate([*parts, np.zeros(max(0, count - have), np.float32)])
        self._rest = joined[count:].copy()
        return np.clip(joined[:count], -1, 1)


def read_audio(path: str | Path, sample_rate: int = 16000, channel: Channel = "mean") -> np.ndarray:
    """The whole audio of a file with or without frames, (S,) float32 in [-1, 1].

    Time 0 is the first sample that the file has. :class:`InputError` where there is no audio or it can't be read.
    """
    path = Path(path)
    check_sample_rate(sample_rate)
    check_file(path)
    if webp.durations(path):
        raise InputError("has no audio stream, only pictures: give a file with sound", path=path)
    first = next(((time, frame) for frame, time, _, _ in decoded(path, audio_stream, None, None)), None)
    if first is None:
        raise InputError("has a sound track, but nothing in it can be decoded: it is empty or damaged", path=path)
    blocks = list(_resampled(path, first[0], first[0], sample_rate, channel))
    return np.clip(np.concatenate(blocks), -1, 1)


def is_surround(path: Path) -> bool:
    """Whether the file's audio has more than two channels."""
    container, stream = started(path, audio_stream)
    with container:
        return int(stream.codec_context.layout.nb_channels) > 2


def place(block: np.ndarray, position: int, written: int, slack: int) -> tuple[int, np.ndarray]:
    """Put the block (S,) at sample ``position`` when ``written`` samples are already there: how many samples of silence
    come before it, and what of it does not overlap. Off by ``slack`` at most, it simply follows."""
    gap = position - written
    if abs(gap) <= slack:
        return 0, block
    return (gap, block) if gap > 0 else (0, block[-gap:])


def _blocks(path: Path, zero: Fraction, start: Fraction, sample_rate: int, channel: Channel) -> Iterator[np.ndarray]:
    """Resampled blocks, without the run-up."""
    run_up = _RUN_UP if start >= _RUN_UP else start
    skip = round(run_up * sample_rate)
    for block in _resampled(path, zero, zero + start - run_up, sample_rate, channel):
        if skip < len(block):
            yield block[skip:]
        skip = max(0, skip - len(block))


def _resampled(path: Path, zero: Fraction, since: Fraction, sample_rate: int, channel: Channel) -> Iterator[np.ndarray]:
    """Blocks at the wanted rate, the first sample exactly at ``since``; gaps in the track are silence."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
    end, rate = 0, 0  # samples from `since` on, to where the track was read: below 0 before it
    for frame, time, _, _ in decoded(path, audio_stream, zero, since):
        if rate not in (0, frame.sample_rate):
            raise InputError(
                f"has sound that changes from {rate} to {frame.sample_rate} Hz midway: convert it to one rate first",
                path=path,
            )
        position = round((time - since) * frame.sample_rate)
        begin = end if rate else min(0, position)  # the first block lies where its time says, to the sample
        silence, block = place(_mono(frame, channel), position, begin, round(SLACK * frame.sample_rate) if rate else 0)
        rate = frame.sample_rate
        end = begin + silence + len(block)
        silence, block = max(0, min(silence, end - len(block))), block[max(0, len(block) - max(0, end)) :]
        for piece in _pieces(silence, rate):
            yield from _resample(path, resampler, piece, rate)
        if len(block):
            yield from _resample(path, resampler, block, rate)
    if rate:
        yield from _resample(path, resampler, None, rate)


def _pieces(silence: int, rate: int) -> Iterator[np.ndarray]:
    """Silence, a second at a time: a gap may last hours."""
    for begin in range(0, silence, rate):
        yield np.zeros(min(rate, silence - begin), np.float32)


def _resample(path: Path, resampler: av.AudioResampler, samples: np.ndarray | None, rate: int) -> Iterator[np.ndarray]:
    if rate == resampler.rate:
        yield from () if samples is None else (samples,)
        return
    frame = None
    if samples is not None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
        frame.sample_rate = rate
    with explained(path):
        resampled = resampler.resample(frame)
    for done in resampled:
        yield done.to_ndarray()[0].copy()


def _mono(frame: av.AudioFrame, channel: Channel) -> np.ndarray:
    """(S,) float32 of a frame in any sample format."""
    if frame.format.is_planar and frame.layout.nb_channels >= _PLANES:
        frame = _packed(frame)
    samples: np.ndarray = frame.to_ndarray()  # planar (channels, S), packed (1, S * channels)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    samples = samples[:1] if channel == "first" else samples
    if samples.dtype == np.float32 and len(samples) == 1:
        return samples[0]
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    weights = downmix([place.name for place in frame.layout.channels]) if len(samples) > 2 else None
    mixed = samples.mean(axis=0) if weights is None else weights @ samples
    return mixed.astype(np.float32)


def _packed(frame: av.AudioFrame) -> av.AudioFrame:
    """The same samples in one plane: PyAV reads past the end of a frame's list of planes where that is full."""
    packer = av.AudioResampler(frame.format.packed.name, frame.layout, frame.sample_rate)
    (packed,) = packer.resample(frame)
    return packed
