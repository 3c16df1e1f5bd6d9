"""The moving average of a network's weights, in float32.

The decay is a pure function of the number of steps done, so the averaged weights are its whole state.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from flowreel.config import EMAConfig
from flowreel.training.parallel import local


def decay(config: EMAConfig, step: int) -> float:
    """The decay of the update after ``step`` optimizer steps (1 or more), in [0, 1).

    ``power``: ``1 - (1 + step)^-power``, at most ``config.decay``: the average covers a constant share of a run
    of any length, and forgets the start. With ``config.decay`` 0 the average is the weights themselves.
    """
    if config.kind == "fixed":
        return config.decay
    return min(config.decay, 1 - (1 + step) ** -config.power)


class EMA:
    """The moving average of a network's weights, in ``module``: a float32 copy in evaluation mode."""

    def __init__(self, module: nn.Module, config: EMAConfig) -> None:
        self.config = config
        self.module = copy.deepcopy(module).float().eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Average in the weights of ``module`` after ``step`` optimizer steps. Buffers are copied."""
        weights = [local(weight.detach()).float() for weight in module.parameters()]
        own = [local(weight) for weight in self.module.parameters()]
        torch._foreach_lerp_(own, weights, 1 - decay(self.config, step))
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
