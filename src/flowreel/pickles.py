"""Foreign checkpoints read without executing anything, and the names of the tensors in them.

Knows: what damaged files raise, and the prefixes that wrappers leave. Does not know: any network.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from flowreel.errors import InputError

DAMAGED = (
    # what torch.load raises, depending on the byte that is wrong
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
    """``torch.load`` that executes nothing: tensors, plain containers and ``argparse.Namespace`` alone."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return _load(path, str(path))


def load_pickle_bytes(data: bytes, name: str) -> Any:
    """:func:`load_pickle` of what lies in memory; ``name`` is what errors call it."""
    return _load(io.BytesIO(data), name)


def _load(source: Path | io.BytesIO, name: str) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{name} holds more than plain values and was not read: {first_line(error)}") from error
    except DAMAGED as error:
        raise InputError(f"{name} is not a readable torch checkpoint: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def plain_name(key: str) -> str:
    """A tensor's name without what ``torch.compile`` and data-parallel wrappers put before it."""
    return re.sub(r"(^|\.)(_orig_mod\.|module\.)+", r"\1", key)
