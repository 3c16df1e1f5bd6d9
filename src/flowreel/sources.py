"""Which clips a folder holds, and which of them can be used.

Knows: the published layouts, what makes a clip unusable, whether sound is kept. Does not know: what is done with clips.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowreel.errors import InputError
from flowreel.media import MediaInfo, probe
from flowreel.report import Report
from flowreel.shards import SPLITS
from flowreel.workers import Beat, Work

SUFFIXES = (".avi", ".mp4", ".webm", ".mov", ".mkv")

_LONGEST = 1e6  # seconds: what states more is damaged


@dataclass(frozen=True)
class Source:
    """One clip's file. ``name`` is its path below the folder of clips, with slashes; ``label`` its class, or None;
    ``size`` in bytes. Once it was looked into: ``sound`` whether it has any, ``seconds`` as it states them, and, where
    it can't be used, the ``reason``."""

    path: Path
    name: str
    split: str
    label: str | None
    size: int
    sound: bool = False
    seconds: float = 0.0
    reason: str = ""


def find_clips(folder: Path | str, leave_out: Path | str | None = None, report: Report | None = None) -> list[Source]:
    """Every clip in ``folder``: those of train before those of test, each sorted by name.

    The published layouts are ``{train,test}/<class>/*``, ``{train,test}/*``, ``<class>/*`` and ``*``: without a folder
    ``train`` everything is for training, beside it only ``test`` counts (``report`` is told of other clips). The class
    is the first folder below, however deep the file lies. Suffixes are those of ``SUFFIXES`` in any case; names that
    begin with a dot and the folder ``leave_out`` are passed over. Raises :class:`InputError` where there is no clip to
    train on.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of clips")
    found = sorted(_walk(folder, leave_out))
    files = [name for name in found if _is_text(name)]
    if len(files) < len(found) and report:
        odd = next(name for name in found if not _is_text(name))
        report(f"left out {len(found) - len(files)} clips whose names are not UTF-8: rename {os.fsencode(odd)!r}, ...")
    if not files:
        raise InputError(f"{folder} has no clips: looked for {', '.join(SUFFIXES)} in it and in its folders")
    split_up = any(name.startswith("train/") for name in files)
    if not split_up and any(name.startswith("test/") for name in files):
        raise InputError(f"{folder} has clips in test but none in train: move some there, or give {folder / 'test'}")
    sources, others = [], []
    for name in files:
        parts = name.split("/")
        split = parts.pop(0) if split_up else "train"
        if split in SPLITS:
            path = folder / name
            sources.append(Source(path, name, split, parts[0] if len(parts) > 1 else None, path.stat().st_size))
        else:
            others.append(name)
    if others and report:
        report(f"left out {len(others)} clips that lie outside {folder}/train and {folder}/test: {others[0]}, ...")
    return sorted(sources, key=lambda source: SPLITS.index(source.split))


def _walk(folder: Path, leave_out: Path | str | None) -> Iterator[str]:
    """Names of clips below ``folder``, following links to folders, each folder once."""
    seen = set() if leave_out is None else {Path(leave_out).resolve()}
    for where, folders, files in os.walk(folder, followlinks=True):
        real = Path(where).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(where, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file():
                yield path.relative_to(folder).as_posix()


def _is_text(name: str) -> bool:
    """Whether an index can have it: names of files may be any bytes."""
    return name.encode(errors="replace").decode() == name


def look_into() -> Work:
    """Work that completes a :class:`Source` with what its file says, in any process."""

    def work(source: Source, beat: Beat) -> Source:
        try:
            info = probe(source.path)
        except InputError as error:
            return replace(source, reason=str(error))
        except OSError as error:
            return replace(source, reason=f"it can't be read: {error.strerror or error}")
        beat(1)
        stated = info.seconds if 0 < info.seconds < _LONGEST else 0.0
        return replace(source, sound=info.has_audio, seconds=stated)

    return work


def probed(sources: Iterable[Source], report: Report) -> Iterator[MediaInfo | None]:
    """What each clip's file says; None for those that can't be read, which ``report`` is told."""
    for source in sources:
        try:
            yield probe(source.path)
        except InputError as error:
            report(f"left out {source.name}: {error}")
            yield None


class Skipped:
    """The clips that can't be used: each is told once, and kept for the index."""

    def __init__(self, report: Report) -> None:
        self.entries: list[dict[str, str]] = []
        self._report = report

    def add(self, source: Source, reason: str) -> None:
        text = reason.removeprefix(str(source.path)).lstrip(": ")
        self.entries.append({"path": source.name, "reason": text})
        self._report(f"skipped {source.name}: {text}")

    def sort(self, sources: Sequence[Source]) -> None:
        """Into the order of ``sources``."""
        place = {source.name: number for number, source in enumerate(sources)}
        self.entries.sort(key=lambda entry: place[entry["path"]])

    def summary(self) -> str:
        """How many there are of each kind, without what tells clips of one kind apart; "" for none."""
        kinds = Counter(re.split(r" after [\d.]+|[:;(]|, [A-Z]", entry["reason"])[0].strip() for entry in self.entries)
        return "; ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def usable(sources: Iterable[Source], audio: str, skipped: Skipped) -> tuple[list[Source], bool]:
    """Of clips that were looked into, those that suit the choice ``audio`` (see PrepareConfig), and whether sound is
    kept.

    Raises :class:`InputError` where no clip is left, where "auto" finds clips with and without sound, and where
    "silence" finds no sound at all.
    """
    readable = []
    for source in sources:
        if source.reason:
            skipped.add(source, source.reason)
        else:
            readable.append(source)
    if not readable:
        raise InputError("none of the clips can be read: the reasons are in the lines above")
    heard = sum(source.sound for source in readable)
    if heard == 0 and audio in ("require", "silence"):
        raise InputError(f"none of the clips has sound, so --audio {audio} can't be: choose --audio none")
    if audio == "auto" and 0 < heard < len(readable):
        raise InputError(
            f"{len(readable) - heard} of {len(readable)} clips have no sound. Choose --audio require (skip them), "
            "--audio silence (fill in silence) or --audio none (video only)"
        )
    if audio == "require":
        for source in readable:
            if not source.sound:
                skipped.add(source, "it has no sound")
        readable = [source for source in readable if source.sound]
    return readable, heard > 0 and audio != "none"
