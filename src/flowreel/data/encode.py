"""Encodes clips to stored latents, chunk by chunk in constant memory, and chooses the codec for it.

Shapes: T frames, C channels, H W rows and columns of latents, S audio samples, M mel bins, F mel steps per video frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowreel.codec import Codec, mel
from flowreel.codec.registry import codec_folder, named_codec
from flowreel.codec.vocoder import Vocoder, load_for
from flowreel.config import (
    AudioCodecConfig,
    CodecConfig,
    MelConfig,
    PrepareConfig,
    Timing,
    VideoCodecConfig,
)
from flowreel.config.clocks import has_whole_steps, mel_for
from flowreel.data.shards import MIRRORED, ClipRecord, IndexEntry
from flowreel.data.sources import Source
from flowreel.data.staging import StagingArea
from flowreel.data.statistics import Moments
from flowreel.data.workers import Beat, Work
from flowreel.errors import InputError
from flowreel.flow.noise import seeded
from flowreel.media import Clip, iterate
from flowreel.utils.distributed import Processes, device
from flowreel.utils.reporting import Report

FitCodec: TypeAlias = Callable[[Path, Path, PrepareConfig, Report, Processes | None, bool], Path]
"""Fits an autoencoder on clips and returns its folder. Arguments: the clips, the folder, the settings of prepare, a
report, the processes that share the work, and whether a finished fit in the folder is used again."""


def choose_codec(
    clips: Path,
    training: Path,
    config: PrepareConfig,
    timing: Timing,
    report: Report,
    *,
    keep: bool = False,
    processes: Processes | None = None,
    fit_codec: FitCodec | None = None,
) -> Codec:
    """The codec that ``config.codec`` names.

    If it names none, ``fit_codec`` fits one on ``clips`` in the folder ``training``, with all ``processes``; with
    ``keep``, a finished fit there is used again. The codec has the rates of ``timing`` and no scales yet; its vocoder
    is the one that ``config.vocoder`` names, or its own.

    Raises :class:`InputError` for a codec or a vocoder that is missing or can't be used, and for a size that is not a
    multiple of the codec's factor.
    """
    if config.codec:
        chosen, folder = named_codec(config.codec)
        _check_size(config, chosen.video.factor)
    else:
        _check_size(config, VideoCodecConfig().factor)
        if fit_codec is None:
            raise InputError("no codec is named: give a folder of flowreel train-codec, or a hub id, as --codec")
        folder = fit_codec(clips, training, config, report, processes, keep)
        chosen = Codec.load(folder).config
    fit = "crop" if config.fit == "random" else config.fit
    video = replace(chosen.video, posterior=config.posterior, fit=fit)
    vocoder = _vocoder(config, timing)
    audio = _audio(chosen.audio, config, vocoder, report) if timing.has_audio else None
    device = processes.device if processes is not None else "cpu"
    return Codec(CodecConfig(video, audio), timing, folder, vocoder=vocoder, device=device)


def with_audio_settings(config: PrepareConfig) -> PrepareConfig:
    """The settings with ``peak``, ``channel`` and log-mel filled in where they are not set.

    They are taken from the codec, if its folder has them, so that a model can be trained further. Otherwise they are 0,
    the mean, and the log-mel that fits ``fps``.
    """
    known = named_codec(config.codec)[0].audio if codec_folder(config.codec) is not None else None
    mel = config.mel
    if mel == MelConfig():
        mel = known.mel if known is not None and has_whole_steps(config.fps, known.mel) else mel_for(config.fps)
    known = known or AudioCodecConfig()
    peak = known.peak if config.peak is None else config.peak
    return replace(config, peak=peak, channel=config.channel or known.channel, mel=mel)


def _vocoder(config: PrepareConfig, timing: Timing) -> Vocoder | None:
    """The vocoder that ``config`` names, None for the codec's own."""
    if not config.vocoder:
        return None
    if not timing.has_audio:
        raise InputError(f"vocoder {config.vocoder} is for audio, but none is kept: leave --vocoder out")
    return load_for(config.vocoder, config.mel)


def _audio(
    own: AudioCodecConfig | None, config: PrepareConfig, chosen: Vocoder | None, report: Report
) -> AudioCodecConfig:
    """The audio settings, with the chosen vocoder, or the codec's if it was made for this log-mel."""
    vocoder = own.vocoder if own is not None else ""
    if chosen is not None:
        vocoder = chosen.kind
    elif own is not None and vocoder and own.mel != config.mel:
        report("the codec's vocoder was made for another log-mel (see --mel): audio will be decoded by Griffin-Lim")
        vocoder = ""
    return AudioCodecConfig(mel=config.mel, peak=config.peak or 0.0, channel=config.channel or "mean", vocoder=vocoder)


def _check_size(config: PrepareConfig, factor: int) -> None:
    if any(side % factor for side in config.height_width):
        near = [max(1, round(side / factor)) * factor for side in config.height_width]
        raise InputError(
            f"size {'x'.join(map(str, config.height_width))} is not a multiple of the codec's factor {factor}: "
            f"choose for example {'x'.join(map(str, near))}"
        )


class UnreadableError(Exception):
    """A clip proved to be damaged while it was read; the message is the reason."""


class Encoder:
    """Encodes the file of a clip as tensors for a shard, and a record of them."""

    def __init__(self, codec: Codec, config: PrepareConfig) -> None:
        self.codec, self.config, self.timing = codec, config, codec.timing
        self._dtype = getattr(torch, config.dtype)

    def __call__(self, source: Source, crop: int, beat: Beat) -> tuple[ClipRecord, dict[str, Tensor]]:
        """The record and the stored latents of one crop: a pure function of the file, the settings and the crop.

        ``beat`` is called with the number of frames of each finished chunk.

        Raises :class:`UnreadableError` for a damaged file, :class:`InputError` for latents that can't be stored.
        """
        draw = np.random.default_rng((self.config.seed, crop, *source.name.encode()))
        place = (draw.random(), draw.random()) if self.config.fit == "random" else (0.5, 0.5)
        generators = seeded([int(seed) for seed in draw.integers(2**63, size=2)])
        views: list[list[Tensor]] = [[], []] if self.config.flip else [[]]  # original, and mirrored left-right
        waveform: list[np.ndarray] = []
        moments: dict[str, Moments] = {}
        for chunk in self._chunks(source, place):
            frames = torch.from_numpy(chunk.frames)
            for view, images, generator in zip(views, (frames, frames.flip(2)), generators, strict=False):
                latents = self.codec.video.encode(images, generator)
                view.append(latents.to(self._dtype))
                piece = Moments.of(latents.movedim(1, -1).flatten(0, -2))
                moments["video"] = moments["video"] + piece if moments else piece
            silence = np.zeros(self.timing.samples(len(frames)), np.float32)
            waveform.append(silence if chunk.audio is None else chunk.audio)
            beat(len(frames))
        tensors = {name: torch.cat(view) for name, view in zip(("video", MIRRORED), views, strict=False)}
        if self.timing.has_audio:
            log_mel = self.codec.encode_audio(np.concatenate(waveform))
            moments["audio"] = Moments.of(mel.unit(log_mel, self.config.mel).reshape(-1, 1))
            tensors["audio"] = log_mel.to(self._dtype)
        self._check_finite(source, tensors)
        record = ClipRecord(
            IndexEntry(source.name, len(tensors["video"]), crop),
            {stream: list(tensors[stream].shape[1:]) for stream in ("video", "audio") if stream in tensors},
            moments,
            source.size,
            source.modified,
            source.digest,
            source.has_audio,
        )
        return record, tensors

    def _chunks(self, source: Source, place: tuple[float, float]) -> Iterator[Clip]:
        fit = self.config.fit
        try:
            yield from iterate(
                source.path,
                fps=self.config.fps,
                sample_rate=self.config.mel.sample_rate,
                size=self.config.height_width,
                fit="crop" if fit == "random" else fit,
                chunk=self.config.batch,
                channel=self.config.channel or "mean",
                audio=source.has_audio and self.timing.has_audio,
                crop=place,
            )
        except InputError as error:
            raise UnreadableError(error.reason) from error
        except OSError as error:  # a disk that can't be read
            raise UnreadableError(f"it can't be read: {error.strerror or error}") from error
        except MemoryError as error:
            raise UnreadableError("there is not enough memory for its frames") from error

    def _check_finite(self, source: Source, tensors: dict[str, Tensor]) -> None:
        for stream, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise InputError(
                    f"the {stream} latents of {source.path} are not finite in {self.config.dtype}"
                    + (": choose --dtype float32" if self.config.dtype == "float16" else "")
                )


def encode_clips(codec: tuple[CodecConfig, Timing, Path | None], config: PrepareConfig, staging: StagingArea) -> Work:
    """Work for a pool that stages the missing crops of a clip, or a note of the reason why that is not possible.

    The bytes are the same in any process. The result is the number of frames that were encoded.
    """
    encoder = Encoder(Codec(*codec, device=device()), config)

    def work(source: Source, beat: Beat) -> int:
        frames = 0
        try:
            with one_thread():
                for crop in range(config.crops):
                    if not staging.has(source.split, source.name, crop):
                        record, tensors = encoder(source, crop, beat)
                        staging.write(source.split, record, tensors)
                        frames += record.entry.frames
        except UnreadableError as error:
            staging.mark_unusable(source.split, source.name, str(error))
        except torch.OutOfMemoryError as error:
            raise InputError(
                "the accelerator has too little memory: choose a smaller --batch or fewer --workers"
            ) from error
        return frames

    return work


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread and without denormal numbers, as both affect how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
