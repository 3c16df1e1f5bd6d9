"""Locks a folder for one process at a time, by the file ``.lock`` in it.

The file has the host, the process number and the time when that process started, so that a later process with the same
number is not mistaken for it. It is removed when the work ends, fails, or is ended by a signal. The lock of a killed
process is taken over by the next process on the same host. Whether a process on another host is alive can't be seen, so
its lock is never taken over.
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
    """The holder of a lock: the content of its file. ``started`` is "" where the system does not tell it."""

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
            pass  # it exists and belongs to another user
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
        """Remove the file, if it is still this lock; a forked process leaves that to its parent."""
        if self.holder.process == os.getpid() and _read(self.path) == self.holder:
            self.path.unlink(missing_ok=True)


_held: dict[str, _Held] = {}
"""The locks of this process, by token."""


@contextlib.contextmanager
def held(folder: Path, report: Report = silent, purpose: str = "") -> Iterator[bool]:
    """Hold the lock of ``folder`` during a block; yields whether this process holds it. A missing folder is made.

    A nested block of the same thread does nothing more. A process with the same nonempty ``purpose`` joins the holder
    without holding the lock itself. The lock of a process that has ended is taken over, and reported. A folder that
    can't be written to needs no lock. New folders that are still empty at the end are removed.

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
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def contents(folder: Path) -> list[Path]:
    """The content of ``folder`` except its lock, sorted; nothing if there is no folder."""
    return sorted(path for path in folder.iterdir() if not _is_lock(path)) if folder.is_dir() else []


def _is_lock(path: Path) -> bool:
    return path.name == LOCK or path.name.startswith(f"{LOCK}.")


# --- acquiring -------------------------------------------------------------------------------------------------------


def _take(folder: Path, report: Report, purpose: str) -> Holder | None:
    """Acquire the lock, or find that this thread has it already: its holder. None if this process joins another."""
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
                report(f"{folder} was in use by {found}, which has ended: the lock is taken over")
                break
        elif purpose and found.purpose == purpose:
            return None
        else:
            raise InputError(_in_use(folder, found))
    for leftover in folder.glob(f"{LOCK}.*"):
        leftover.unlink(missing_ok=True)
    return me


def _is_of_this_thread(holder: Holder) -> bool:
    mine = _held.get(holder.token)
    return mine is not None and (holder.process, mine.thread) == (os.getpid(), threading.get_ident())


def _in_use(folder: Path, holder: Holder) -> str:
    if holder.token in _held and holder.process == os.getpid():
        return f"{folder} is in use by this process since {holder.since}: wait until it has finished"
    return (
        f"{folder} is in use by {holder} since {holder.since}: "
        f"wait for it, or delete {folder / LOCK} if that process has ended"
    )


def _create(lock: Path, me: Holder) -> bool:
    """Create the lock with its content in one step; False if another process was faster.

    Also true if the folder can't be written to.
    """
    try:
        with _written(lock, me) as temporary:
            try:
                os.link(temporary, lock)
            except (FileExistsError, FileNotFoundError):
                return _read(lock) == me  # a network file system may succeed and still report a failure
            except OSError:  # a file system without hard links
                with lock.open("x", encoding="utf-8") as file:
                    file.write(temporary.read_text(encoding="utf-8"))
        return True
    except (FileExistsError, FileNotFoundError):  # another was faster, or has just removed its folder
        return False
    except OSError as error:
        if error.errno in _UNWRITABLE:
            return True
        raise


def _take_over(lock: Path, gone: Holder, me: Holder) -> bool:
    """Replace the lock of a process that has ended by that of this one; False if another process was faster."""
    import fcntl

    try:
        with lock.open(encoding="utf-8") as file:
            with contextlib.suppress(OSError):  # not every network file system supports it
                fcntl.flock(file, fcntl.LOCK_EX)  # of several processes at once, only one replaces the file
            if not os.path.samestat(os.fstat(file.fileno()), lock.stat()) or _read(lock) != gone:
                return False
            with _written(lock, me) as temporary:
                temporary.replace(lock)
            return True
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _written(lock: Path, holder: Holder) -> Iterator[Path]:
    """A temporary file beside ``lock`` with the content for ``holder``."""
    temporary = lock.with_name(f"{LOCK}.{holder.token}")
    try:
        temporary.write_text(json.dumps(dataclasses.asdict(holder)), encoding="utf-8")
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _read(lock: Path) -> Holder | None:
    """The holder of a lock, None if there is no lock."""
    try:
        return Holder(**json.loads(lock.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{lock}, the lock of the folder, can't be read ({error}): delete it if no process uses the folder"
        ) from error


def _state_and_start(process: int) -> tuple[str, str]:
    """State of a process ("Z": zombie) and the time when it started, from Linux; "" elsewhere."""
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
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers in the main thread only
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
    """Release all locks of this process, and end it by the signal's default action."""
    for mine in _held.values():
        mine.release()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
