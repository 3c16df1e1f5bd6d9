"""Where a generation goes on from a clip that was given.

What is given is as it was filmed, what follows comes out of the codec. So that the change does not show, the history
goes through the decoder first (the sound has what came before it), and what the codec lost of the last given frame is
added to what follows, less and less.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from flowreel.flow.types import Latents
from flowreel.given import Given
from flowreel.media import Clip

FADE = 0.4
"""Seconds in which the difference fades."""


class Seam:
    """Of B samples in step: what comes out of the decoder, from the first generated frame on.

    Args:
        given: with a prefix.
    """

    def __init__(self, given: Given, batch: int) -> None:
        self._given, self._batch = given, batch
        self._history, _ = given.window(0, given.prefix)  # until the decoder has it
        self._left = given.prefix  # frames of history that have not come out of the decoder yet
        self._lost: list[np.ndarray | None] = []  # (H, W, 3) per sample
        self._mended = 0  # generated frames so far

    def before(self, latents: Latents) -> Latents:
        """What the decoder is to have next: ``latents`` (B, k, ...), the first time after the history."""
        history, self._history = self._history, {}
        expanded = {k: v.to(latents[k]).expand(self._batch, *v.shape[1:]) for k, v in history.items()}
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
                self._lost.append(None if last is None else last.astype(np.float32) - history.frames[-1])
        return [rest for _, rest in pairs if rest is not None]

    def _faded(self, clip: Clip, lost: np.ndarray | None) -> Clip:
        fade = round(FADE * clip.fps)
        places = np.arange(self._mended, min(fade, self._mended + len(clip.frames)))
        if lost is None or not len(places):
            return clip
        share = (1 - (places + 1) / (fade + 1)).astype(np.float32)[:, None, None, None]
        frames = clip.frames.copy()
        frames[: len(places)] = (frames[: len(places)] + share * lost).round().clip(0, 255)
        return replace(clip, frames=frames)
