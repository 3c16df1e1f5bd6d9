"""Griffin-Lim with the interface of a vocoder, for where there is no trained one.

Shapes: B batch, M mel bins, N mel steps, K linear frequencies, ``hop`` samples per mel step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowreel.codec import mel
from flowreel.config import MelConfig

Stream = Callable[[Tensor, bool], Tensor]
"""``stream(log_mel (B, M, k), last)``: takes k more mel steps, gives all samples that are final, (B, n)."""


class GriffinLim(nn.Module):
    """Griffin-Lim with the face of a vocoder: no weights, deterministic, the same for every sample of a batch.

    In a stream it works in blocks of ``block`` mel steps, whatever the chunks that are pushed. The audio that came out
    already stays fixed and steers the phases of the next block; the join is a crossfade of two estimates that agree in
    phase. Chunking therefore changes nothing, but the stream is another solution than :meth:`forward` on the whole.
    """

    def __init__(self, config: MelConfig, iterations: int = 32, seed: int = 0, block: int = 10) -> None:
        super().__init__()
        self.config, self.iterations, self.seed, self.block = config, iterations, seed, block

    @property
    def hop(self) -> int:
        """Samples per mel step."""
        return self.config.hop

    @property
    def context(self) -> tuple[int, int]:
        """Mel steps before and after a block that its window looks at: what one STFT window overlaps, and one more."""
        steps = math.ceil(self.config.win_length / self.config.hop) + 1
        return steps, steps

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel (B, M, N) -> (B, N * hop), all steps at once."""
        return mel.griffin_lim(log_mel, self.config, self.iterations, self.seed)

    def stream(self) -> Stream:
        """For ``StreamingVocoder``: one block after the other, each steered by the audio before it."""
        return Blocks(self)


class Blocks:
    """Cuts a stream into blocks of one size, but for the last, each rendered in a window of its neighbours."""

    def __init__(self, settings: GriffinLim) -> None:
        self._block, (self._before, self._after) = settings.block, settings.context
        self._render = SteeredGriffinLim(settings)
        self._window: Tensor | None = None  # history that is still in sight, then what waits
        self._done = 0  # steps of the window that are history

    def __call__(self, log_mel: Tensor, last: bool) -> Tensor:
        window = log_mel if self._window is None else torch.cat((self._window, log_mel), -1)
        pieces = [window.new_zeros(len(window), 0)]
        while (ready := window.shape[-1] - self._done - (0 if last else self._after)) > 0:
            if ready < self._block and not last:
                break
            stop = self._done + min(self._block, ready)
            # Always the same look ahead, so that a block's audio does not depend on how much was pushed at once.
            pieces.append(self._render(window[..., : stop + self._after], self._done, stop))
            drop = max(0, stop - self._before)
            window, self._done = window[..., drop:], stop - drop
        self._window = window.clone()
        return torch.cat(pieces, 1)


class SteeredGriffinLim:
    """Renders windows that follow each other: ``(window (B, M, n), start, stop)`` -> the samples of the window's steps
    start .. stop, (B, (stop - start) * hop)."""

    def __init__(self, settings: GriffinLim) -> None:
        self._settings = settings
        self._blocks = 0
        self._known: Tensor | None = None  # (B, n): the audio of the window's history
        self._ahead: Tensor | None = None  # (B, n): the first estimate of what comes next
        self._magnitude: Tensor | None = None  # (B, K, n): of the last window
        self._stop = 0  # where the last window's block ended in it

    def __call__(self, window: Tensor, start: int, stop: int) -> Tensor:
        config, settings = self._settings.config, self._settings
        hop, before = config.hop, settings.context[0]
        magnitude = self._continue_magnitude(window, start)
        phase = mel.random_phase(magnitude, settings.seed + self._blocks)
        if self._known is not None and self._ahead is not None:
            phase = self._continue_phase(phase, torch.cat((self._known, self._ahead), 1))
        audio = mel.find_phase(magnitude, phase, config, settings.iterations, self._known)
        new = audio[:, start * hop : stop * hop]
        if self._ahead is not None:
            new = _crossfade(self._ahead, new, hop * before // 2)
        history = new if self._known is None else torch.cat((self._known, new), 1)
        self._known, self._ahead = history[:, -before * hop :], audio[:, stop * hop :]
        self._magnitude, self._stop = magnitude, stop
        self._blocks += 1
        return new

    def _continue_magnitude(self, window: Tensor, start: int) -> Tensor:
        """Find the magnitudes of the steps that the last window did not hold."""
        if self._magnitude is None:
            return mel.linear_magnitude(window, self._settings.config)
        seen = self._magnitude[..., self._stop - start :]
        unseen = window[..., seen.shape[-1] :]
        return torch.cat((seen, mel.linear_magnitude(unseen, self._settings.config)), -1)

    def _continue_phase(self, phase: Tensor, audio: Tensor) -> Tensor:
        """Take the phases of the steps that the audio so far reaches into from it."""
        config, steps = self._settings.config, phase.shape[-1]
        reached = min(steps, audio.shape[1] // config.hop + config.win_length // (2 * config.hop))
        padded = F.pad(audio, (0, max(0, steps * config.hop - audio.shape[1])))
        return torch.cat((mel.stft(padded, config)[..., :reached], phase[..., reached:]), -1)


def _crossfade(old: Tensor, new: Tensor, samples: int) -> Tensor:
    """``new`` (B, n), its beginning faded over from ``old``."""
    samples = min(samples, old.shape[1], new.shape[1])
    share = (1 - torch.cos(torch.linspace(0, math.pi, samples + 2, device=new.device)[1:-1])) / 2
    return torch.cat((old[:, :samples] * (1 - share) + new[:, :samples] * share, new[:, samples:]), 1)
