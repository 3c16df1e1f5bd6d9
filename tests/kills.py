"""Folders as a process leaves them that is killed at any moment, without killing one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "link", "chmod", "fsync")


def content(folder: Path) -> dict[str, bytes | None]:
    """Every file below ``folder`` with its bytes, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def states(folder: Path, into: Path, work: Callable[[], Any]) -> list[Path]:
    """Copies, in ``into``, of all different states of ``folder`` before each call by which ``work`` changes files."""
    found: list[Path] = []
    seen: list[Any] = [None]
    copying = False

    def keep() -> None:
        nonlocal copying
        if copying:
            return
        copying = True
        now = content(folder) if folder.is_dir() else None
        if now != seen[-1]:
            seen.append(now)
            found.append(into / str(len(found)))
            if folder.is_dir():
                shutil.copytree(folder, found[-1])
        copying = False

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            keep()
            return real(*arguments, **named)

        return call

    into.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, watched(getattr(os, name)))
        work()
        keep()
    return found
