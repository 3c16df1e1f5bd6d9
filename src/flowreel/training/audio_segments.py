"""The audio that a vocoder is trained on, and the distance between two waveforms.

Shapes: B batch, S audio samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowreel.codec.mel import log_mel, peak_normalise
from flowreel.config import MelConfig, VocoderTrainConfig
from flowreel.data.sources import Source, probed
from flowreel.data.subsample import evenly_spaced, frames_per_clip
from flowreel.errors import InputError
from flowreel.media import iterate, read_audio
from flowreel.utils.reporting import Report

EVALUATED, EXCERPT = 8, 2.0
"""How many excerpts a vocoder is validated on, and their length in seconds at most."""
PIECE = 10.0
"""Seconds that are read at once of a file of which a part is used."""


def mel_distance(made: Tensor, audio: Tensor, config: MelConfig) -> Tensor:
    """The mean absolute difference of the log-mels of two waveforms (B, S), in nats."""
    return (log_mel(made, config) - log_mel(audio, config)).abs().mean()


def read_clip_audio(
    sources: Sequence[Source], config: VocoderTrainConfig, limit: float, report: Report, least: int
) -> tuple[list[Tensor], list[int]]:
    """At most ``limit`` seconds of audio, drawn evenly over the clips and over the time of each; of a clip at least
    ``least`` mel steps (or all of it), or nothing.

    Returns pieces (S,) float32 of a whole number of mel steps, at least a segment long (padded with silence), and the
    number of each piece's clip among ``sources``. Clips without audio are skipped, those that can't be read are
    reported.
    """

    def mel_steps(seconds: float) -> int:
        return math.ceil(seconds * config.mel.sample_rate / config.mel.hop)

    infos = probed(sources, report)
    lengths = [mel_steps(info.seconds) if info and info.has_audio else 0 for info in infos]
    steps = mel_steps(limit)
    waveforms: list[Tensor] = []
    clips: list[int] = []
    for number, (source, length, share) in enumerate(
        zip(sources, lengths, frames_per_clip(lengths, steps, least), strict=True)
    ):
        if share == 0:
            continue
        try:
            pieces = list(_pieces(source.path, length, share, config))
        except InputError as error:
            report(f"left out {source.name}: {error}")
            continue
        joined = peak_normalise(torch.cat(pieces), config.peak) if config.peak else torch.cat(pieces)
        waveforms += [_whole_steps(piece, config) for piece in joined.split([len(piece) for piece in pieces])]
        clips += [number] * len(pieces)
    return waveforms, clips


def _pieces(path: Path, length: int, share: int, config: VocoderTrainConfig) -> Iterator[Tensor]:
    """``share`` of the ``length`` mel steps of a file: all of its audio, or pieces spread over it, so that a file of
    hours is not read as a whole."""
    rate, hop = config.mel.sample_rate, config.mel.hop
    if share >= length:
        audio = read_audio(path, rate, config.channel)
        yield torch.from_numpy(audio[: length * hop])
        return
    count = math.ceil(share * hop / rate / PIECE)
    samples = share * hop // count
    seconds = math.ceil(samples / rate)
    for middle in evenly_spaced(length, count).tolist():
        start = min(max(0.0, middle * hop / rate - seconds / 2), max(0.0, length * hop / rate - seconds))
        # The frames are not used: one per second, and small.
        chunks = iterate(path, fps=1.0, sample_rate=rate, size=8, start=start, seconds=seconds, channel=config.channel)
        parts = [chunk.audio for chunk in chunks if chunk.audio is not None]
        yield torch.from_numpy(np.concatenate(parts)[:samples])


def _whole_steps(audio: Tensor, config: VocoderTrainConfig) -> Tensor:
    hop = config.mel.hop
    length = max(config.segment, len(audio) // hop) * hop
    return nn.functional.pad(audio, (0, max(0, length - len(audio))))[:length].clone()


def excerpts(waveforms: Sequence[Tensor], config: VocoderTrainConfig) -> list[Tensor]:
    """Up to ``EVALUATED`` excerpts of at most ``EXCERPT`` seconds, spread evenly over the waveforms."""
    length = excerpt_steps(config) * config.mel.hop
    cut = [part for audio in waveforms for part in audio.split(length) if len(part) >= min(length, len(audio))]
    return [cut[i] for i in evenly_spaced(len(cut), EVALUATED).tolist()]


def excerpt_steps(config: VocoderTrainConfig) -> int:
    """The mel steps of an excerpt."""
    return round(EXCERPT * config.mel.sample_rate / config.mel.hop)
