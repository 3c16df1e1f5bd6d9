"""Where a command says what it did: one line of text at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Report: TypeAlias = Callable[[str], None]


def silent(text: str) -> None:
    """What the processes that don't lead report."""
