"""Figures from clips, without pretrained weights and never from a model.

``events`` is what was found and what belongs together, ``audio_events`` and ``video_events`` find it. ``repeats``
leaves out frames that a file shows twice, ``synchrony`` counts, ``drift`` follows the figures along a stream,
``evaluate`` is ``flowreel synchrony``. Nothing here knows of torch.
"""

from flowreel.metrics.audio_events import find_audio_events
from flowreel.metrics.classifier import classify
from flowreel.metrics.drift import Drift, Span, drift
from flowreel.metrics.events import Found, match
from flowreel.metrics.synchrony import Events, Synchrony, compare, events_of, floor, pooled, synchrony
from flowreel.metrics.video_events import find_video_events

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
    "find_video_events",
    "pooled",
    "find_audio_events",
    "synchrony",
]
