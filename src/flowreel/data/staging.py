"""Staging of encoded clips between the processes that make them and the shards.

Any process can stage a crop of a clip at any time; one process moves them into shards in a fixed order. So the shards
don't depend on which process made what, or when.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from flowreel.data.shards import PARTS, ClipRecord, ShardWriter, read_header, write
from flowreel.data.sources import Skipped, Source
from flowreel.errors import InputError
from flowreel.utils.files import naming, read_json, write_json


class StagingArea:
    """A folder of encoded clips that are in no shard yet: one file for each crop, written by any process in any order.

    A clip that can't be used has a note with the reason instead. After an interrupted run the crops are kept, but not
    the notes: the clip's file may have been repaired by the next run.
    """

    def __init__(self, folder: Path, stamp: str = "") -> None:
        self.folder, self.stamp = folder / PARTS, stamp

    def path(self, split: str, clip: str, crop: int) -> Path:
        """The file of one crop of the clip with that name."""
        return self._path(split, f"{clip}\n{crop}", "safetensors")

    def has(self, split: str, clip: str, crop: int) -> bool:
        return self.path(split, clip, crop).is_file()

    def write(self, split: str, record: ClipRecord, tensors: dict[str, Tensor]) -> None:
        """Store one crop of a clip."""
        path = self.path(split, record.entry.path, record.entry.crop)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, {name: tensor.contiguous() for name, tensor in tensors.items()}, self.stamp, [record])

    def read(self, path: Path) -> tuple[ClipRecord, dict[str, Tensor]]:
        """The record and the tensors of a staged crop."""
        return read_header(path)[1][0], load_file(path)

    def mark_unusable(self, split: str, clip: str, reason: str) -> None:
        """Write a note that a clip can't be used."""
        path = self._path(split, clip, "json")
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            write_json(path, {"reason": reason})

    def unusable_reason(self, split: str, clip: str) -> str | None:
        """The reason why a clip can't be used, None if there is no note."""
        path = self._path(split, clip, "json")
        return read_json(path)["reason"] if path.is_file() else None

    def mark_failed(self) -> None:
        """Tell the other processes that this one has failed, so that they stop."""
        with contextlib.suppress(OSError):  # the disk may be full: then they notice when they are done
            self.folder.mkdir(exist_ok=True)
            (self.folder / "failed").touch()

    @property
    def has_failed(self) -> bool:
        """Whether any process has failed."""
        return (self.folder / "failed").exists()

    def clean_up(self) -> list[ClipRecord]:
        """Delete what an earlier run left, except finished crops, whose records are returned."""
        records = []
        for path in self._files():
            try:
                found = read_header(path)[1] if path.suffix == ".safetensors" else []
            except InputError:
                found = []
            records += found
            if not found:
                path.unlink()
        return records

    def keep_only(self, sources: Sequence[Source]) -> None:
        """Delete crops with another stamp, and those of other files than these."""
        files = {source.name: (source.size, source.digest) for source in sources}
        for path in self._files():
            if path.suffix == ".safetensors":
                stamp, (record, *_) = read_header(path)
                if stamp != self.stamp or files.get(record.entry.path) != (record.size, record.digest or ""):
                    path.unlink()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.rglob("*")) if path.is_file())

    def _path(self, split: str, name: str, suffix: str) -> Path:
        return self.folder / split / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.{suffix}"


class Packer:
    """Moves staged crops into shards, in the order of ``sources``, whenever the next clip's crops are complete.

    A staged crop is deleted when its shard is on the disk. Memory is bounded by one shard of each split. ``crops`` is
    the number for each clip; those that are already in the shards of ``writers`` are not waited for.
    """

    def __init__(
        self,
        writers: dict[str, ShardWriter],
        sources: Sequence[Source],
        crops: int,
        staging: StagingArea,
        skipped: Skipped,
    ) -> None:
        self._writers, self._staging, self._skipped = writers, staging, skipped
        packed = {record.entry.identity for writer in writers.values() for record in writer.records}
        missing = ((s, [crop for crop in range(crops) if (s.name, crop) not in packed]) for s in sources)
        self._queue = deque((source, wanted) for source, wanted in missing if wanted)
        self._spent: deque[tuple[ShardWriter, int, Path]] = deque()  # staged files, and how many records precede theirs
        self._counts = {split: len(writer.records) for split, writer in writers.items()}

    def missing(self) -> list[Source]:
        """The clips of which a crop has to be encoded."""
        return [source for source, wanted in self._queue if not self._are_staged(source, wanted)]

    def advance(self) -> None:
        """Pack what is complete, up to the first clip with a missing crop."""
        while self._queue:
            source, wanted = self._queue[0]
            if (reason := self._staging.unusable_reason(source.split, source.name)) is not None:
                self._skipped.add(source, reason)
            elif self._are_staged(source, wanted):
                for crop in wanted:
                    self._pack(source.split, self._staging.path(source.split, source.name, crop))
            else:
                break
            self._queue.popleft()
        self._delete_spent()

    def finish(self) -> dict[str, list[ClipRecord]]:
        """Pack everything and write the last shards; returns the records of all shards by split."""
        self.advance()
        assert not self._queue, f"{self._queue[0][0].name} was not encoded"
        for writer in self._writers.values():
            writer.flush()
        self._delete_spent()
        return {split: writer.records for split, writer in self._writers.items()}

    def _are_staged(self, source: Source, wanted: list[int]) -> bool:
        return all(self._staging.has(source.split, source.name, crop) for crop in wanted)

    def _pack(self, split: str, path: Path) -> None:
        writer = self._writers[split]
        writer.add(*self._staging.read(path))
        self._spent.append((writer, self._counts[split], path))
        self._counts[split] += 1
        self._delete_spent()

    def _delete_spent(self) -> None:
        while self._spent and self._spent[0][1] < len(self._spent[0][0].records):
            self._spent.popleft()[2].unlink()
