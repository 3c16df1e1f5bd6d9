"""flowreel: flow-matching models of video with synchronised sound, trained on your own clips.

>>> import flowreel
>>> pipe = flowreel.load("run")                      # a folder made by `flowreel train`
>>> pipe.generate(seconds=4, seed=1).save("clip.mp4")

The names below load at first use, so that ``import flowreel`` does not import torch. Import flowreel before
torch: see :func:`flowreel.utils.runtime.sleep_soon`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowreel.utils.lazy import attributes
from flowreel.utils.runtime import sleep_soon

__version__ = "0.8.0"
__all__ = ["Clip", "Pipeline", "__version__", "load"]

if TYPE_CHECKING:
    from flowreel.media import Clip
    from flowreel.pipeline.loading import load
    from flowreel.pipeline.pipeline import Pipeline

__getattr__ = attributes(
    __name__,
    {"Clip": "flowreel.media.clip", "Pipeline": "flowreel.pipeline.pipeline", "load": "flowreel.pipeline.loading"},
)

sleep_soon()
