"""A prepared folder on disk: safetensors shards of stored latents, and the index over them.

Knows: file names, keys, and how a file appears whole or not at all. Does not know: how latents are made or used.

The folder holds ``index.json``, ``codec/`` and ``train-00000.safetensors``, ``test-00000.safetensors``, ... In a shard,
the clip with key ``k`` has the tensors ``k.video`` (T, C, H, W) and, with sound, ``k.audio`` (T, 1, M, F). Each shard
also carries, as metadata, a stamp of what it was made from and the records of its clips, so that an interrupted
preparation goes on from its finished shards. While it is made, ``.parts/`` holds clips that are in no shard yet (see
``parts``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowreel.config import FORMAT_VERSION
from flowreel.errors import InputError
from flowreel.utils.files import make_readable, naming, read_json, sync

INDEX = "index.json"
PARTS = ".parts"
SPLITS = ("train", "test")

_METADATA = "flowreel"
_SHARD_NAME = re.compile(r"(train|test)-\d{5,}\.safetensors(\.part)?")

Record = dict[str, Any]  # {"entry": the clip's line in the index, "shape", "moments": its statistics, ...}


def read_index(folder: Path) -> dict[str, Any]:
    """The index of the prepared ``folder``; :class:`InputError` where there is none, or one that can't be read."""
    path = folder / INDEX
    if not path.is_file():
        begun = shard_files(folder) or (folder / PARTS).is_dir()
        what = "holds an unfinished preparation" if begun else "is not a prepared folder"
        raise InputError(f"{folder} {what} (no {INDEX}): run flowreel prepare CLIPS {folder}")
    index = read_json(path)
    version = index.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, this flowreel reads {FORMAT_VERSION}: prepare it again")
    return index


def open_shard(path: Path) -> Any:
    """A memory-mapped shard (a ``safe_open`` handle); :class:`InputError` where it is missing or damaged."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is missing or damaged ({error}): delete {path.parent} and prepare it again"
        ) from error


MIRRORED = "mirrored"
"""The name of the stored latents of the mirrored pictures, beside "video" and "audio"."""


def shard_files(folder: Path) -> list[Path]:
    """Every shard in ``folder``, finished or not, sorted."""
    return sorted(path for path in folder.glob("*.safetensors*") if _SHARD_NAME.fullmatch(path.name))


def read_shards(folder: Path) -> Iterator[tuple[str, str, list[Record]]]:
    """Split, stamp and records of each finished shard, in order, up to the first gap of each split.

    Raises :class:`InputError` for a damaged one.
    """
    for split in SPLITS:
        number = 0
        while (path := folder / _shard_name(split, number)).is_file():
            yield split, *made_of(path)
            number += 1


def _shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.safetensors"


def made_of(path: Path) -> tuple[str, list[Record]]:
    """The stamp and the records of a shard, or of a part of one."""
    with open_shard(path) as file:
        made = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
    return made.get("stamp", ""), made.get("records", [])


def write(path: Path, tensors: dict[str, Tensor], stamp: str, records: list[Record]) -> None:
    """Write a shard, or a part of one, which appears whole or not at all. Raises :class:`OSError` with its name."""
    temporary = path.with_name(path.name + ".part")
    # One key, because safetensors writes several in any order: the same clips make the same bytes.
    made = {"stamp": stamp, "records": records}
    with naming(path):
        save_file(tensors, temporary, {_METADATA: json.dumps(made)})
        make_readable(temporary)
        sync(temporary)
        temporary.replace(path)


class ShardWriter:
    """Writes one split's clips into shards of at most ``limit`` bytes (a single larger clip has a shard of its own).

    ``records`` are those of the finished shards, in order. At the start these are the shards that an interrupted run
    with the same ``stamp`` left behind; shards of the split with another stamp, or after a gap, are deleted.
    """

    def __init__(self, folder: Path, split: str, limit: int, stamp: str) -> None:
        self.records: list[Record] = []
        self._folder, self._split, self._limit, self._stamp = folder, split, limit, stamp
        self._number = 0
        self._clear()
        while (found := self._finished(self._path(self._number))) is not None:
            self.records += found
            self._number += 1
        for path in shard_files(folder):
            if path.name.startswith(split) and path.name >= self._path(self._number).name:
                path.unlink()

    def add(self, record: Record, tensors: dict[str, Tensor]) -> None:
        """Append a clip. ``record["entry"]`` is completed with the shard and key under which the clip is found."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._pending and self._size + size > self._limit:
            self.flush()
        key = str(len(self.records) + len(self._pending))
        record["entry"] |= {"shard": self._path(self._number).name, "key": key}
        self._pending.append(record)
        self._tensors |= {f"{key}.{stream}": tensor.contiguous() for stream, tensor in tensors.items()}
        self._size += size

    def flush(self) -> None:
        """Write the clips added since the last shard, if any, as the next shard."""
        if not self._pending:
            return
        write(self._path(self._number), self._tensors, self._stamp, self._pending)
        with naming(self._folder):
            sync(self._folder)
        self.records += self._pending
        self._number += 1
        self._clear()

    def _clear(self) -> None:
        self._pending: list[Record] = []
        self._tensors: dict[str, Tensor] = {}
        self._size = 0

    def _path(self, number: int) -> Path:
        return self._folder / _shard_name(self._split, number)

    def _finished(self, path: Path) -> list[Record] | None:
        if not path.is_file():
            return None
        stamp, records = made_of(path)
        return records if stamp == self._stamp else None
