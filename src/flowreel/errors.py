"""The errors that a person can act on, and the check for optional packages.

Everything raised here is shown by the command line as one message with exit code 2, without a traceback.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class InputError(ValueError):
    """Something the caller gave can't be used: says what was received, what would be right and what to do."""


class MissingExtraError(InputError, ImportError):
    """An optional package is not installed: says the exact ``pip install``."""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the extra ``extra`` brings, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed: pip install 'flowreel[{extra}]'"
        ) from error
