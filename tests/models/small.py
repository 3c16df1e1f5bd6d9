"""Small networks and their inputs."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flowreel.config import LatentShape, ModelConfig
from flowreel.flow.types import Latents, Times
from flowreel.models import Network, build

CLASSES = 3
WINDOW = 4
SHAPE = LatentShape(channels=4, height=4, width=6, mel_bins=8, mel_steps=5, fps=10)
"""Not square."""
VIDEO = LatentShape(channels=4, height=4, width=6, fps=10)

M = TypeVar("M", bound=nn.Module)


def flav(shape: LatentShape = SHAPE, classes: int = CLASSES, window: int = WINDOW, **config: Any) -> Network:
    config = {"dim": 32, "depth": 2, "heads": 2, "patch": 2, **config}
    torch.manual_seed(2)
    return randomised(build(ModelConfig(kind="flav", **config), shape, classes, window)).eval()


def flowfield(shape: LatentShape = VIDEO, classes: int = CLASSES, window: int = WINDOW, **config: Any) -> Network:
    config = {"dim": 32, "depth": 2, "heads": 2, "patch": 2, "positions": "sincos", **config}
    torch.manual_seed(2)
    return randomised(build(ModelConfig(kind="flowfield", **config), shape, classes, window)).eval()


def randomised(model: M) -> M:
    """All weights drawn, also those that begin at zero, so that every path through the network counts."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.2
            parameter.add_(torch.randn(parameter.shape, generator=g) * scale)
    return model


def inputs(shape: LatentShape = SHAPE, batch: int = 2, frames: int = WINDOW, seed: int = 0) -> tuple[Latents, Times]:
    g = torch.Generator().manual_seed(seed)
    x = {k: torch.randn(batch, frames, *size, generator=g) for k, size in shape.streams.items()}
    return x, {k: torch.rand(batch, frames, generator=g) for k in x}


def labels(batch: int = 2) -> Tensor:
    return torch.arange(batch) % CLASSES
