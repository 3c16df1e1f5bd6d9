"""Loads vocoders, which turn log-mel into audio, and streams any of them.

Shapes: B batch, M mel bins, N mel steps, ``hop`` samples per mel step.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from flowreel.codec import folder as weights
from flowreel.codec.griffin_lim import GriffinLim
from flowreel.codec.hifigan import PUBLISHED_WEIGHTS, HiFiGAN, VocoderConfig, fuse_weight_norm, read_published_weights
from flowreel.codec.sinusoids import SinusoidalVocoder, SinusoidsConfig
from flowreel.config import MelConfig
from flowreel.errors import InputError
from flowreel.utils.tensors import load_tensors

Vocoder: TypeAlias = HiFiGAN | SinusoidalVocoder
"""A trained one: what has a folder."""


class StreamingVocoder:
    """A vocoder chunk by chunk, in constant memory: what :meth:`push` and :meth:`finish` give, put together, is the
    audio of the whole. For a trained one it equals the forward pass on the whole to float precision, and costs
    hardly more."""

    def __init__(self, vocoder: Vocoder | GriffinLim, batch: int) -> None:
        self.batch = batch
        self._advance = vocoder.stream()
        self._rest: Tensor | None = None  # no mel steps, of the shape, type and device of those pushed
        self._finished = False

    def push(self, log_mel: Tensor) -> Tensor:
        """Take k more mel steps, (B, M, k), and give all samples that no later step can change: (B, n), n may be 0."""
        if self._finished:
            raise InputError("this stream is finished: start another one")
        if log_mel.ndim != 3 or log_mel.shape[0] != self.batch:
            raise InputError(
                f"the stream was started for a batch of {self.batch}, not for shape {tuple(log_mel.shape)}"
            )
        self._rest = log_mel[..., :0].clone()
        return self._advance(log_mel, False).float()

    def finish(self) -> Tensor:
        """The samples that were still waiting, (B, n), n may be 0. Nothing can be pushed after it."""
        self._finished = True
        if self._rest is None:
            return torch.zeros(self.batch, 0)
        return self._advance(self._rest, True).float()


def kind_of(folder: str | Path) -> Literal["hifigan", "sinusoids"]:
    """Which vocoder is in ``folder``, by its ``config.json``: a published HiFi-GAN's names no kind."""
    kind = weights.read_config(Path(folder)).get("kind", "hifigan")
    if kind not in ("hifigan", "sinusoids"):
        raise InputError(f"{Path(folder) / weights.CONFIG} is of kind {kind!r}: known are hifigan and sinusoids")
    return kind


def load(folder: str | Path) -> Vocoder:
    """A vocoder in evaluation mode from ``config.json`` beside ``model.safetensors`` (ours) or ``vocoder.pt`` (as
    R-FLAV publishes it, weight norm fused while loading). Raises InputError for a folder that is neither."""
    folder = Path(folder)
    values, where = weights.read_config(folder), folder / weights.CONFIG
    vocoder: Vocoder
    if kind_of(folder) == "sinusoids":
        vocoder = SinusoidalVocoder(SinusoidsConfig.from_json(values, where))
    else:
        vocoder = HiFiGAN(VocoderConfig.from_json(values, where))
    ours, published = folder / weights.WEIGHTS, folder / PUBLISHED_WEIGHTS
    if ours.is_file():
        weights.fill(vocoder, load_tensors(ours), ours)
    elif published.is_file():
        weights.fill(vocoder, fuse_weight_norm(read_published_weights(published), str(published)), published)
    else:
        raise InputError(f"{folder} has neither {weights.WEIGHTS} nor {PUBLISHED_WEIGHTS}")
    return vocoder.eval()


def load_for(folder: str | Path, mel: MelConfig) -> Vocoder:
    """:func:`load` of a vocoder for the log-mel ``mel``; :class:`InputError` unless it was made
    for just that."""
    vocoder = load(folder)
    if (vocoder.config.num_mels, vocoder.hop) != (mel.bins, mel.hop):
        raise InputError(
            f"the vocoder {folder} takes {vocoder.config.num_mels} mel bins with hop {vocoder.hop}, but the log-mel "
            f"has {mel.bins} with hop {mel.hop}: give one that was made for it"
        )
    if (own := vocoder.config.mel) and own != dataclasses.replace(mel, ceiling=own.ceiling):
        raise InputError(f"the vocoder {folder} was trained on {own}, not on {mel}: train one on that log-mel")
    return vocoder
