"""A prepared folder on disk: safetensors shards of stored latents, and the index over them.

Knows: file names, keys, and how a file appears whole or not at all. Does not know: how latents are made or used.

The folder holds ``index.json``, ``codec/`` and ``train-00000.safetensors``, ``test-00000.safetensors``, ... In a shard,
the clip with key ``k`` has the tensors ``k.video`` (T, C, H, W) and, with sound, ``k.audio`` (T, 1, M, F). Each shard
also carries, as metadata, a stamp of what it was made from and the records of its clips, so that an interrupted
preparation goes on from its finished shards.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowreel.checkpoint import sync
from flowreel.config import FORMAT_VERSION, read_json
from flowreel.errors import InputError

INDEX = "index.json"
CODEC = "codec"
SPLITS = ("train", "test")

_METADATA = "flowreel"
_SHARD_NAME = re.compile(r"(train|test)-\d{5,}\.safetensors(\.part)?")

Record = dict[str, Any]  # {"entry": the clip's line in the index, "moments": its statistics}


def read_index(folder: Path) -> dict[str, Any]:
    """The index of the prepared ``folder``; :class:`InputError` where there is none, or one that can't be read."""
    path = folder / INDEX
    if not path.is_file():
        what = "holds an unfinished preparation" if shard_files(folder) else "is not a prepared folder"
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


def shard_files(folder: Path) -> list[Path]:
    """Every shard in ``folder``, finished or not, sorted."""
    return sorted(path for path in folder.glob("*.safetensors*") if _SHARD_NAME.fullmatch(path.name))


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
        path = self._path(self._number)
        temporary = path.with_name(path.name + ".part")
        # One key, because safetensors writes several in any order: the same clips make the same bytes.
        made = {"stamp": self._stamp, "records": self._pending}
        save_file(self._tensors, temporary, {_METADATA: json.dumps(made)})
        sync(temporary)
        temporary.replace(path)
        self.records += self._pending
        self._number += 1
        self._clear()

    def _clear(self) -> None:
        self._pending: list[Record] = []
        self._tensors: dict[str, Tensor] = {}
        self._size = 0

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._split}-{number:05d}.safetensors"

    def _finished(self, path: Path) -> list[Record] | None:
        if not path.is_file():
            return None
        made = json.loads((open_shard(path).metadata() or {}).get(_METADATA, "{}"))
        return made["records"] if made.get("stamp") == self._stamp else None
