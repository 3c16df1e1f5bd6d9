"""Walks a folder of clips: finds its media files, and the files and folders that can't be read.

What the files mean (split, class) is the concern of :mod:`flowreel.data.sources`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowreel.media.recognise import OTHER_SUFFIXES, VIDEO_SUFFIXES, is_video_file
from flowreel.utils.reporting import Report

_SHOWN = 6  # suffixes of other files that a message lists


@dataclass(frozen=True)
class MediaFile:
    """A media file; ``name`` is its path below the folder, with slashes. That of an unreadable folder ends in one.

    ``status`` is the result of ``stat``, or None, with a ``reason``, for a file or folder that can't be read.
    """

    name: str
    status: os.stat_result | None
    reason: str = ""


class Scan:
    """Every media file below ``folder``, in ``files``, sorted by name; unreadable ones are included.

    Links are followed. A link to a folder that contains it is skipped, and so is a folder that was read already in the
    same ``group`` (a function of its name); :meth:`report_skipped` reports both. Names that begin with a dot and the
    folder ``leave_out`` are ignored. Pipes, sockets and devices are not opened. Raises :class:`OSError` where
    ``folder`` itself can't be read.
    """

    def __init__(self, folder: Path, leave_out: Path | str | None, group: Callable[[str], str]) -> None:
        self.folder, self._group = folder, group
        self._leave_out = None if leave_out is None else os.path.realpath(leave_out)
        self._files: list[MediaFile] = []
        self._others: Counter[str] = Counter()
        self._notes: list[str] = []
        self._read: dict[tuple[str, str], str] = {}
        self._enter(folder, "", ())
        self.files = sorted(self._files, key=lambda file: file.name)

    @property
    def others(self) -> str:
        """The number of other files and their suffixes, in words; "" where there are none."""
        count = self._others.total()
        if not count:
            return ""
        kinds = sorted(self._others)
        shown = [kind or "no suffix" for kind in kinds[:_SHOWN]]
        if len(kinds) > _SHOWN:
            shown.append("...")
        return f"{count} other {'file' if count == 1 else 'files'} ({', '.join(shown)})"

    def report_skipped(self, report: Report) -> None:
        """Report the folders that were skipped, and the number of other files."""
        for note in self._notes:
            report(note)
        if self.others:
            report(f"{self.others} {'is no clip' if self._others.total() == 1 else 'are not clips'}")

    def _enter(self, path: Path, name: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(path)
        if real == self._leave_out:
            return
        if real in above:
            self._notes.append(f"left out {name}: it leads back to a folder that contains it")
            return
        first = self._read.setdefault((self._group(name), real), name)
        if first != name:
            self._notes.append(f"left out {name}: its files are those of {first}")
            return
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not name:
                raise
            self._files.append(MediaFile(name, None, f"the folder can't be read: {error.strerror or error}"))
            return
        for entry in entries:
            if not entry.name.startswith("."):
                self._look_at(entry, name + entry.name, (*above, real))

    def _look_at(self, entry: os.DirEntry[str], name: str, above: tuple[str, ...]) -> None:
        suffix = Path(entry.name).suffix.lower()
        try:
            status = entry.stat()
            if stat.S_ISDIR(status.st_mode):
                self._enter(Path(entry.path), f"{name}/", above)
                return
            is_media, reason = _inspect(Path(entry.path), status)
        except OSError as error:
            is_media, reason = suffix not in OTHER_SUFFIXES, _unreadable(entry, error)
        if is_media:
            self._files.append(MediaFile(name, None if reason else status, reason))
        else:
            self._others[suffix] += 1


def _inspect(path: Path, status: os.stat_result) -> tuple[bool, str]:
    """Whether a file is a media file, and the reason why it can't be used, or ""."""
    suffix = path.suffix.lower()
    if not stat.S_ISREG(status.st_mode):
        return suffix in VIDEO_SUFFIXES, "it is a pipe, a socket or a device, not a file"
    if suffix not in OTHER_SUFFIXES and not os.access(path, os.R_OK):
        return True, f"it can't be read: {os.strerror(errno.EACCES)}"
    return is_video_file(path), ""


def _unreadable(entry: os.DirEntry[str], error: OSError) -> str:
    if entry.is_symlink() and error.errno == errno.ENOENT:
        return "it is a link to something that is not there"
    if error.errno == errno.ELOOP:
        return "it is a link that leads back to itself"
    return f"it can't be read: {error.strerror or error}"
