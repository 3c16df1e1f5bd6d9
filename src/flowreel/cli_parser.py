"""Reads the options of a command: the fields of a config dataclass, from the command line and from files.

Text is taken as it stands, also where YAML would read it as nothing or as a number.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import math
import re
import textwrap
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flowreel.config import flat, from_dict, to_dict
from flowreel.errors import InputError
from flowreel.utils.spelling import closest

_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NOTHING = ("null", "~")
_SIDES = int | tuple[int, int]
"""The type of a frame size: one side, or height and width."""


# --- types --------------------------------------------------------------------------------------------------------


def leaves(options: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> type of every option: a field of a config class, or of the classes within it."""
    found: dict[str, Any] = {}
    for name, hint in _shown(options).items():
        found |= leaves(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {f"{prefix}{name}": hint}
    return found


def sections(options: Any, prefix: str = "") -> list[str]:
    """Dotted names of the config classes within a config class."""
    inner = {n: h for n, h in _shown(options).items() if dataclasses.is_dataclass(h)}
    return [found for n, h in inner.items() for found in (prefix + n, *sections(h, f"{prefix}{n}."))]


def _shown(options: Any) -> dict[str, Any]:
    """Name -> type of the fields of a config class that are no hidden ones."""
    hints = typing.get_type_hints(options)
    return {f.name: hints[f.name] for f in dataclasses.fields(options) if not f.metadata.get("hidden")}


def documentation(options: Any, prefix: str = "") -> dict[str, str]:
    """Dotted name -> help line of every option: the string under its field, in its class or in one that it extends."""
    found: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        if dataclasses.is_dataclass(kind):
            found |= {f"{prefix}{name}": text for name, text in _strings_under_fields(kind).items()}
    for name, hint in _shown(options).items():
        if dataclasses.is_dataclass(hint):
            found |= documentation(hint, f"{prefix}{name}.")
    return {name: text for name, text in found.items() if name in leaves(options, prefix)}


def _strings_under_fields(kind: Any) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    found = {}
    for field, text in itertools.pairwise(definition.body):  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = str(ast.literal_eval(text.value))
    return found


def metavar(hint: Any) -> str:
    """How a value of this type is written, for the help."""
    if hint == _SIDES:
        return "SIDE|HEIGHT,WIDTH|WIDTHxHEIGHT"
    hint, _ = _optional(hint)
    if typing.get_origin(hint) is Literal:
        return "{" + ",".join(typing.get_args(hint)) + "}"
    if typing.get_origin(hint) is tuple:
        return f"{metavar(typing.get_args(hint)[0])},..."
    return {bool: "[{true,false}]", int: "INTEGER", float: "NUMBER"}.get(hint, "TEXT")


def written(value: Any) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (tuple, list)):
        return ",".join(map(written, value)) or "[]"
    return str(value) or '""'


def _optional(hint: Any) -> tuple[Any, bool]:
    """The type without None, and whether None was in it."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    kinds = [kind for kind in members if kind is not type(None)]
    return (kinds[0], True) if len(kinds) == 1 else (hint, False)


# --- values -------------------------------------------------------------------------------------------------------


def read(hint: Any, text: str) -> Any:
    """The value of type ``hint`` that ``text`` stands for.

    Raises:
        ValueError: it stands for none; says what was expected.
    """
    if hint == _SIDES:
        return _sides(text)
    hint, may_be_nothing = _optional(hint)
    if hint is str:
        return text
    if may_be_nothing and text.lower() in _NOTHING:
        return None
    if typing.get_origin(hint) is tuple:
        return tuple(read(typing.get_args(hint)[0], item) for item in _items(text))
    if typing.get_origin(hint) is Literal:
        return _one_of({choice: choice for choice in typing.get_args(hint)}, text, text)
    if hint is bool:
        return _one_of(_TRUTH, text.lower(), text)
    return _number(hint, text)


def _one_of(choices: Mapping[str, Any], word: str, text: str) -> Any:
    if word not in choices:
        raise ValueError(f"expected one of {', '.join(map(written, choices))}, not {text!r}")
    return choices[word]


def _number(kind: type, text: str) -> Any:
    try:
        if kind is int:
            return int(text, 0 if re.match(r"[-+]?0[xob]", text.lower()) else 10)
        value = float(text)
    except ValueError:
        value = math.nan
    if kind is int or not math.isfinite(value):
        raise ValueError(f"expected a {'whole ' if kind is int else ''}number, not {text!r}")
    return value


def _items(text: str) -> list[str]:
    """``2,4`` and ``[2, 4]`` as their items; in brackets, items with commas can stand in quotation marks."""
    if text.startswith("[") and text.endswith("]"):
        import yaml

        try:
            items = yaml.load(text, yaml.BaseLoader)
        except yaml.YAMLError:
            items = None
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
        text = text[1:-1]
    items = [item.strip() for item in text.split(",")]
    return items if items[-1] else items[:-1]


def _sides(text: str) -> int | tuple[int, int]:
    """``96`` pixels a side; ``48,64`` is height, width; ``64x48`` is WIDTHxHEIGHT."""
    across = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
    items = [across[2], across[1]] if across else _items(text)
    if len(items) in (1, 2) and all(re.fullmatch(r"[-+]?\d+", item) for item in items):
        height, *width = map(int, items)
        return (height, width[0]) if width else height
    raise ValueError(f"expected a size in pixels, as 64, 48,64 (height, width) or 64x48 (width x height), not {text!r}")


# --- words of the command line ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Words:
    """What a command line says: ``options`` in their order, as names without dashes and texts, and the rest."""

    options: tuple[tuple[str, str], ...]
    positionals: tuple[str, ...]


def split(arguments: Sequence[str], known: Collection[str], switches: Mapping[str, Sequence[str]]) -> Words:
    """Tell options, ``--name value`` and ``--name=value``, from positionals. After ``--`` all are positionals.

    Args:
        known: all names of options. A hyphen in a name is the same as an underscore.
        switches: those that may stand without a value, which is "true" then, each with the words that it takes besides
            true and false.

    Raises:
        InputError: an unknown option, or one without its value. Abbreviations are unknown.
    """
    options: list[tuple[str, str]] = []
    positionals: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            positionals += left
            break
        word = "--help" if word == "-h" else word
        if not re.match(r"-[^\s\d.]", word):  # a path, "-", a negative number
            positionals.append(word)
            continue
        option, joined, value = word.partition("=")
        name = option[2:].replace("-", "_")
        if not option.startswith("--") or name not in known:
            raise InputError(f"there is no option {option}{closest(option, [f'--{other}' for other in known])}")
        if name in switches and not joined:
            value = left.pop(0) if left and left[0].lower() in (*_TRUTH, *switches[name]) else "true"
        elif not joined:
            if not left or left[0].startswith("--"):
                raise InputError(f"{option} needs a value: {option} VALUE, or {option}=VALUE")
            value = left.pop(0)
        options.append((name, value))
    return Words(tuple(options), tuple(positionals))


def value_of(name: str, hint: Any, text: str) -> Any:
    """:func:`read`, with an :class:`InputError` that names the option."""
    try:
        return read(hint, text)
    except ValueError as error:
        raise InputError(f"--{name}: {error}") from error


# --- files --------------------------------------------------------------------------------------------------------


def read_file(path: Path, options: Any, section: str = "") -> dict[str, Any]:
    """Dotted name -> value of the options that a YAML or JSON file gives, nested or with dots.

    Values are written as on the command line; a null is None.

    Args:
        section: the config class within ``options`` that the file is about; "" is ``options`` itself.

    Raises:
        InputError: no such file, no mapping, an unknown option, a value of a wrong type.
    """
    values, hints = flat(_mapping(path), f"{section}." if section else ""), leaves(options)
    for name in values:
        if name not in hints:
            raise InputError(f"{path}: there is no option {name}{closest(name, hints)}")
    return {name: _value_in_file(path, name, hints[name], value) for name, value in values.items()}


def _mapping(path: Path) -> dict[str, Any]:
    try:
        return mapping(path.read_bytes(), path.suffix.lower() == ".json")
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def mapping(content: str | bytes, as_json: bool = False) -> dict[str, Any]:
    """What a file of options holds, given as YAML or JSON; from YAML, null is None and other values are text.

    Raises:
        ValueError: it is neither, or no mapping.
    """
    import yaml

    try:
        values = json.loads(content) if as_json else yaml.load(content, _text_loader())
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"this is not valid {'JSON' if as_json else 'YAML'}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict | types.NoneType):
        raise ValueError(f"it must hold options with their values, not {_kind(values)}")
    return {str(name): value for name, value in (values or {}).items()}


def _text_loader() -> Any:
    """YAML in which every value but null is text, so that the option's type says what it means."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads null, and ``<<`` for taking over another mapping; what else YAML would read stays text."""

    kept = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    Loader.yaml_implicit_resolvers = {
        first: [resolver for resolver in resolvers if resolver[0] in kept]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def _value_in_file(path: Path, name: str, hint: Any, value: Any) -> Any:
    kind, may_be_nothing = _optional(hint)
    try:
        if value is None and may_be_nothing:
            return None
        if isinstance(value, list) and hint == _SIDES:
            return read(hint, ",".join(map(_scalar, value)))
        if isinstance(value, list) and typing.get_origin(kind) is tuple:
            return tuple(read(typing.get_args(kind)[0], _scalar(item)) for item in value)
        return read(hint, _scalar(value))
    except ValueError as error:
        raise InputError(f"{path}: {name}: {error}") from error


def _scalar(value: Any) -> str:
    """The text of one value; YAML gives text already, JSON numbers and truth values too."""
    if value is None or isinstance(value, (list, dict)):
        raise ValueError(f"expected one value, not {_kind(value)}")
    return value if isinstance(value, str) else written(value)


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", type(None): "null"}.get(type(value), f"{value!r}")


# --- configs ------------------------------------------------------------------------------------------------------


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """``config`` with other values, dotted name -> value; its checks run once, on the result."""
    return from_dict(type(config), nested(flat(to_dict(config)) | dict(values)))


def as_yaml(config: Any) -> str:
    """The options of a config as the text of a file that gives the same one."""
    import yaml

    shown = leaves(type(config))
    values = nested({name: value for name, value in flat(to_dict(config)).items() if name in shown})
    text: str = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False)
    return text


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings as nested ones: ``{"model.dim": 64}`` is ``{"model": {"dim": 64}}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        inside = found
        for part in path:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return found
