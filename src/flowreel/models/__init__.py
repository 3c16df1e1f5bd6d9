"""The two networks, built from their configs."""

from __future__ import annotations

from flowreel.config import LatentShape, ModelConfig
from flowreel.models.flav import FLAV
from flowreel.models.flowfield import FlowField
from flowreel.models.modulation_cache import CachedModulation
from flowreel.models.network import Network

__all__ = ["FLAV", "FlowField", "Network", "CachedModulation", "build"]


def build(config: ModelConfig, shape: LatentShape, num_classes: int, window: int) -> Network:
    """A network with fresh weights (drawn from torch's global generator).

    Args:
        config: what was chosen.
        shape: what the data says.
        num_classes: 0 for none.
        window: frames per window.
    """
    cls = FLAV if config.kind == "flav" else FlowField
    return cls(config, shape, num_classes, window)
