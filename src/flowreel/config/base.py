"""Configs as plain dictionaries and JSON, and the check that they share. Torch-free."""

from __future__ import annotations

import dataclasses
import math
import typing
from numbers import Integral, Real
from typing import Any, TypeVar

from flowreel.errors import InputError


def check(condition: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def check_scale(name: str, value: Any) -> None:
    """Raise :class:`InputError` unless the scale called ``name`` is a finite number of 0 or more."""
    usable = isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf
    check(usable, f"{name} must be a number of 0 or more, not {value!r}")


T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A plain dict (JSON-able) of a config; NumPy's numbers and fractions become Python's."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted ones: ``{"model": {"dim": 64}}`` is ``{"model.dim": 64}``."""
    dotted: dict[str, Any] = {}
    for name, value in values.items():
        dotted |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return dotted


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build the config ``cls`` from a plain dict, recursively; unknown keys are an :class:`InputError`."""
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(
            f"{where or cls.__name__}: unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    converted = {name: _convert(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in values.items()}
    try:
        return cls(**converted)
    except TypeError as error:
        raise InputError(f"{where or cls.__name__} is incomplete or has values of a wrong type: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    options = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)] if typing.get_args(hint) else []
    if dataclasses.is_dataclass(hint):
        options = [hint]
    if options and isinstance(value, dict):
        return from_dict(options[0], value, where)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value
