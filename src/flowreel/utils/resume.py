"""Stored settings of an output folder: work in it is resumed with the same settings only."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flowreel.config import flat
from flowreel.errors import InputError

SHOWN = 8
"""How many differences a message lists."""


def check_unchanged(
    folder: Path,
    before: dict[str, Any],
    now: dict[str, Any],
    did: str,
    free: Collection[str] = (),
    only_shared: bool = False,
) -> None:
    """Raise :class:`InputError` listing what differs between the settings that ``folder`` was made with and ``now``.

    Args:
        before: the settings that are stored in ``folder``; what an older version did not store has its default.
        did: what happened to the folder, such as "was prepared".
        free: dotted names of settings that may differ.
        only_shared: whether settings that only one of both has are left out.
    """
    old, new = (flat(json.loads(json.dumps(values))) for values in (before, now))  # tuples become lists
    names = (old.keys() & new.keys() if only_shared else old.keys() | new.keys()) - set(free)
    differing = [
        f"{name}: was {_text(old.get(name))}, now {_text(new.get(name))}"
        for name in sorted(names)
        if old.get(name) != new.get(name)
    ]
    if differing:
        more = [f"and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
        listed = "\n  ".join([*differing[:SHOWN], *more])
        raise InputError(
            f"{folder} {did} with other settings:\n  {listed}\n"
            "Give the same settings to resume it, choose another folder, or delete it to start again."
        )


def _text(value: Any) -> str:
    return "not there" if value is None else str(value)
