"""Errors that the user can fix, and the check for optional packages.

The command line shows them as one message with exit code 2, without a traceback.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType


class InputError(ValueError):
    """Input that can't be used: the message says what was received, what would be right and what to do.

    Args:
        reason: the message; with ``path``, what is wrong with that file or folder, such as "is empty".
        path: begins the message, before ``reason``.
    """

    def __init__(self, reason: str = "", *, path: Path | str | None = None) -> None:
        super().__init__(reason if path is None else f"{path} {reason}")
        self.reason = reason
        self.path: str | None = None if path is None else str(path)


class MissingExtraError(InputError, ImportError):
    """An optional package is not installed; the message has the exact ``pip install``."""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which belongs to the extra ``extra``; :class:`MissingExtraError` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed: pip install 'flowreel[{extra}]'"
        ) from error
