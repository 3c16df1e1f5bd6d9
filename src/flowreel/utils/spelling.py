"""Suggests known names similar to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LEAST = 0.62
_BEGINNING, _INITIALS, _SAME = 0.9, 0.95, 1.0


def closest(word: str, known: Iterable[str]) -> str:
    """A suggestion such as ``", did you mean --optim.lr?"``, or ``""`` if no known name is similar to ``word``.

    Names with dots are compared by their last part first, so that "--lr" gives "--optim.lr". At most three are listed.
    """
    similarity = {name: _similarity(word, name) for name in known}
    best = max(similarity.values(), default=0.0)
    if best < _LEAST:
        return ""
    names = [name for name, value in similarity.items() if value == best]
    beside = [name for name in names if _words(name)[:-1] == _words(word)[:-1]]
    return f", did you mean {' or '.join((beside or names)[:3])}?"


def _similarity(word: str, name: str) -> float:
    """Similarity from 0 (nothing in common) to 1 (the same last part)."""
    (*_, a), (*_, b) = _words(word), _words(name)
    if a == b:
        return _SAME
    if _initials(a) == b or a == _initials(b):  # learning_rate and lr
        return _INITIALS
    if len(a) > 1 and b.startswith(a):
        return _BEGINNING
    whole = ".".join(_words(word)), ".".join(_words(name))
    return max(difflib.SequenceMatcher(None, x, y).ratio() for x, y in ((a, b), whole)) * _BEGINNING


def _words(name: str) -> list[str]:
    return name.lstrip("-").replace("-", "_").lower().split(".")


def _initials(name: str) -> str:
    words = [word for word in name.split("_") if word]
    return "".join(word[0] for word in words) if len(words) > 1 else name
