"""The procedural world: clips whose events are known exactly, rendered from a seed.

``scenes`` defines what happens, ``canvas`` draws it, ``render`` makes clips and ``export`` writes them to a folder.
Knows clips and events; does not know latents, networks, or how events are found in a clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowreel.utils.lazy import attributes

if TYPE_CHECKING:
    from flowreel.world.render import World
    from flowreel.world.scenes import CLASSES, Event

__all__ = ["CLASSES", "Event", "World"]

__getattr__ = attributes(
    __name__,
    {
        "World": "flowreel.world.render",
        "CLASSES": "flowreel.world.scenes",
        "Event": "flowreel.world.scenes",
    },
)
