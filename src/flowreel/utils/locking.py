"""One process at a time works in a folder: the file ``.lock`` in it says which.

Knows: how a lock appears in one step, who holds it, when its holder is gone. Does not know: what is done in the folder.

A lock holds the host, the process and when that started, so that another process with the same number is not taken for
it. It is removed when the work ends, fails, or is ended by a signal. What a killed process left is taken over by the
next one on the same host; whether a process on another host is alive can't be seen, so its lock is never taken over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from flowreel.errors import InputError
from flowreel.utils.reporting import Report, silent

LOCK = ".lock"

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: what its file says. ``started`` is "" where the system does not say when a process started."""

    host: str
    process: int
    started: str
    since: str
    purpose: str = ""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def this_process(cls, purpose: str = "") -> Holder:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(socket.gethostname(), os.getpid(), _state_and_start(os.getpid())[1], since, purpose)

    @property
    def is_gone(self) -> bool:
        """Whether the process has certainly ended."""
        if self.host != socket.gethostname() or os.name != "posix":
            return False
        if self.process == os.getpid():  # an earlier process with this number, or a copy of a folder
            return self.token not in _held
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # there is one, of another user
        state, started = _state_and_start(self.process)
        return state == "Z" or bool(started and self.started and started != self.started)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@dataclass(frozen=True)
class _Held:
    """A lock of this process, and the thread that took it."""

    path: Path
    holder: Holder
    thread: int

    def release(self) -> None:
        """Remove the file, if it still is this one; a forked process leaves it to the one that took it."""
        if self.holder.process == os.getpid() and _read(self.path) == self.holder:
            self.path.unlink(missing_ok=True)


_held: dict[str, _Held] = {}
"""The locks of this process, by token."""


@contextlib.contextmanager
def held(folder: Path, report: Report = silent, purpose: str = "") -> Iterator[bool]:
    """Hold the lock of ``folder``, which is made if it is not there, for a block; whether this process holds it.

    Within a block of the same thread this does nothing more. A process with the same ``purpose``, if it is not empty,
    joins the one that holds the lock, without holding it. A lock whose holder is gone is taken over, which ``report``
    is told. A folder that can't be written to needs no lock. Folders that were made and are empty are removed at the
    end.

    Raises:
        InputError: another process, or another thread of this one, holds the lock; ``folder`` is a file.
        OSError: the lock, or the folder, can't be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder to write to")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        holder = _take(folder, report, purpose)
        if holder is None:
            yield False
            return
        mine = _Held(folder / LOCK, holder, threading.get_ident())
        if holder.token in _held:
            yield True
            return
        with _releasing(mine):
            yield True
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is used
                path.rmdir()


def contents(folder: Path) -> list[Path]:
    """What is in ``folder`` but for its lock, sorted; nothing where there is no folder."""
    return sorted(path for path in folder.iterdir() if not _is_lock(path)) if folder.is_dir() else []


def _is_lock(path: Path) -> bool:
    return path.name == LOCK or path.name.startswith(f"{LOCK}.")


# --- taking -------------------------------------------------------------------------------------------------------


def _take(folder: Path, report: Report, purpose: str) -> Holder | None:
    """The holder that this process is from now on, or is already; None where it joins another."""
    lock, me = folder / LOCK, Holder.this_process(purpose)
    while True:
        found = _read(lock)
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            if _create(lock, me):
                break
        elif _is_of_this_thread(found):
            return found
        elif found.is_gone:
            if _take_over(lock, found, me):
                report(f"{folder} was in use by {found}, which is gone: going on")
                break
        elif purpose and found.purpose == purpose:
            return None
        else:
            raise InputError(_told(folder, found))
    for leftover in folder.glob(f"{LOCK}.*"):
        leftover.unlink(missing_ok=True)
    return me


def _is_of_this_thread(holder: Holder) -> bool:
    mine = _held.get(holder.token)
    return mine is not None and (holder.process, mine.thread) == (os.getpid(), threading.get_ident())


def _told(folder: Path, holder: Holder) -> str:
    if holder.token in _held and holder.process == os.getpid():
        return f"{folder} is in use by this process since {holder.since}: wait until that is done"
    return (
        f"{folder} is in use by {holder} since {holder.since}: "
        f"wait for it, or delete {folder / LOCK} if that process is gone"
    )


def _create(lock: Path, me: Holder) -> bool:
    """Make the lock in one step, with its content; False where another was faster. True too where nothing can be
    written to the folder."""
    try:
        with _written(lock, me) as temporary:
            try:
                os.link(temporary, lock)
            except (FileExistsError, FileNotFoundError):
                return _read(lock) == me  # a network may do it and say that it failed
            except OSError:  # a file system without hard links
                with lock.open("x", encoding="utf-8") as file:
                    file.write(temporary.read_text(encoding="utf-8"))
        return True
    except (FileExistsError, FileNotFoundError):  # another was faster, or has just removed the folder that it made
        return False
    except OSError as error:
        if error.errno in _UNWRITABLE:
            return True
        raise


def _take_over(lock: Path, gone: Holder, me: Holder) -> bool:
    """Put this process's lock in the place of the one of a process that is ``gone``; False where another was faster."""
    import fcntl

    try:
        with lock.open(encoding="utf-8") as file:
            with contextlib.suppress(OSError):  # not every network file system has it
                fcntl.flock(file, fcntl.LOCK_EX)  # of several that come at once, one replaces this very file
            if not os.path.samestat(os.fstat(file.fileno()), lock.stat()) or _read(lock) != gone:
                return False
            with _written(lock, me) as temporary:
                temporary.replace(lock)
            return True
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _written(lock: Path, holder: Holder) -> Iterator[Path]:
    """A file beside ``lock`` that holds ``holder``."""
    temporary = lock.with_name(f"{LOCK}.{holder.token}")
    try:
        temporary.write_text(json.dumps(dataclasses.asdict(holder)), encoding="utf-8")
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _read(lock: Path) -> Holder | None:
    """What a lock says, None where there is none."""
    try:
        return Holder(**json.loads(lock.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{lock}, which says who uses the folder, can't be read ({error}): delete it if no process does"
        ) from error


def _state_and_start(process: int) -> tuple[str, str]:
    """Of a process, its state ("Z": ended, not yet cleared away) and when it started, as Linux says; "" elsewhere."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return fields[0], f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return "", ""


# --- releasing ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _releasing(mine: _Held) -> Iterator[None]:
    """Release the lock after the block, also where a signal ends the process."""
    before: dict[int, Any] = {}
    _held[mine.holder.token] = mine
    if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
        for number in _ENDING:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _release_all)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        del _held[mine.holder.token]
        mine.release()


def _release_all(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Release what this process holds, and end as the signal ends a process."""
    for mine in _held.values():
        mine.release()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
