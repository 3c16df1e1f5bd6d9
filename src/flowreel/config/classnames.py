"""Compares names of classes, however their letters are composed in Unicode."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def class_name(text: str) -> str:
    """The name in the one form of Unicode (NFC) in which names that read the same are equal."""
    return unicodedata.normalize("NFC", text)


def find_class(text: str, classes: Sequence[str]) -> int | None:
    """The place among ``classes`` of the class that is written so or, else, reads so; None where there is none."""
    if text in classes:
        return classes.index(text)
    names = [class_name(name) for name in classes]
    return names.index(class_name(text)) if class_name(text) in names else None
