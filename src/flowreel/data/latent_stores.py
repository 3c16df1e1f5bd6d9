"""Finds and reads the files of the published latent stores.

These are GenerativeFlow's LMDB and tar shards, and R-FLAV's folder of ``.pt`` files. One entry is read at a time,
nothing is extracted, and a damaged file is read as far as possible. The content of an entry is interpreted by
:mod:`flowreel.data.latent_import`.
"""

from __future__ import annotations

import functools
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowreel.errors import InputError, require
from flowreel.media.recognise import VIDEO_SUFFIXES

LMDB_FILE = "data.mdb"
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}


@dataclass(frozen=True)
class StoreFile:
    """A file of a store: an LMDB, a tar shard, or a single ``.pt`` file.

    ``name`` is its path below the store; ``prefix`` distinguishes its clips from those of the other split.
    """

    kind: str
    split: str
    path: Path
    name: str
    prefix: str = ""


class UnusableError(Exception):
    """An entry can't be imported; the message is the reason."""


def is_store(path: Path | str) -> bool:
    """Whether ``path`` is a latent store of one of the published systems; only file names are looked at.

    It has an LMDB (in the folder or in ``train.lmdb``), or tar shards or ``.pt`` files and no clips.
    """
    parts = find_parts(Path(path))
    if not parts or parts[0].kind == "lmdb":
        return bool(parts)
    return not any(Path(name).suffix.lower() in VIDEO_SUFFIXES for _, _, names in os.walk(path) for name in names)


def _places(store: Path) -> dict[str, list[Path]]:
    """The folders that may hold the latents of each split: subfolders named after it, or the store itself."""
    below = {
        split: [
            store / f"{name}{suffix}"
            for name in names
            for suffix in ("", ".lmdb")
            if (store / f"{name}{suffix}").is_dir()
        ][:1]
        for split, names in _SPLIT_FOLDERS.items()
    }
    return below if below["train"] else {"train": [store], "test": []}


def find_parts(store: Path) -> list[StoreFile]:
    """The files of ``store`` in a fixed order: train before test."""
    return [
        StoreFile(
            kind, split, path, path.relative_to(store).as_posix(), "" if kind == "pt" or place == store else f"{split}/"
        )
        for split, places in _places(store).items()
        for place in places
        for kind, path in _files(place, place != store)
    ]


def _files(folder: Path, below: bool) -> list[tuple[str, Path]]:
    """The kinds and paths of a split's files; with ``below``, ``.pt`` files are also searched in subfolders."""
    if (folder / LMDB_FILE).is_file():
        return [("lmdb", folder / LMDB_FILE)]
    if shards := sorted(path for path in folder.glob("*.tar") if path.is_file()):
        return [("tar", path) for path in shards]
    return [("pt", path) for path in sorted(folder.glob("**/*.pt" if below else "*.pt")) if path.is_file()]


def metadata(parts: list[StoreFile]) -> dict[str, Any]:
    """The metadata of an LMDB: ``vae``, ``classes``, perhaps ``fps``. Empty for other stores."""
    if parts[0].kind != "lmdb":
        return {}
    with _environment(parts[0]) as environment, environment.begin() as transaction:
        raw = transaction.get(b"__metadata__")
    try:
        values = json.loads(raw or b"{}")
    except ValueError:  # optional: the entries are sufficient
        return {}
    return values if isinstance(values, dict) else {}


def entries(part: StoreFile) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Key of every entry of ``part`` and a function that reads its bytes. :class:`UnusableError` at damaged data."""
    if part.kind == "pt":
        yield "", part.path.read_bytes
    elif part.kind == "tar":
        yield from _tar_entries(part.path)
    else:
        yield from _lmdb_entries(part)


def _environment(part: StoreFile) -> Any:
    """Open the LMDB for reading; :class:`InputError` if it is damaged."""
    lmdb = require("lmdb", "legacy")
    try:
        environment = lmdb.open(str(part.path.parent), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise InputError(f"is not a readable LMDB: {error}", path=part.path) from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = part.path.stat().st_size
    if needed > size:  # reading beyond the end of the file would crash the process
        environment.close()
        raise InputError(f"was cut short: it has {size} of {needed} bytes", path=part.path)
    return environment


def _lmdb_entries(part: StoreFile) -> Iterator[tuple[str, Callable[[], bytes]]]:
    lmdb = require("lmdb", "legacy")
    with _environment(part) as environment, environment.begin() as transaction:
        cursor = transaction.cursor()
        try:
            for key in cursor.iternext(keys=True, values=False):
                if not key.startswith(b"__"):
                    yield key.decode("utf-8", "replace"), cursor.value
        except lmdb.Error as error:
            raise UnusableError(f"the rest can't be read: {error}") from error


def _tar_entries(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse() and member.name.endswith(".pt"):
                    yield member.name, functools.partial(_member, tar, member)
            end = tar.offset
    except (tarfile.TarError, OSError) as error:
        raise UnusableError(f"the rest can't be read: {error}") from error
    with path.open("rb") as file:  # a damaged header looks like the end
        file.seek(end)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise UnusableError(f"the rest can't be read: damaged at byte {end}")


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None
    return stream.read()
