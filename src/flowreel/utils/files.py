"""Files and folders that appear whole or not at all, and JSON.

What is written is made aside, put on the disk and renamed. Torch-free.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from flowreel.errors import InputError
from flowreel.utils.locking import contents

ASIDE, MOVES = ".tmp-export", ".tmp-moves.json"
"""Where an export is written, and the note of the files that are being moved from there to their places."""


@contextmanager
def replacing_folder(final: Path) -> Iterator[Path]:
    """An empty folder beside ``final``; afterwards it is ``final``, in the place of what was there before.

    It is synced to the disk and then renamed, so ``final`` is always whole. If the block raises, ``final`` stays.
    """
    aside = final.with_name(f".tmp-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in (*sorted(aside.rglob("*")), aside):
            sync(path)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        sync(final.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``'s files; what is written there replaces them afterwards, file by file.

    Each file appears whole or not at all. Files that aren't written anew stay, and so does everything if the block
    raises. What is left of a block whose process was killed is cleared away first, see :func:`undo`.
    """
    undo(folder)
    aside, new = folder / ASIDE, not contents(folder)
    aside.mkdir(parents=True)
    try:
        yield aside
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        names = [path.relative_to(aside).as_posix() for path in files]
        for path in files:
            sync(path)
            make_readable(path)
        write_json(folder / MOVES, {"new": new, "files": names})
        sync(folder)
        for path, name in zip(files, names, strict=True):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            sync(target.parent)
        shutil.rmtree(aside)
        (folder / MOVES).unlink()  # from now on the block is done
    finally:
        undo(folder)


def undo(folder: Path) -> None:
    """Clear away what a block of :func:`replacing` left in ``folder`` when its process was killed.

    Of a folder that was empty before, the files that were in their places already are removed too. So that process must
    be gone: whoever calls this holds the folder's lock.
    """
    moves: dict[str, Any] = read_json(folder / MOVES) if (folder / MOVES).is_file() else {"new": False}
    for name in moves["files"] if moves["new"] else ():
        if not {"..", os.sep} & set(Path(name).parts):
            (folder / name).unlink(missing_ok=True)
            for parent in (folder / name).parents:
                if not parent.is_relative_to(folder / Path(name).parts[0]):
                    break
                with suppress(OSError):  # it is not there, or not empty yet
                    parent.rmdir()
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    for note in (_unfinished(folder / MOVES), folder / MOVES):
        note.unlink(missing_ok=True)


def make_readable(path: Path) -> None:
    """Give a file the permissions that new files have: safetensors writes files that their owner alone can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object; the file appears whole or not at all."""
    aside = _unfinished(path)
    aside.write_bytes(json_text(values))
    sync(aside)
    aside.replace(path)


def _unfinished(path: Path) -> Path:
    """Where the JSON file ``path`` is written before it has its name."""
    return path.with_name(f".tmp-{path.name}")


def sync(path: Path) -> None:
    """Make the operating system put a file's bytes, or a folder's list of names, on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX can sync a folder
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_text(values: dict[str, Any]) -> bytes:
    """A JSON object as UTF-8; names of files that are no UTF-8 keep their bytes as escapes that JSON reads back."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or say what is wrong with the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, not an object")
    return values


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of writing that don't say which file they are about say ``path``."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, f"can't be written: {error}", str(path)) from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class Target:
    """A file that appears under its name only when it is complete: it is made as ``temporary``, beside it, and then
    either kept or discarded. Folders on the way to it are made."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the name of a file to write")
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} can't be written: {error.strerror}: {error.filename}") from error

    def keep(self) -> None:
        self.temporary.replace(self.path)

    def discard(self) -> None:
        self.temporary.unlink(missing_ok=True)


def write_complete(path: Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` as a whole or not at all."""
    target = Target(path)
    try:
        target.temporary.write_bytes(data)
        target.keep()
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        target.discard()
    return path
