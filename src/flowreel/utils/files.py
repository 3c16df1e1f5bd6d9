"""Atomic writes of files and folders, and JSON.

What is written is written to a temporary name, synced to the disk and renamed. Imports no torch.
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
"""Folder in which new files are written, and the list of those that are being moved from there to their places."""


@contextmanager
def replacing_folder(final: Path) -> Iterator[Path]:
    """An empty folder beside ``final``, which replaces ``final`` after the block.

    It is synced to the disk and then renamed, so ``final`` is always complete. If the block raises, ``final`` is kept.
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
def replacing_files(folder: Path) -> Iterator[Path]:
    """An empty folder within ``folder``; the files that are written to it replace those of ``folder`` after the block.

    Each file appears complete or not at all. Other files are kept, and so are all files if the block raises. What a
    killed process left is removed first, see :func:`undo`.
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
        (folder / MOVES).unlink()  # from here on nothing is undone
    finally:
        undo(folder)


def undo(folder: Path) -> None:
    """Remove what a block of :func:`replacing_files` left in ``folder`` when its process was killed.

    If the folder was empty before that block, the files that it had moved to their places are removed too. That process
    must have ended: the caller holds the folder's lock.
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
    """Give a file the permissions of a new file: safetensors writes files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object as a file, which appears complete or not at all."""
    temporary = _unfinished(path)
    temporary.write_bytes(json_text(values))
    commit(temporary, path)


def commit(temporary: Path, path: Path) -> None:
    """Sync a finished file to the disk and rename it to ``path``, in the place of what was there before."""
    sync(temporary)
    temporary.replace(path)


def _unfinished(path: Path) -> Path:
    """Temporary name of the JSON file ``path``."""
    return path.with_name(f".tmp-{path.name}")


def sync(path: Path) -> None:
    """Make the operating system write a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX can sync a folder
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_text(values: dict[str, Any]) -> bytes:
    """A JSON object as UTF-8; bytes of file names that are not UTF-8 are escaped, so that they can be read back."""
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; :class:`InputError` where the file holds something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not valid JSON: {error}", path=path) from error
    if not isinstance(values, dict):
        raise InputError(f"holds a {type(values).__name__}, not an object", path=path)
    return values


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add ``path`` to errors of writing that name no file."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, f"can't be written: {error}", str(path)) from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


class PendingFile:
    """A file that gets its name only when it is complete.

    It is written as ``temporary``, beside ``path``, and then either kept or discarded. Missing folders are made.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise InputError("is a folder: give the name of a file to write", path=path)
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"can't be written: {error.strerror}: {error.filename}", path=path) from error

    def keep(self) -> None:
        commit(self.temporary, self.path)

    def discard(self) -> None:
        self.temporary.unlink(missing_ok=True)


def write_complete(path: Path, data: bytes) -> Path:
    """Write ``data`` as the file ``path``, which appears complete or not at all; missing folders are made."""
    target = PendingFile(path)
    try:
        target.temporary.write_bytes(data)
        target.keep()
    except OSError as error:
        raise InputError(f"can't be written: {error.strerror}", path=path) from error
    finally:
        target.discard()
    return path
