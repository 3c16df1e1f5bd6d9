"""Reads safetensors files and pickles of others safely: no code is executed, and every value is checked."""

from __future__ import annotations

import argparse
import io
import math
import pickle
import re
import struct
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowreel.errors import InputError
from flowreel.utils.files import commit

DAMAGED = (
    # what torch.load raises for a damaged file
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    SafetensorError,
)


def load_pickle(path: Path) -> Any:
    """``torch.load`` without code execution: only tensors, plain containers and ``argparse.Namespace``."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return _load(path, str(path))


def load_pickle_bytes(data: bytes, name: str) -> Any:
    """:func:`load_pickle` of bytes in memory; errors call them ``name``."""
    return _load(io.BytesIO(data), name)


def _load(source: Path | io.BytesIO, name: str) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"holds more than plain values and was not read: {first_line(error)}", path=name) from error
    except DAMAGED as error:
        raise InputError(f"is not a readable torch checkpoint: {first_line(error)}", path=name) from error


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def plain_name(key: str) -> str:
    """A tensor's name without the prefixes of ``torch.compile`` and data-parallel wrappers."""
    return re.sub(r"(^|\.)(_orig_mod\.|module\.)+", r"\1", key)


# --- checks of values ---------------------------------------------------------------------------------------------


def described(value: Any) -> str:
    """The type of a value, and the shape of a tensor, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} of a shape {tuple(value.shape)}"
    return "nothing (None)" if value is None else f"a value of type {type(value).__name__}"


def require(where: str | Path, values: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise :class:`InputError` unless ``values``, read from ``where``, has all ``keys``."""
    missing = [key for key in keys if key not in values]
    if missing:
        raise InputError(f"{where} is not a complete checkpoint of that kind: it has no {', '.join(missing)}")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A dictionary or ``argparse.Namespace`` as a dict; :class:`InputError` for other values."""
    values = vars(value) if isinstance(value, argparse.Namespace) else value
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{where} should hold named values, it is {described(value)}")
    return dict(values)


def numbers(value: Any, where: str) -> Tensor:
    """A complete tensor of real numbers as float32; :class:`InputError` for other values."""
    usable = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    if not usable or value.is_complex() or value.device.type == "meta":
        raise InputError(f"{where} should be a tensor of real numbers, it is {described(value)}")
    if value.untyped_storage().nbytes() < value.nbytes:  # it states a larger size than its file has
        raise InputError(f"{where} is {described(value)}, of which the file does not hold all")
    tensor: Tensor = value.float()
    return tensor


def number(values: Mapping[str, Any], name: str, default: float, where: str | Path) -> float:
    """The number called ``name``, or ``default`` if it is missing; :class:`InputError` if it is not a finite number."""
    value = values.get(name, default)
    if not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{where}: {name} should be a number, it is {value!r}")
    return float(value)


Tensors = dict[str, Tensor]


def load_tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file, on the CPU, by their plain names; :class:`InputError` if it can't be read."""
    try:
        return {plain_name(name): tensor for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is missing or damaged: {error}") from error


def store_as_half(path: Path) -> None:
    """Rewrite a safetensors file with float16 tensors in place of wider floats, except those beyond its range."""
    halved = {}
    for name, tensor in load_file(path).items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        halved[name] = half if half.isfinite().all() else tensor
    smaller = path.with_suffix(".half")
    save_file(halved, smaller, {"format": "pt"})
    commit(smaller, path)
