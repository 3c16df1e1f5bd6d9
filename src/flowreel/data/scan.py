"""What lies in a folder of clips: its films, by name, and all that hinders reading them.

Knows: links, loops, folders that can't be read, what is no file. Does not know: layouts, splits, classes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowreel.media.recognise import FILMS, OTHERS, is_film
from flowreel.utils.reporting import Report

_SHOWN = 6  # kinds of other files that are named


@dataclass(frozen=True)
class Film:
    """A film below the folder, by its path there with slashes; a folder's ends in one.

    ``status`` is what the system says of the file; None, and a ``reason``, for what can't be read.
    """

    name: str
    status: os.stat_result | None
    reason: str = ""


class Scan:
    """A look at every file below ``folder``. ``films``: by name; those that can't be read are among them.

    Links are followed. A folder that leads back to one that it lies in is passed over, and so is one that was read
    already in the same ``group`` (a function of its name), which is noted. Names that begin with a dot and the folder
    ``leave_out`` are passed over without a word. Only files are opened: no pipe, socket or device. Raises
    :class:`OSError` where ``folder`` itself can't be read.
    """

    def __init__(self, folder: Path, leave_out: Path | str | None, group: Callable[[str], str]) -> None:
        self.folder, self._group = folder, group
        self._leave_out = None if leave_out is None else os.path.realpath(leave_out)
        self._films: list[Film] = []
        self._others: Counter[str] = Counter()
        self._notes: list[str] = []
        self._read: dict[tuple[str, str], str] = {}
        self._enter(folder, "", ())
        self.films = sorted(self._films, key=lambda film: film.name)

    @property
    def others(self) -> str:
        """How many files are no clips, and of what kinds, in words; "" where there are none."""
        count = self._others.total()
        if not count:
            return ""
        kinds = sorted(self._others)
        shown = ", ".join([*(kind or "no suffix" for kind in kinds[:_SHOWN]), *(["..."] * (len(kinds) > _SHOWN))])
        return f"{count} other {'file' if count == 1 else 'files'} ({shown})"

    def tell(self, report: Report) -> None:
        """Report which folders were passed over, and how many files are no clips."""
        for note in self._notes:
            report(note)
        if self.others:
            report(f"{self.others} {'is no clip' if self._others.total() == 1 else 'are not clips'}")

    def _enter(self, path: Path, name: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(path)
        if real == self._leave_out:
            return
        if real in above:
            self._notes.append(f"left out {name}: it leads back to a folder that it lies in")
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
            self._films.append(Film(name, None, f"the folder can't be read: {error.strerror or error}"))
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
            film, reason = _looked_into(Path(entry.path), status)
        except OSError as error:
            film, reason = suffix not in OTHERS, _unreadable(entry, error)
        if film:
            self._films.append(Film(name, None if reason else status, reason))
        else:
            self._others[suffix] += 1


def _looked_into(path: Path, status: os.stat_result) -> tuple[bool, str]:
    """Whether a file is a film, and why it can't be used."""
    suffix = path.suffix.lower()
    if not stat.S_ISREG(status.st_mode):
        return suffix in FILMS, "it is a pipe, a socket or a device, not a file"
    if suffix not in OTHERS and not os.access(path, os.R_OK):
        return True, f"it can't be read: {os.strerror(errno.EACCES)}"
    return is_film(path), ""


def _unreadable(entry: os.DirEntry[str], error: OSError) -> str:
    if entry.is_symlink() and error.errno == errno.ENOENT:
        return "it is a link to something that is not there"
    if error.errno == errno.ELOOP:
        return "it is a link that leads back to itself"
    return f"it can't be read: {error.strerror or error}"
