"""Parses what viewers ask for: messages and parameters, checked before use."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowreel.config import PipelineConfig
from flowreel.errors import InputError
from flowreel.pipeline.resolve import class_index
from flowreel.serve.errors import RequestError
from flowreel.serve.live_stream import StreamRequest

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
    """Another class or guidance for the running stream."""

    label: str | None
    guidance: float | None


@dataclass(frozen=True)
class Restart:
    """Begin again; what is None stays."""

    wanted: StreamRequest


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
        RequestError: it is unknown.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "a message must be JSON") from error
    if not isinstance(values, dict):
        raise RequestError(400, f"a message must be a JSON object, not {type(values).__name__}")
    kind = values.pop("type", None)
    known = {"played": ("time",), "steer": ("label", "guidance"), "pause": ("paused",), "use": ("media", "as")}
    known["restart"] = ("label", "seed", "guidance", "steps", "window")
    if not isinstance(kind, str) or kind not in known:
        raise RequestError(400, f"type must be one of {', '.join(sorted(known))}")
    if unknown := set(values) - set(known[kind]):
        raise RequestError(400, f"{kind} has no {_short(sorted(unknown)[0])}; it has {', '.join(known[kind])}")
    if kind == "played":
        return Played(_number(values, "time", 0, 1e9, needed=True) or 0.0)
    if kind == "pause":
        if not isinstance(values.get("paused"), bool):
            raise RequestError(400, "paused must be true or false")
        return Pause(values["paused"])
    if kind == "use":
        media, role = values.get("media"), values.get("as")
        if not isinstance(media, str) or len(media) > LONGEST_NAME or role not in ROLES:
            raise RequestError(400, f"use needs media, the id of an upload, and as, one of {', '.join(ROLES)}")
        return Use(media, role)
    wanted = stream_request(values, config)
    if kind == "restart":
        return Restart(wanted)
    if wanted.label is None and wanted.guidance is None:
        raise RequestError(400, "steer needs a label or a guidance")
    return Steer(wanted.label, wanted.guidance)


def stream_request(values: Mapping[str, Any], config: PipelineConfig) -> StreamRequest:
    """Label, seed, guidance, steps and window out of JSON or of a query's text, each None where it is not there.

    Raises:
        RequestError: one of them can't be.
    """
    label = values.get("label")
    if label is not None:
        if isinstance(label, bool) or not isinstance(label, str | int) or len(str(label)[:300]) > LONGEST_NAME:
            raise RequestError(400, "label must be the name of a class, or its index")
        try:
            label = config.classes[class_index(label, config)]
        except InputError as error:
            raise RequestError(400, _short(str(error), 400)) from error
    guidance = _number(values, "guidance", 0, MOST_GUIDANCE)
    seed, steps = _whole(values, "seed", 0, SEED_LIMIT - 1), _whole(values, "steps", 1, MOST_STEPS)
    window = _whole(values, "window", 1, MOST_WINDOWS * config.trained.window)
    wanted = StreamRequest(label, seed, guidance, steps, window)
    try:
        wanted.resolved(config)
    except InputError as error:
        raise RequestError(400, _short(str(error), 400)) from error
    return wanted


def seconds(values: Mapping[str, Any], longest: float) -> float | None:
    """How long a clip is to be, or None for the usual length.

    Raises:
        RequestError: it is too long.
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
        raise RequestError(400, f"{name} must be a number from {least:g} to {most:g}")
    if not (isinstance(value, int) or math.isfinite(value)) or not least <= value <= most:
        raise RequestError(400, f"{name} must be a number from {least:g} to {most:g}")
    return float(value)


def _whole(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    number = _number(values, name, least, most)
    if number is not None and number != int(number):
        raise RequestError(400, f"{name} must be a whole number from {least} to {most}")
    return None if number is None else int(number)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
