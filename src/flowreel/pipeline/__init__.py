"""Sampling: from the folder of a checkpoint to clips and endless streams.

Knows nothing of training or of prepared data. ``loading`` and ``published`` read checkpoints, ``conditioning``
encodes audio, video or a prefix, ``resolve`` checks the options, ``stream`` generates, ``generate`` is the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowreel.utils.lazy import attributes

if TYPE_CHECKING:
    from flowreel.pipeline.loading import load
    from flowreel.pipeline.pipeline import Pipeline

__all__ = ["Pipeline", "load"]

__getattr__ = attributes(__name__, {"Pipeline": "flowreel.pipeline.pipeline", "load": "flowreel.pipeline.loading"})
