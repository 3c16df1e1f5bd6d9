"""Describes the clips of a folder: split, class, and whether they can be used.

The files are found by :mod:`flowreel.data.scan`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowreel.config.classnames import class_name
from flowreel.data.scan import MediaFile, Scan
from flowreel.data.shards import SPLITS
from flowreel.data.workers import Beat, Work
from flowreel.errors import InputError
from flowreel.media import MediaInfo, probe
from flowreel.utils.reporting import Report, silent

_END = 64 * 2**10  # bytes
_LONGEST = 1e6  # seconds: a file that states more is damaged


@dataclass(frozen=True)
class Source:
    """The file of a clip.

    ``name`` is its path below the folder of clips, with slashes; ``label`` its class, or None; ``size`` in bytes, -1 if
    unknown; ``modified`` the time of its last change in nanoseconds; ``reason`` why it can't be used, or "". Known once
    the file was opened: ``has_audio``, its stated length in ``seconds``, and the ``digest`` of its ends.
    """

    path: Path
    name: str
    split: str
    label: str | None
    size: int
    modified: int = 0
    has_audio: bool = False
    seconds: float = 0.0
    digest: str = ""
    reason: str = ""


def find_clips(folder: Path | str, leave_out: Path | str | None = None, report: Report | None = None) -> list[Source]:
    """Find every clip in ``folder``: those of train before those of test, each sorted by name.

    The layouts are ``{train,test}/<class>/*``, ``{train,test}/*``, ``<class>/*`` and ``*``. Without a folder ``train``
    all clips are for training; with one, only ``train`` and ``test`` count. The class is the first folder below,
    however deep the file is; a link to a folder counts as a folder. A file that FFmpeg can play is a clip, whatever its
    suffix. A file, link or folder that seems to hold clips but can't be read is returned with the ``reason``, and so is
    a test file that is in train too. Names that begin with a dot and the folder ``leave_out`` are ignored; everything
    else that is left out is reported. Raises :class:`InputError` where there is no clip to train on.
    """
    folder, report = Path(folder), report or silent
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of clips")
    scan = Scan(folder, leave_out, _group)
    scan.report_skipped(report)
    files = [file for file in scan.files if _is_text(file.name)]
    if len(files) < len(scan.files):
        odd = next(file.name for file in scan.files if not _is_text(file.name))
        left_out = len(scan.files) - len(files)
        report(f"left out {left_out} clips whose names are not UTF-8: rename {os.fsencode(odd)!r}, ...")
    if not files:
        also = f"; it has {scan.others}" if scan.others else ""
        raise InputError(f"{folder} has no clips: it holds no file that FFmpeg can play{also}")
    split_up = any(file.name.startswith("train/") for file in files)
    if not split_up and any(file.name.startswith("test/") for file in files):
        raise InputError(f"{folder} has clips in test but none in train: move some there, or give {folder / 'test'}")
    outside = [file.name for file in files if split_up and file.name.split("/")[0] not in SPLITS]
    if outside:
        report(f"left out {len(outside)} clips outside of {folder}/train and {folder}/test: {outside[0]}, ...")
    inside = [file for file in files if not split_up or file.name.split("/")[0] in SPLITS]
    trained_on = {_file_of(file): file.name for file in inside if file.name.startswith("train/")} if split_up else {}
    sources = [_source(folder, file, split_up, trained_on) for file in inside]
    return sorted(sources, key=lambda source: SPLITS.index(source.split))


def _group(name: str) -> str:
    """The class folder of a name. Within a class, no folder is read twice."""
    parts = name.split("/")
    return "/".join(parts[: 2 if parts[0] in SPLITS else 1])


def _file_of(file: MediaFile) -> tuple[int, ...]:
    """Identifies a file, whatever its names; empty where the system does not number files."""
    status = file.status
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status and status.st_ino else ()


def _source(folder: Path, file: MediaFile, split_up: bool, trained_on: dict[tuple[int, ...], str]) -> Source:
    parts = file.name.split("/")
    split = parts.pop(0) if split_up else "train"
    label = class_name(parts[0]) if len(parts) > 1 else None
    reason, identity = file.reason, _file_of(file)
    if split == "test" and identity and identity in trained_on:
        reason = f"it is trained on too (it is the file {trained_on[identity]})"
    size, modified = (file.status.st_size, file.status.st_mtime_ns) if file.status else (-1, 0)
    return Source(folder / file.name, file.name, split, label, size, modified, reason=reason)


def _is_text(name: str) -> bool:
    """Whether a file name is valid Unicode, as an index needs; names may be any bytes."""
    return name.encode(errors="replace").decode() == name


def inspect_clips() -> Work:
    """Work for a pool that opens the file of a :class:`Source` and completes its description."""

    def work(source: Source, beat: Beat) -> Source:
        if source.reason:
            return source
        try:
            info, digest = probe(source.path), digest_of_ends(source.path)
        except InputError as error:
            return replace(source, reason=error.reason)
        except OSError as error:
            return replace(source, reason=f"it can't be read: {error.strerror or error}")
        beat(1)
        stated = info.seconds if 0 < info.seconds < _LONGEST else 0.0
        return replace(source, has_audio=info.has_audio, seconds=stated, digest=digest)

    return work


def digest_of_ends(path: Path) -> str:
    """A hash of a file's first and last 64 KiB, which distinguishes clips of the same size."""
    with path.open("rb") as file:
        found = hashlib.blake2b(file.read(_END), digest_size=16)
        file.seek(max(file.tell(), path.stat().st_size - _END))
        found.update(file.read(_END))
    return found.hexdigest()


def probed(sources: Iterable[Source], report: Report) -> Iterator[MediaInfo | None]:
    """The media information of each clip; None for clips that can't be used, which are reported."""
    for source in sources:
        try:
            if source.reason:
                raise InputError(source.reason)
            yield probe(source.path)
        except InputError as error:
            report(f"left out {source.name}: {error.reason}")
            yield None


class Skipped:
    """Clips that can't be used: each is reported once and listed in the index."""

    def __init__(self, report: Report) -> None:
        self.entries: list[dict[str, str]] = []
        self._report = report

    def add(self, source: Source, reason: str) -> None:
        self.entries.append({"path": source.name, "reason": reason})
        self._report(f"skipped {source.name}: {reason}")

    def sort(self, sources: Sequence[Source]) -> None:
        """Sort ``entries`` into the order of ``sources``."""
        place = {source.name: number for number, source in enumerate(sources)}
        self.entries.sort(key=lambda entry: place[entry["path"]])

    def summary(self) -> str:
        """The number of clips for each kind of reason, without details of single clips; "" for none."""
        kinds = Counter(re.split(r" after [\d.]+|[:;(]|, [A-Z]", entry["reason"])[0].strip() for entry in self.entries)
        return "; ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def usable(sources: Iterable[Source], audio: str, skipped: Skipped) -> tuple[list[Source], bool]:
    """The inspected clips that suit the choice ``audio`` (see PrepareConfig), and whether audio is kept.

    Raises :class:`InputError` where no clip is left, where "auto" finds clips with and without audio, and where
    "require" or "silence" finds no audio at all.
    """
    readable = []
    for source in sources:
        if source.reason:
            skipped.add(source, source.reason)
        else:
            readable.append(source)
    if not readable:
        raise InputError("none of the clips can be read: the reasons are in the lines above")
    with_audio = sum(source.has_audio for source in readable)
    if with_audio == 0 and audio in ("require", "silence"):
        raise InputError(f"none of the clips has audio, so --audio {audio} can't be: choose --audio none")
    if audio == "auto" and 0 < with_audio < len(readable):
        raise InputError(
            f"{len(readable) - with_audio} of {len(readable)} clips have no audio. Choose --audio require (skip them), "
            "--audio silence (fill in silence) or --audio none (video only)"
        )
    if audio == "require":
        for source in readable:
            if not source.has_audio:
                skipped.add(source, "it has no audio")
        readable = [source for source in readable if source.has_audio]
    return readable, with_audio > 0 and audio != "none"
