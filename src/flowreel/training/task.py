"""What differs between training a flow, a codec and a vocoder, and the seeds that they all draw from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from flowreel.flow.noise import sample_seed

Batch: TypeAlias = dict[str, Tensor]

# What random numbers are for goes into their seed, so that the noise of a sample and its times never share theirs.
WEIGHTS, NETWORK, NOISE, ROLE = 0, 1, 2, 3


def purpose_seed(seed: int, purpose: int, n: int) -> int:
    """The seed of position ``n`` of a run for one of the purposes above."""
    return sample_seed(sample_seed(seed, purpose), n)


def device_of(module: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(module.parameters()).device


class Task(Protocol):
    """One kind of training, as :func:`flowreel.training.loop.fit` calls it.

    Attributes:
        module: everything that is trained.
        averaged: the part of it that the moving average follows; validation, previews and exports get a copy of it.
        players: names of the submodules of ``module`` that are trained against each other, in the order of their turns
            in a step, each with an optimizer of its own. Nothing where there is one loss for all.
        data: JSON-able facts about the data that must be the same when a run goes on.
    """

    module: nn.Module
    averaged: nn.Module
    players: tuple[str, ...]
    data: dict[str, Any]

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's micro-batches from step ``start`` on; ``"clip"`` (B,) are the numbers of their clips. The loop
        adds ``"step"``, the number of steps done."""

    def losses(self, module: nn.Module, batch: Batch, player: str = "") -> dict[str, Tensor]:
        """Scalars, each a mean over the micro-batch's samples; their sum is what ``player`` minimises, and no other's
        weights require gradients. Names are unique over all players; nothing at all means that this one sits out.
        ``module`` is ``self.module``, wrapped: call it, take nothing else from it."""

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Measures of the averaged weights in ``module`` on clips that are not trained on, the same every time; nothing
        where there are none."""

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        """Write pictures or clips made with the averaged weights in ``module`` into ``folder``."""

    def export(self, module: nn.Module, folder: Path, step: int) -> None:
        """Write what the run is for, with the averaged weights, into ``folder``."""
