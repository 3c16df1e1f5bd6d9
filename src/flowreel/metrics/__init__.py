"""Figures of what was generated, without pretrained weights.

``events`` is what was found and what belongs together, ``sound`` and ``pictures`` find it, ``repeats`` leaves out
pictures that a file shows twice, ``synchrony`` counts, ``drift`` follows the figures along a stream, ``folder`` is
``flowreel synchrony``. Nothing here knows of torch.
"""

from flowreel.metrics.audio_events import sound_events
from flowreel.metrics.classifier import classify
from flowreel.metrics.drift import Drift, Span, drift
from flowreel.metrics.events import Found, match
from flowreel.metrics.synchrony import Events, Synchrony, compare, events_of, floor, pooled, synchrony
from flowreel.metrics.video_events import picture_events

__all__ = [
    "Drift",
    "Events",
    "Found",
    "Span",
    "Synchrony",
    "classify",
    "compare",
    "drift",
    "events_of",
    "floor",
    "match",
    "picture_events",
    "pooled",
    "sound_events",
    "synchrony",
]
