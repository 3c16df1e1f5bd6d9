"""The disk format of a prepared folder: safetensors shards of stored latents, and an index.

The folder holds ``index.json``, ``codec/`` and ``train-00000.safetensors``, ``test-00000.safetensors``, ... In a shard,
the clip with key ``k`` has the tensors ``k.video`` (T, C, H, W) and, with audio, ``k.audio`` (T, 1, M, F). The
metadata of each shard hold a stamp of what it was made from and the records of its clips, so that an interrupted
preparation resumes after its finished shards. In the meantime ``.parts/`` holds clips that are in no shard yet (see
:mod:`flowreel.data.staging`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowreel.config import FORMAT_VERSION, CodecConfig, LatentShape, Timing, from_dict, to_dict
from flowreel.data.statistics import Moments
from flowreel.errors import InputError
from flowreel.utils.files import commit, make_readable, naming, read_json, sync

INDEX = "index.json"
PARTS = ".parts"
SPLITS = ("train", "test")

_METADATA = "flowreel"
_SHARD_NAME = re.compile(r"(train|test)-\d{5,}\.safetensors(\.part)?")

MIRRORED = "mirrored"
"""Name of the stored latents of mirrored video, beside "video" and "audio"."""


@dataclass(frozen=True)
class IndexEntry:
    """One crop of a clip in the index.

    ``path`` is the clip's path below the folder of clips, ``frames`` the length of its latents, ``key`` their name in
    the file ``shard``. A crop that is in no shard yet has no shard and key, one outside of the index no ``label``.
    """

    path: str
    frames: int
    crop: int
    shard: str | None = None
    key: str | None = None
    label: int | None = None

    @property
    def identity(self) -> tuple[str, int]:
        """Clip and crop, which identify an entry."""
        return self.path, self.crop

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ClipRecord:
    """What a shard says of one crop of a clip, beside its latents.

    ``shape`` is that of one frame of each stored stream, ``moments`` the statistics of its latents. Of the clip's file:
    ``size`` in bytes, ``modified`` in nanoseconds, ``digest`` of its ends, and whether it has ``audio``; older versions
    did not write ``modified`` and ``digest``. An imported clip has its ``source`` in the latent store and its class
    ``label`` instead.
    """

    entry: IndexEntry
    shape: dict[str, list[int]] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    size: int | None = None
    modified: int | None = None
    digest: str | None = None
    audio: bool | None = None
    source: str | None = None
    label: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON; :meth:`from_dict` is the inverse."""
        moments = {stream: moments.to_dict() for stream, moments in self.moments.items()}
        values = {"entry": self.entry.to_dict(), "shape": self.shape, "moments": moments}
        if self.source is not None:
            return {**values, "label": self.label, "source": self.source}
        file = {"size": self.size, "modified": self.modified, "digest": self.digest, "sound": self.audio}
        return values | {name: value for name, value in file.items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClipRecord:
        names = {"sound": "audio"}
        facts = {names.get(name, name): value for name, value in values.items()}
        facts["entry"] = IndexEntry(**values["entry"])
        facts["moments"] = {stream: Moments.from_dict(found) for stream, found in values["moments"].items()}
        return cls(**facts)


@dataclass(frozen=True)
class Index:
    """The content of ``index.json``.

    ``classes`` are the class names in the order of their labels; a clip without a class has the label
    ``len(classes)``. ``shape`` is that of model latents, ``codec`` has the scales that make them, from the
    ``statistics`` of each stream over train. With ``mirrored``, shards hold every clip mirrored too. ``skipped`` has
    ``path`` and ``reason`` of each clip that could not be used.
    """

    classes: list[str]
    timing: Timing
    codec: CodecConfig
    shape: LatentShape
    statistics: dict[str, Any]
    mirrored: bool
    skipped: list[dict[str, str]]
    splits: dict[str, list[IndexEntry]]

    @property
    def entries(self) -> list[IndexEntry]:
        """The entries of all splits."""
        return [entry for entries in self.splits.values() for entry in entries]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "classes": self.classes,
            "timing": to_dict(self.timing),
            "codec": to_dict(self.codec),
            "shape": to_dict(self.shape),
            "statistics": self.statistics,
            "mirrored": self.mirrored,
            "skipped": self.skipped,
            "splits": {split: [entry.to_dict() for entry in entries] for split, entries in self.splits.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Index:
        return cls(
            classes=values["classes"],
            timing=from_dict(Timing, values["timing"], "timing"),
            codec=from_dict(CodecConfig, values["codec"], "codec"),
            shape=from_dict(LatentShape, values["shape"], "shape"),
            statistics=values.get("statistics", {}),
            mirrored=values.get("mirrored", False),
            skipped=values.get("skipped", []),
            splits={split: [IndexEntry(**entry) for entry in entries] for split, entries in values["splits"].items()},
        )


def read_index(folder: Path) -> Index:
    """Read the index of the prepared ``folder``; :class:`InputError` if it is missing or can't be read."""
    path = folder / INDEX
    if not path.is_file():
        unfinished = shard_files(folder) or (folder / PARTS).is_dir()
        what = "holds an unfinished preparation" if unfinished else "is not a prepared folder"
        raise InputError(f"{folder} {what} (no {INDEX}): run flowreel prepare CLIPS {folder}")
    values = read_json(path)
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, this flowreel reads {FORMAT_VERSION}: prepare it again")
    return Index.from_dict(values)


def open_shard(path: Path) -> Any:
    """Open a memory-mapped shard (a ``safe_open`` handle); :class:`InputError` if it is missing or damaged."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is missing or damaged ({error}): delete {path.parent} and prepare it again"
        ) from error


def shard_files(folder: Path) -> list[Path]:
    """All shards in ``folder``, finished or not, sorted."""
    return sorted(path for path in folder.glob("*.safetensors*") if _SHARD_NAME.fullmatch(path.name))


def read_shards(folder: Path) -> Iterator[tuple[str, str, list[ClipRecord]]]:
    """Split, stamp and records of each finished shard, in order, up to the first missing number of each split.

    Raises :class:`InputError` for a damaged shard.
    """
    for split in SPLITS:
        number = 0
        while (path := folder / _shard_name(split, number)).is_file():
            yield split, *read_header(path)
            number += 1


def _shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.safetensors"


def read_header(path: Path) -> tuple[str, list[ClipRecord]]:
    """The stamp and the records of a shard, or of a staged crop."""
    with open_shard(path) as file:
        header = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
    return header.get("stamp", ""), [ClipRecord.from_dict(record) for record in header.get("records", [])]


def write(path: Path, tensors: dict[str, Tensor], stamp: str, records: list[ClipRecord]) -> None:
    """Write a shard, or a staged crop, as a whole or not at all. Raises :class:`OSError` with the file's name."""
    temporary = path.with_name(path.name + ".part")
    # One key, because safetensors writes several keys in random order: the same clips give the same bytes.
    header = {"stamp": stamp, "records": [record.to_dict() for record in records]}
    with naming(path):
        save_file(tensors, temporary, {_METADATA: json.dumps(header)})
        make_readable(temporary)
        commit(temporary, path)


class ShardWriter:
    """Writes the clips of one split into shards of at most ``limit`` bytes; a larger clip gets a shard of its own.

    ``records`` are those of the finished shards, in order. At first these are the shards of an interrupted run with the
    same ``stamp``; shards of the split with another stamp, or after a missing number, are deleted.
    """

    def __init__(self, folder: Path, split: str, limit: int, stamp: str) -> None:
        self.records: list[ClipRecord] = []
        self._folder, self._split, self._limit, self._stamp = folder, split, limit, stamp
        self._number = 0
        self._clear()
        while (found := self._finished(self._path(self._number))) is not None:
            self.records += found
            self._number += 1
        for path in shard_files(folder):
            if path.name.startswith(split) and path.name >= self._path(self._number).name:
                path.unlink()

    def add(self, record: ClipRecord, tensors: dict[str, Tensor]) -> None:
        """Append a clip; its entry in ``records`` gets the shard and the key."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._pending and self._size + size > self._limit:
            self.flush()
        key = str(len(self.records) + len(self._pending))
        entry = replace(record.entry, shard=self._path(self._number).name, key=key)
        self._pending.append(replace(record, entry=entry))
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
        self._pending: list[ClipRecord] = []
        self._tensors: dict[str, Tensor] = {}
        self._size = 0

    def _path(self, number: int) -> Path:
        return self._folder / _shard_name(self._split, number)

    def _finished(self, path: Path) -> list[ClipRecord] | None:
        if not path.is_file():
            return None
        stamp, records = read_header(path)
        return records if stamp == self._stamp else None
