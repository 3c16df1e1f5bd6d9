"""Settings noted beside what was made with them, so that a folder is gone on with only under the same ones.

Knows: how two sets of settings are compared. Does not know: what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from flowreel.config import flat
from flowreel.errors import InputError
from flowreel.utils.files import read_json

Known: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

SHOWN = 8
"""How many differences a message lists."""


def check_unchanged(note: Path, now: dict[str, Any], did: str, known: Known = lambda values: values) -> None:
    """Raise :class:`InputError` listing what differs between the settings in the file ``note`` and ``now``.

    ``did`` is what happened to the note's folder, such as "was prepared"; ``known`` adds to what an older version noted
    the settings that there were not at the time.
    """
    both = (known(read_json(note)), now)
    before, after = (flat(json.loads(json.dumps(values))) for values in both)  # tuples become lists
    differing = [
        f"{name}: was {_shown(before.get(name))}, now {_shown(after.get(name))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if differing:
        more = [f"and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
        listed = "\n  ".join([*differing[:SHOWN], *more])
        raise InputError(
            f"{note.parent} {did} differently:\n  {listed}\nChoose another folder, or delete it to begin again."
        )


def _shown(value: Any) -> str:
    return "not there" if value is None else str(value)
