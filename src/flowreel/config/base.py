"""What all configs share: checks, ranges, plain dictionaries, and older names of settings."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

from flowreel.errors import InputError

RENAMED = {"wear": "degrade", "given_guidance": "conditioned_guidance"}
"""Names of settings in folders of version 0.7.0 and before, and what they are called now."""

DROPPED = {"eps": 1e-8, "progress": "uniform", "stride": 1, "limit": 0, "nonfinite": None, "kernels": None}
DROPPED |= {"sharding": "none", "checkpointing": None}
"""Settings of folders of version 0.7.0 and before that are gone, and the only value that is still understood (None is
any)."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have: from ``least`` to ``most``, excluded with ``above`` and ``below``."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.least if self.above else value >= self.least
        return low and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        low = f"above {self.least:g}" if self.above else f"at least {self.least:g}"
        if self.most == math.inf:
            return f"a number of {self.least:g} or more" if self.below else low
        return f"{low} and {'below' if self.below else 'at most'} {self.most:g}"


_COUNT, _POSITIVE, _NATURAL, _SHARE = Range(1), Range(0, above=True), Range(0), Range(0, 1)
_BELOW_ONE, _SCALE = Range(0, 1, below=True), Range(0, math.inf, below=True)

RANGES = {
    **dict.fromkeys(("steps", "batch", "log", "save", "keep", "accumulate", "count", "frames", "crops"), _COUNT),
    **dict.fromkeys(("shard_mb", "codec_steps", "segment", "width", "channels", "depth", "dim", "heads"), _COUNT),
    **dict.fromkeys(("patch", "sample_rate", "n_fft", "win_length", "hop", "bins", "window", "discriminator"), _COUNT),
    **dict.fromkeys(("points", "layers", "warmup_steps", "block"), _COUNT),
    **dict.fromkeys(("lr", "fps", "seconds", "power"), _POSITIVE),
    **dict.fromkeys(("preview", "validate", "seed", "workers", "validation", "max_viewers", "bands"), _NATURAL),
    **dict.fromkeys(("spectrum_weight", "mel_weight", "frequency_weight", "feature_weight"), _NATURAL),
    **dict.fromkeys(("disturbance", "exercises"), _NATURAL),
    **dict.fromkeys(("weight_decay", "clip", "adversarial", "adversarial_start", "kl"), _NATURAL),
    **dict.fromkeys(("guidance", "gradient_scale", "lookahead", "context"), _SCALE),
    **dict.fromkeys(("class_dropout", "degrade", "final", "flip", "cut", "peak"), _SHARE),
    **dict.fromkeys(("beta1", "beta2", "decay", "drop_path", "test"), _BELOW_ONE),
    "port": Range(0, 65535),
}
"""The range of every number that has one, by the name of its setting; it has the same wherever it is a setting."""


def check(condition: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def check_scale(name: str, value: Any) -> None:
    """Raise :class:`InputError` unless the scale called ``name`` is a finite number of 0 or more."""
    check(_fits(value, _SCALE), f"{name} must be {_SCALE}, not {value!r}")


def _fits(value: Any, allowed: Range) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and float(value) in allowed


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise :class:`InputError` where a field is none of its ``Literal``'s choices, or outside of its range.

    Args:
        prefix: what messages put before a field's name: "--" of a command, or a section such as "optim.".
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if value is None:
            continue
        choices = [choice for part in (hint, *typing.get_args(hint)) for choice in _choices(part)]
        if choices:
            check(value in choices, f"{prefix}{name} must be one of {', '.join(map(str, choices))}, not {value!r}")
        if name in RANGES and hint is not bool:
            numbers = value if isinstance(value, tuple) else (value,)
            fits = all(_fits(number, RANGES[name]) for number in numbers)
            check(fits, f"{prefix}{name} must be {RANGES[name]}, not {value!r}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


HIDDEN = {"hidden": True}
"""Metadata of a field that is no option of a command: published checkpoints need it, or it follows from others."""


def hidden(default: Any) -> Any:
    """A field with this default that is no option of a command."""
    return field(default=default, metadata=HIDDEN)


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
    hints, values = typing.get_type_hints(cls), _renamed(values)
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    gone = {name: value for name, value in values.items() if name in DROPPED and name not in known}
    for name, value in gone.items():
        check(
            DROPPED[name] in (None, value),
            f"{where or cls.__name__} has {name} {value!r}, which flowreel 0.8 and later don't have: "
            "use the version that wrote it",
        )
    values = {name: value for name, value in values.items() if name not in gone}
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


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one config by the names that they have now."""
    if values.get("kind") == "none" and "decay" in values:  # of the moving average, before a decay of 0 said so
        values = {**values, "kind": "power", "decay": 0.0}
    return {RENAMED.get(name, name): value for name, value in values.items()}


def _convert(hint: Any, value: Any, where: str) -> Any:
    options = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)] if typing.get_args(hint) else []
    if dataclasses.is_dataclass(hint):
        options = [hint]
    if options and isinstance(value, dict):
        return from_dict(options[0], value, where)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value
