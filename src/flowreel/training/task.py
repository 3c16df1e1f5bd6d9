"""The interface of a training task (flow, autoencoder, vocoder), and the seeds of their random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from flowreel.flow.noise import sample_seed

Batch: TypeAlias = dict[str, Tensor]

# The purpose of random numbers is part of their seed, so that the noise of a sample and its times never share one.
WEIGHTS, NETWORK, NOISE, ROLE = 0, 1, 2, 3


def purpose_seed(seed: int, purpose: int, n: int) -> int:
    """The seed of sample ``n`` of a run for one of the purposes above."""
    return sample_seed(sample_seed(seed, purpose), n)


def device_of(module: nn.Module) -> torch.device:
    """The device of its weights."""
    return next(module.parameters()).device


class Task(Protocol):
    """One kind of training, as :func:`flowreel.training.loop.fit` calls it.

    Attributes:
        kind: names the kind of run in its saved state.
        module: everything that is trained.
        averaged: the part of it that the moving average follows; validation, previews and exports get a copy of it.
        networks: the adversarial networks, as names of submodules of ``module`` in update order, each with an optimizer
            of its own. Empty where one loss trains everything.
        loss_names: the names of all losses, in the order of their columns in ``loss.csv``.
        data: JSON-able facts about the data that must be the same when a run is resumed.
    """

    kind: str
    module: nn.Module
    averaged: nn.Module
    networks: tuple[str, ...]
    loss_names: tuple[str, ...]
    data: dict[str, Any]

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's micro-batches from step ``start`` on; ``"clip"`` (B,) holds the numbers of their clips. The
        trainer adds ``"step"``, the number of steps done."""

    def losses(self, module: nn.Module, batch: Batch, network: str = "") -> dict[str, Tensor]:
        """The losses whose sum ``network`` minimises: scalars, each a mean over the micro-batch.

        Only its weights require gradients. Names are unique over all networks; an empty dict skips this network's
        update. ``module`` is ``self.module``, perhaps wrapped for distributed training: only call it.
        """

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Measures of the averaged weights in ``module`` on held-out clips, deterministic; empty where there are no
        such clips."""

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        """Write images or clips made with the averaged weights in ``module`` into ``folder``."""

    def export(self, module: nn.Module, folder: Path, step: int) -> None:
        """Write the result of the run, with the averaged weights in ``module``, into ``folder``."""
