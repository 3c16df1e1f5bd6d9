"""Continues a clip: primes the decoder with the history and blends the join.

Given frames are original pixels, generated ones codec reconstructions. To hide the transition, the codec residual of
the last given frame is faded out over the next 0.4 s. So that the audio does not click, the residual of its last
samples is played backwards after the join and faded out too: the codec does not keep the phase of waves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from flowreel.codec import StreamDecoder
from flowreel.flow.types import Latents
from flowreel.media import Clip
from flowreel.pipeline.conditioning import Conditioning

VIDEO_FADE = 0.4
"""Seconds in which the residual of the video fades."""
AUDIO_FADE = 0.02
"""Seconds in which the residual of the audio fades."""


class Residual(NamedTuple):
    """What the codec lost of the last given frame: (H, W, 3), and backwards (S,), from the join on."""

    frame: np.ndarray
    audio: np.ndarray


class ContinuationDecoder:
    """A :class:`StreamDecoder` of B samples that continue clips: it takes and gives the generated part alone.

    Args:
        decoder: to which nothing was pushed yet.
        conditioning: with a prefix.
    """

    def __init__(self, decoder: StreamDecoder, conditioning: Conditioning) -> None:
        self._decoder, self._conditioning = decoder, conditioning
        self._history, _ = conditioning.window(0, conditioning.prefix)  # until the decoder has it
        self._left = conditioning.prefix  # frames of history that have not come out of the decoder yet
        self._residuals: list[Residual | None] = []  # per sample
        self._made = 0  # generated frames so far

    def push(self, latents: Latents) -> list[Clip]:
        """Model latents (B, k, ...) -> one clip per sample of all that is final now, or an empty list."""
        if self._history:
            history = {k: v.to(latents[k]).expand(self._decoder.batch, *v.shape[1:]) for k, v in self._history.items()}
            latents = {k: torch.cat([history[k], v], dim=1) for k, v in latents.items()}
            self._history = {}
        return self._blended(self._decoder.push(latents))

    def finish(self) -> list[Clip]:
        """What still waited, or an empty list."""
        return self._blended(self._decoder.finish())

    def _blended(self, chunks: list[Clip]) -> list[Clip]:
        """Decoded chunks with the history removed and the residual blended in; may be empty."""
        if chunks and self._left:
            chunks = self._without_history(chunks)
        if not chunks:
            return []
        clips = [self._faded(clip, residual) for clip, residual in zip(chunks, self._residuals, strict=True)]
        self._made += len(clips[0].frames)
        return clips

    def _without_history(self, chunks: list[Clip]) -> list[Clip]:
        """What is left of ``chunks`` after the history in them; where it ends, the residuals are known."""
        count = min(self._left, len(chunks[0].frames))
        pairs = [chunk.cut(count, self._conditioning.prefix - self._left) for chunk in chunks]
        self._left -= count
        if not self._left:
            for sample, (history, _) in enumerate(pairs):
                last = self._conditioning.media_of(sample).last
                self._residuals.append(None if last is None else _residual(last, history))
        return [rest for _, rest in pairs if rest is not None]

    def _faded(self, clip: Clip, residual: Residual | None) -> Clip:
        fade = round(VIDEO_FADE * clip.fps)
        places = np.arange(self._made, min(fade, self._made + len(clip.frames)))
        if residual is None or not len(places):
            return clip
        share = (1 - (places + 1) / (fade + 1)).astype(np.float32)[:, None, None, None]
        frames = clip.frames.copy()
        frames[: len(places)] = (frames[: len(places)] + share * residual.frame).round().clip(0, 255)
        audio = clip.audio
        if audio is not None and not self._made:
            count = min(len(residual.audio), len(audio), round(AUDIO_FADE * clip.sample_rate))
            falling = np.linspace(1, 0, count, endpoint=False, dtype=np.float32)
            audio = np.concatenate([(audio[:count] + falling * residual.audio[:count]).clip(-1, 1), audio[count:]])
        return replace(clip, frames=frames, audio=audio)


def _residual(last: Clip, history: Clip) -> Residual:
    """``last``: the last given frame; ``history``: what the decoder gives up to it."""
    audio = np.zeros(0, np.float32)
    if last.audio is not None and history.audio is not None and 0 < len(last.audio) <= len(history.audio):
        audio = (last.audio - history.audio[-len(last.audio) :])[::-1]
    return Residual(last.frames[-1].astype(np.float32) - history.frames[-1], audio)
