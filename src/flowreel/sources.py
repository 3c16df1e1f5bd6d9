"""Which clips a folder holds, and which of them can be used.

Knows: the published layouts, what makes a clip unusable, whether sound is kept. Does not know: what is done with clips.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flowreel.errors import InputError
from flowreel.media import probe
from flowreel.report import Report
from flowreel.shards import SPLITS

SUFFIXES = (".avi", ".mp4", ".webm", ".mov", ".mkv")


@dataclass(frozen=True)
class Source:
    """One clip's file. ``name`` is its path below the folder of clips, with slashes; ``label`` its class, or None;
    ``size`` in bytes; ``sound`` whether it has any, once it was looked into."""

    path: Path
    name: str
    split: str
    label: str | None
    size: int
    sound: bool = False


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
    files = sorted(_walk(folder, leave_out))
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


class Skipped:
    """The clips that can't be used: each is told once, and kept for the index."""

    def __init__(self, report: Report) -> None:
        self.entries: list[dict[str, str]] = []
        self._report = report

    def add(self, source: Source, reason: InputError | str) -> None:
        text = str(reason).removeprefix(str(source.path)).lstrip(": ")
        self.entries.append({"path": source.name, "reason": text})
        self._report(f"skipped {source.name}: {text}")


def usable(sources: Iterable[Source], audio: str, skipped: Skipped) -> tuple[list[Source], bool]:
    """The clips that can be read and suit the choice ``audio`` (see PrepareConfig), and whether sound is kept.

    Raises :class:`InputError` where no clip is left, where "auto" finds clips with and without sound, and where
    "silence" finds no sound at all.
    """
    readable = []
    for source in sources:
        try:
            readable.append(replace(source, sound=probe(source.path).has_audio))
        except InputError as error:
            skipped.add(source, error)
    if not readable:
        raise InputError("none of the clips can be read: the reasons are in the lines above")
    if audio == "require":
        for source in readable:
            if not source.sound:
                skipped.add(source, "it has no sound")
        readable = [source for source in readable if source.sound]
    heard = sum(source.sound for source in readable)
    if heard == 0 and audio in ("require", "silence"):
        raise InputError(f"none of the clips has sound, so --audio {audio} can't be: choose --audio none")
    if audio == "auto" and 0 < heard < len(readable):
        raise InputError(
            f"{len(readable) - heard} of {len(readable)} clips have no sound. Choose --audio require (skip them), "
            "--audio silence (fill in silence) or --audio none (video only)"
        )
    return readable, heard > 0 and audio != "none"
