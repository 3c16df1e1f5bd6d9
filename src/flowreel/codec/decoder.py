"""Decodes model latents to clips chunk by chunk: a frame waits until its audio is final.

Shape legend: B batch, k frames of one push, C channels, h w rows and columns of latents, M mel bins, F mel steps per
video frame, S samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flowreel.codec.vocoder import StreamingVocoder
from flowreel.errors import InputError
from flowreel.flow.types import Latents
from flowreel.media import Clip

if TYPE_CHECKING:
    from flowreel.codec.codec import Codec


class StreamDecoder:
    """Decodes model latents that follow each other, in constant memory. Made by ``Codec.decoder``.

    What comes out, joined, is what decoding everything together gives, however it is cut.
    """

    def __init__(self, codec: Codec, batch: int) -> None:
        self.codec, self.batch = codec, batch
        self._streams: set[str] | None = None  # of the first push
        self._finished = False
        self._sound: StreamingVocoder | None = None
        self._frames: list[np.ndarray] = []  # waiting, each (B, H, W, 3)
        self._samples = np.zeros((batch, 0), np.float32)  # final, of the waiting frames

    @torch.no_grad()
    def push(self, latents: Latents) -> list[Clip]:
        """Model latents (B, k, ...) of k frames -> one clip per sample of all that is final now, or an empty list.

        Clips have audio if the latents have the key "audio", which is the same for all pushes of a stream.

        Raises:
            InputError: another batch, mel steps that don't suit the clocks, or audio that this codec can't decode.
        """
        self._check(latents)
        stored = self.codec.from_model(latents)
        frames = self.codec.video.decode(stored["video"].flatten(0, 1)).unflatten(0, (self.batch, -1)).numpy()
        self._frames += list(frames.swapaxes(0, 1))
        if "audio" in stored:
            self._sound = self._sound or StreamingVocoder(self.codec.vocoder, self.batch)
            log_mel = stored["audio"].squeeze(2).transpose(1, 2).flatten(2)  # (B, k, 1, M, F) -> (B, M, k * F)
            self._take(self._sound.push(log_mel.to(self.codec.device)))
        return self._ready()

    @torch.no_grad()
    def finish(self) -> list[Clip]:
        """What still waited, or an empty list; the decoder is used up."""
        self._finished = True
        if self._sound is not None:
            self._take(self._sound.finish())
        return self._ready()

    def _check(self, latents: Latents) -> None:
        if self._finished:
            raise InputError("this decoder is finished: start another one")
        self._streams = self._streams or set(latents)
        shapes = {name: tuple(stream.shape) for name, stream in latents.items()}
        if set(latents) != self._streams or "video" not in latents:
            raise InputError(f"this decoder takes {' and '.join(sorted(self._streams | {'video'}))}, not {shapes}")
        if any(shape[0] != self.batch or shape[1] != shapes["video"][1] for shape in shapes.values()):
            raise InputError(f"this decoder takes {self.batch} samples, as many frames of each stream, not {shapes}")
        steps = self.codec.timing.mel_steps
        if "audio" in latents and latents["audio"].shape[-1] != steps:
            raise InputError(
                f"the audio has {latents['audio'].shape[-1]} mel steps per frame, but the clocks say {steps}"
            )

    def _take(self, samples: Tensor) -> None:
        fresh = samples.float().clamp(-1, 1).cpu().numpy()
        self._samples = np.concatenate([self._samples, fresh], axis=1)

    def _ready(self) -> list[Clip]:
        timing, count = self.codec.timing, len(self._frames)
        if self._sound is not None:
            count = min(count, self._samples.shape[1] // timing.samples(1))
        if count == 0:
            return []
        frames, self._frames = np.stack(self._frames[:count], axis=1), self._frames[count:]
        audio: list[np.ndarray | None] = [None] * self.batch
        if self._sound is not None:
            length = timing.samples(count)
            audio = list(np.ascontiguousarray(self._samples[:, :length]))
            self._samples = self._samples[:, length:].copy()
        rate = timing.sample_rate or Clip.sample_rate
        return [Clip(images, samples, timing.fps, rate) for images, samples in zip(frames, audio, strict=True)]
