"""Which sound of the clips a vocoder's training holds in memory, and how far one sound is from another.

Knows: files, stretches of time, the log-mel. Does not know: what is trained on the sound (``train_vocoder.py``).

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
from flowreel.data.subsample import shares, spread
from flowreel.errors import InputError
from flowreel.media import iterate, read_sound
from flowreel.utils.reporting import Report

JUDGED, STRETCH = 8, 2.0
"""Over how many stretches of sound the distance is, and how many seconds long each is at most."""
PIECE = 10.0
"""Seconds that are read in one go of a file that is longer than what is taken of it."""


def mel_distance(made: Tensor, sound: Tensor, config: MelConfig) -> Tensor:
    """The mean absolute difference of the log-mels of two sounds (B, S), in nats."""
    return (log_mel(made, config) - log_mel(sound, config)).abs().mean()


def read_sounds(
    sources: Sequence[Source], config: VocoderTrainConfig, limit: float, report: Report, least: int
) -> tuple[list[Tensor], list[int]]:
    """At most ``limit`` seconds of sound, drawn evenly over the clips, and over the time of those that are longer; of a
    clip ``least`` mel steps or nothing, or all that it has.

    Returns pieces (S,) float32 of a whole number of mel steps, at least a segment long (silence fills up what is
    shorter), and the number among ``sources`` of the clip that each is from. Clips without sound are passed over, those
    that can't be read are told.
    """

    def mel_steps(seconds: float) -> int:
        return math.ceil(seconds * config.mel.sample_rate / config.mel.hop)

    infos = probed(sources, report)
    lengths = [mel_steps(info.seconds) if info and info.has_audio else 0 for info in infos]
    steps = mel_steps(limit)
    sounds: list[Tensor] = []
    clips: list[int] = []
    for number, (source, length, share) in enumerate(zip(sources, lengths, shares(lengths, steps, least), strict=True)):
        if share == 0:
            continue
        try:
            pieces = list(_pieces(source.path, length, share, config))
        except InputError as error:
            report(f"left out {source.name}: {error}")
            continue
        joined = peak_normalise(torch.cat(pieces), config.peak) if config.peak else torch.cat(pieces)
        sounds += [_whole_steps(piece, config) for piece in joined.split([len(piece) for piece in pieces])]
        clips += [number] * len(pieces)
    return sounds, clips


def _pieces(path: Path, length: int, share: int, config: VocoderTrainConfig) -> Iterator[Tensor]:
    """``share`` of the ``length`` mel steps of a file: all of its sound, or pieces from everywhere in it, so that a
    file of hours is not read whole."""
    rate, hop = config.mel.sample_rate, config.mel.hop
    if share >= length:
        sound = read_sound(path, rate, config.channel)
        yield torch.from_numpy(sound[: length * hop])
        return
    count = math.ceil(share * hop / rate / PIECE)
    samples = share * hop // count
    seconds = math.ceil(samples / rate)
    for middle in spread(length, count).tolist():
        start = min(max(0.0, middle * hop / rate - seconds / 2), max(0.0, length * hop / rate - seconds))
        # A picture a second, and small, as it is not looked at.
        chunks = iterate(path, fps=1.0, sample_rate=rate, size=8, start=start, seconds=seconds, channel=config.channel)
        parts = [chunk.audio for chunk in chunks if chunk.audio is not None]
        yield torch.from_numpy(np.concatenate(parts)[:samples])


def _whole_steps(sound: Tensor, config: VocoderTrainConfig) -> Tensor:
    hop = config.mel.hop
    length = max(config.segment, len(sound) // hop) * hop
    return nn.functional.pad(sound, (0, max(0, length - len(sound))))[:length].clone()


def stretches(sounds: Sequence[Tensor], config: VocoderTrainConfig) -> list[Tensor]:
    """Up to ``JUDGED`` stretches of ``STRETCH`` seconds at most, spread evenly over the sounds."""
    length = stretch_steps(config) * config.mel.hop
    cut = [part for sound in sounds for part in sound.split(length) if len(part) >= min(length, len(sound))]
    return [cut[i] for i in spread(len(cut), JUDGED).tolist()]


def stretch_steps(config: VocoderTrainConfig) -> int:
    """The mel steps of a stretch."""
    return round(STRETCH * config.mel.sample_rate / config.mel.hop)
