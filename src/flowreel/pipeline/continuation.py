"""Where a generation goes on from a clip that was given.

What is given is as it was filmed, what follows comes out of the codec. So that the change is not seen, the history goes
through the decoder first, and what the codec lost of the last given picture is added to what follows, less and less.
So that it does not click, the same is done with the sound, whose waves the codec does not keep in phase: what was lost
of it before the join is played backwards after it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from flowreel.codec import StreamDecoder
from flowreel.flow.types import Latents
from flowreel.media import Clip
from flowreel.pipeline.conditioning import Given

FADE = 0.4
"""Seconds in which the difference of the picture fades."""
SOUND_FADE = 0.02
"""The same of the sound."""


class Lost(NamedTuple):
    """What the codec lost of the last given frame: (H, W, 3), and backwards (S,), from the join on."""

    picture: np.ndarray
    sound: np.ndarray


class Seam:
    """A decoder of B samples in step that go on from a clip: takes and gives what they generate, as a
    :class:`StreamDecoder` does.

    Args:
        decoder: to which nothing was pushed yet.
        given: with a prefix.
    """

    def __init__(self, decoder: StreamDecoder, given: Given) -> None:
        self._decoder, self._given = decoder, given
        self._history, _ = given.window(0, given.prefix)  # until the decoder has it
        self._left = given.prefix  # frames of history that have not come out of the decoder yet
        self._lost: list[Lost | None] = []  # per sample
        self._mended = 0  # generated frames so far

    def push(self, latents: Latents) -> list[Clip]:
        """Model latents (B, k, ...) -> one clip per sample of all that is final now, or an empty list."""
        return self.mend(self._decoder.push(self.before(latents)))

    def finish(self) -> list[Clip]:
        """What still waited, or an empty list."""
        return self.mend(self._decoder.finish())

    def before(self, latents: Latents) -> Latents:
        """What the decoder is to have next: ``latents`` (B, k, ...), the first time after the history."""
        history, self._history = self._history, {}
        expanded = {k: v.to(latents[k]).expand(self._decoder.batch, *v.shape[1:]) for k, v in history.items()}
        return {k: torch.cat([expanded[k], v], dim=1) for k, v in latents.items()} if history else latents

    def mend(self, chunks: list[Clip]) -> list[Clip]:
        """One clip per sample as the decoder gives them -> what of them is generated, mended; perhaps an empty list."""
        if not chunks:
            return []
        if self._left:
            chunks = self._without_history(chunks)
        clips = [self._faded(clip, lost) for clip, lost in zip(chunks, self._lost, strict=True)] if chunks else []
        self._mended += len(clips[0].frames) if clips else 0
        return clips

    def _without_history(self, chunks: list[Clip]) -> list[Clip]:
        """What is left of ``chunks`` when as much history is taken from them as they hold; at its end it is known what
        the codec lost."""
        count = min(self._left, len(chunks[0].frames))
        pairs = [chunk.cut(count, self._given.prefix - self._left) for chunk in chunks]
        self._left -= count
        if not self._left:
            for sample, (history, _) in enumerate(pairs):
                last = self._given.last_frame(sample)
                self._lost.append(None if last is None else _lost(last, history))
        return [rest for _, rest in pairs if rest is not None]

    def _faded(self, clip: Clip, lost: Lost | None) -> Clip:
        fade = round(FADE * clip.fps)
        places = np.arange(self._mended, min(fade, self._mended + len(clip.frames)))
        if lost is None or not len(places):
            return clip
        share = (1 - (places + 1) / (fade + 1)).astype(np.float32)[:, None, None, None]
        frames = clip.frames.copy()
        frames[: len(places)] = (frames[: len(places)] + share * lost.picture).round().clip(0, 255)
        audio = clip.audio
        if audio is not None and not self._mended:
            count = min(len(lost.sound), len(audio), round(SOUND_FADE * clip.sample_rate))
            falling = np.linspace(1, 0, count, endpoint=False, dtype=np.float32)
            audio = np.concatenate([(audio[:count] + falling * lost.sound[:count]).clip(-1, 1), audio[count:]])
        return replace(clip, frames=frames, audio=audio)


def _lost(last: Clip, history: Clip) -> Lost:
    """``last``: the last given frame; ``history``: what the decoder gives up to it."""
    sound = np.zeros(0, np.float32)
    if last.audio is not None and history.audio is not None and 0 < len(last.audio) <= len(history.audio):
        sound = (last.audio - history.audio[-len(last.audio) :])[::-1]
    return Lost(last.frames[-1].astype(np.float32) - history.frames[-1], sound)
