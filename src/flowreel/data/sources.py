"""Which clips a folder holds, and which of them can be used.

Knows: the published layouts, what makes a clip unusable, whether sound is kept. Does not know: what is done with clips.
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
from flowreel.data.scan import Film, Scan
from flowreel.data.shards import SPLITS
from flowreel.data.workers import Beat, Work
from flowreel.errors import InputError
from flowreel.media import MediaInfo, probe
from flowreel.utils.reporting import Report, silent

_END = 64 * 2**10  # bytes
_LONGEST = 1e6  # seconds: what states more is damaged


@dataclass(frozen=True)
class Source:
    """One clip's file. ``name`` is its path below the folder of clips, with slashes; ``label`` its class, or None;
    ``size`` in bytes, -1 where the system does not say; ``modified`` when it was changed last, in nanoseconds;
    ``reason`` why it can't be used, or "". Once it was looked into: ``sound`` whether it has any, ``seconds`` as it
    states them, and the ``digest`` of its ends."""

    path: Path
    name: str
    split: str
    label: str | None
    size: int
    modified: int = 0
    sound: bool = False
    seconds: float = 0.0
    digest: str = ""
    reason: str = ""


def find_clips(folder: Path | str, leave_out: Path | str | None = None, report: Report | None = None) -> list[Source]:
    """Every clip in ``folder``: those of train before those of test, each sorted by name.

    The published layouts are ``{train,test}/<class>/*``, ``{train,test}/*``, ``<class>/*`` and ``*``: without a folder
    ``train`` everything is for training, beside it only ``test`` counts. The class is the first folder below, however
    deep the file lies; a link to a folder is a class like a folder. What FFmpeg plays is a clip, whatever its suffix.
    What seems to be one and can't be read (a file, a link, a folder) is among them with the ``reason``, and so is a
    file of test that is in train too. Names that begin with a dot and the folder ``leave_out`` are passed over;
    ``report`` is told what else is. Raises :class:`InputError` where there is no clip to train on.
    """
    folder, report = Path(folder), report or silent
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of clips")
    scan = Scan(folder, leave_out, _group)
    scan.tell(report)
    films = [film for film in scan.films if _is_text(film.name)]
    if len(films) < len(scan.films):
        odd = next(film.name for film in scan.films if not _is_text(film.name))
        left_out = len(scan.films) - len(films)
        report(f"left out {left_out} clips whose names are not UTF-8: rename {os.fsencode(odd)!r}, ...")
    if not films:
        also = f"; it has {scan.others}" if scan.others else ""
        raise InputError(f"{folder} has no clips: nothing in it or in its folders is a film that FFmpeg can play{also}")
    split_up = any(film.name.startswith("train/") for film in films)
    if not split_up and any(film.name.startswith("test/") for film in films):
        raise InputError(f"{folder} has clips in test but none in train: move some there, or give {folder / 'test'}")
    outside = [film.name for film in films if split_up and film.name.split("/")[0] not in SPLITS]
    if outside:
        report(f"left out {len(outside)} clips that lie outside {folder}/train and {folder}/test: {outside[0]}, ...")
    inside = [film for film in films if not split_up or film.name.split("/")[0] in SPLITS]
    trained_on = {_file_of(film): film.name for film in inside if film.name.startswith("train/")} if split_up else {}
    sources = [_source(folder, film, split_up, trained_on) for film in inside]
    return sorted(sources, key=lambda source: SPLITS.index(source.split))


def _group(name: str) -> str:
    """The class folder that a name lies in: there, no folder is read twice."""
    parts = name.split("/")
    return "/".join(parts[: 2 if parts[0] in SPLITS else 1])


def _file_of(film: Film) -> tuple[int, ...]:
    """What two names of one file have in common; nothing where the system does not number files."""
    status = film.status
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status and status.st_ino else ()


def _source(folder: Path, film: Film, split_up: bool, trained_on: dict[tuple[int, ...], str]) -> Source:
    parts = film.name.split("/")
    split = parts.pop(0) if split_up else "train"
    label = class_name(parts[0]) if len(parts) > 1 else None
    reason, file = film.reason, _file_of(film)
    if split == "test" and file and file in trained_on:
        reason = f"it is trained on too (it is the file {trained_on[file]})"
    size, modified = (film.status.st_size, film.status.st_mtime_ns) if film.status else (-1, 0)
    return Source(folder / film.name, film.name, split, label, size, modified, reason=reason)


def _is_text(name: str) -> bool:
    """Whether an index can have it: names of files may be any bytes."""
    return name.encode(errors="replace").decode() == name


def look_into() -> Work:
    """Work that completes a :class:`Source` with what its file says, in any process."""

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
        return replace(source, sound=info.has_audio, seconds=stated, digest=digest)

    return work


def digest_of_ends(path: Path) -> str:
    """A hash of a file's first and last 64 KiB, which tells a clip from another of the same size."""
    with path.open("rb") as file:
        found = hashlib.blake2b(file.read(_END), digest_size=16)
        file.seek(max(file.tell(), path.stat().st_size - _END))
        found.update(file.read(_END))
    return found.hexdigest()


def probed(sources: Iterable[Source], report: Report) -> Iterator[MediaInfo | None]:
    """What each clip's file says; None for those that can't be used, which ``report`` is told."""
    for source in sources:
        try:
            if source.reason:
                raise InputError(source.reason)
            yield probe(source.path)
        except InputError as error:
            report(f"left out {source.name}: {error.reason}")
            yield None


class Skipped:
    """The clips that can't be used: each is told once, and kept for the index."""

    def __init__(self, report: Report) -> None:
        self.entries: list[dict[str, str]] = []
        self._report = report

    def add(self, source: Source, reason: str) -> None:
        self.entries.append({"path": source.name, "reason": reason})
        self._report(f"skipped {source.name}: {reason}")

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
