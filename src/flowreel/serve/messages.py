"""What viewers may ask for: messages and parameters, checked before anything is done with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowreel.config import PipelineConfig
from flowreel.errors import InputError
from flowreel.pipeline.resolve import class_index
from flowreel.serve.errors import Refused
from flowreel.serve.live_stream import Wish

SEED_LIMIT = 2**31
ROLES = ("prefix", "audio", "video")
MOST_STEPS = 32
MOST_WINDOWS = 4
"""Trained windows that a viewer's may be long."""
MOST_GUIDANCE = 20.0
LONGEST_NAME = 200


@dataclass(frozen=True)
class Played:
    """The playhead is at ``time`` seconds."""

    time: float


@dataclass(frozen=True)
class Steer:
    """Another class or guidance, while it rolls."""

    label: str | None
    guidance: float | None


@dataclass(frozen=True)
class Restart:
    """Begin again; what is None stays."""

    wish: Wish


@dataclass(frozen=True)
class Pause:
    paused: bool


@dataclass(frozen=True)
class Use:
    """Go on from an uploaded clip, or to it."""

    media: str
    role: str


Message = Played | Steer | Restart | Pause | Use


def message(text: str, config: PipelineConfig) -> Message:
    """One message of a viewer.

    Raises:
        Refused: it is not one of those that there are.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "a message must be JSON") from error
    if not isinstance(values, dict):
        raise Refused(400, f"a message must be a JSON object, not {type(values).__name__}")
    kind = values.pop("type", None)
    known = {"played": ("time",), "steer": ("label", "guidance"), "pause": ("paused",), "use": ("media", "as")}
    known["restart"] = ("label", "seed", "guidance", "steps", "window")
    if not isinstance(kind, str) or kind not in known:
        raise Refused(400, f"type must be one of {', '.join(sorted(known))}")
    if unknown := set(values) - set(known[kind]):
        raise Refused(400, f"{kind} has no {_short(sorted(unknown)[0])}; it has {', '.join(known[kind])}")
    if kind == "played":
        return Played(_number(values, "time", 0, 1e9, needed=True) or 0.0)
    if kind == "pause":
        if not isinstance(values.get("paused"), bool):
            raise Refused(400, "paused must be true or false")
        return Pause(values["paused"])
    if kind == "use":
        media, role = values.get("media"), values.get("as")
        if not isinstance(media, str) or len(media) > LONGEST_NAME or role not in ROLES:
            raise Refused(400, f"use needs media, the id of an upload, and as, one of {', '.join(ROLES)}")
        return Use(media, role)
    wish = wished(values, config)
    if kind == "restart":
        return Restart(wish)
    if wish.label is None and wish.guidance is None:
        raise Refused(400, "steer needs a label or a guidance")
    return Steer(wish.label, wish.guidance)


def wished(values: Mapping[str, Any], config: PipelineConfig) -> Wish:
    """Label, seed, guidance, steps and window out of JSON or of a query's text, each None where it is not there.

    Raises:
        Refused: one of them can't be.
    """
    label = values.get("label")
    if label is not None:
        if isinstance(label, bool) or not isinstance(label, str | int) or len(str(label)[:300]) > LONGEST_NAME:
            raise Refused(400, "label must be the name of a class, or its index")
        try:
            label = config.classes[class_index(label, config)]
        except InputError as error:
            raise Refused(400, _short(str(error), 400)) from error
    guidance = _number(values, "guidance", 0, MOST_GUIDANCE)
    seed, steps = _whole(values, "seed", 0, SEED_LIMIT - 1), _whole(values, "steps", 1, MOST_STEPS)
    window = _whole(values, "window", 1, MOST_WINDOWS * config.trained.window)
    wish = Wish(label, seed, guidance, steps, window)
    try:
        wish.resolved(config)
    except InputError as error:
        raise Refused(400, _short(str(error), 400)) from error
    return wish


def seconds(values: Mapping[str, Any], longest: float) -> float | None:
    """How long a clip is to be, or None for the usual length.

    Raises:
        Refused: it can't be so long.
    """
    return _number(values, "seconds", 0.01, longest)


def _number(values: Mapping[str, Any], name: str, least: float, most: float, needed: bool = False) -> float | None:
    value = values.get(name)
    if value is None and not needed:
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(400, f"{name} must be a number from {least:g} to {most:g}")
    if not (isinstance(value, int) or math.isfinite(value)) or not least <= value <= most:
        raise Refused(400, f"{name} must be a number from {least:g} to {most:g}")
    return float(value)


def _whole(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    number = _number(values, name, least, most)
    if number is not None and number != int(number):
        raise Refused(400, f"{name} must be a whole number from {least} to {most}")
    return None if number is None else int(number)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
