"""flowreel: flow-matching models of video with synchronised sound, trained on your own clips.

>>> import flowreel
>>> pipe = flowreel.load("run")                      # a folder made by `flowreel train`
>>> pipe.generate(seconds=4, seed=1).save("clip.mp4")

The names below load at first use, so that ``import flowreel`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.6.0"
__all__ = ["Clip", "Pipeline", "__version__", "load"]

if TYPE_CHECKING:
    from flowreel.loading import load
    from flowreel.media import Clip
    from flowreel.pipeline import Pipeline

_HOMES = {
    "Clip": "flowreel.media",
    "Pipeline": "flowreel.pipeline",
    "load": "flowreel.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowreel' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
