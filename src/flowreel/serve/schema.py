"""Describes the server: an OpenAPI document and Prometheus text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from flowreel import __version__

METRICS = {
    "viewers": ("gauge", "viewers now"),
    "places": ("gauge", "viewers that there can be"),
    "frames": ("counter", "frames made"),
    "fragments": ("counter", "fragments made for viewers"),
    "sent_bytes": ("counter", "bytes of media sent"),
    "dropped_fragments": ("counter", "fragments that viewers of a broadcast were too slow for"),
    "refused": ("counter", "viewers and clips for which there was no place"),
    "clips": ("counter", "clips made on request"),
    "uploads": ("counter", "uploads read"),
    "speed": ("gauge", "real-time factor of the newest chunks"),
    "lead_seconds": ("gauge", "the longest lead of a generation over its viewer, which a change waits for"),
    "first_fragment_seconds": ("gauge", "from the newest viewer's connection to its first fragment"),
}


def prometheus(values: Mapping[str, float]) -> str:
    """The values by name, as Prometheus reads them."""
    lines = []
    for name, (kind, text) in METRICS.items():
        full = f"flowreel_{name}_total" if kind == "counter" else f"flowreel_{name}"
        full = full.replace("speed", "realtime_factor")
        lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", f"{full} {values[name]:.15g}"]
    return "\n".join([*lines, ""])


def openapi(name: str, classes: list[str], longest: float) -> dict[str, Any]:
    """The addresses that are for programs (OpenAPI 3.1). The WebSocket, which it can't describe, is in docs/live.md.

    Args:
        name: of the pipeline.
        classes: of the pipeline; empty where there are none.
        longest: seconds of a clip that may be asked for.
    """
    values = {"$title": f"flowreel: {name}", "$version": __version__, "$classes": classes, "$longest": longest}

    def filled(template: Any) -> Any:
        """The template with the values in their places; a choice of no classes is left out."""
        if isinstance(template, dict):
            return {key: filled(value) for key, value in template.items() if classes or value != "$classes"}
        if isinstance(template, list):
            return [filled(value) for value in template]
        return values.get(template, template) if isinstance(template, str) else template

    text = resources.files("flowreel.serve").joinpath("static", "openapi.json").read_text(encoding="utf-8")
    document: dict[str, Any] = filled(json.loads(text))
    return document
