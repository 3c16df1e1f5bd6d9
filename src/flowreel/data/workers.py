"""Work on many items in processes of their own, none of which can take the others with it.

Knows: how processes are started, fed one item at a time, watched, replaced and ended. Does not know: what is done.

They are spawned, as OpenMP does not survive a fork, and have one thread each. Work is a *factory*, a function at the
top of a module, whose result ``work(item, beat)`` is called with each item; ``beat(n)`` now and then says that ``n``
more of something is done.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, Self

import torch

from flowreel.errors import InputError
from flowreel.media import demux

PATIENCE = 600.0
"""Seconds without a heartbeat after which a process is taken to hang."""
START_PATIENCE = 600.0
"""Seconds that a process may take to start."""
MOST = 8
"""Processes that are started at most where their number is left open."""

Beat = Callable[[int], None]
Work = Callable[[Any, Beat], Any]
Factory = Callable[..., Work]

_NOTHING = object()


@dataclass(frozen=True)
class Lost:
    """What an item gave whose process died or hung."""

    reason: str


def cores() -> int:
    """Processor cores that this process may use, shared among those that torchrun started on this machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class Pool:
    """Up to ``count`` processes, started when there is work; ``count`` 0 is one for each core, at most ``MOST``.

    They end with the block that enters the pool, or with this process however it ends.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count or min(MOST, cores())
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def run(
        self, factory: Factory, arguments: Sequence[Any], items: Sequence[Any], beat: Beat, here: bool = False
    ) -> Iterator[tuple[Any, Any]]:
        """Each item with the result of ``factory(*arguments)(item, beat)``, in the order in which they are finished; a
        result is :class:`Lost` where the process died. With one process, or ``here``, all is done in this one.

        Raises :class:`InputError` and :class:`OSError` as the work does, :class:`RuntimeError` for a bug in it.
        """
        if here or self.count == 1:
            work = factory(*arguments)
            for item in items:
                yield item, work(item, beat)
            return
        queue = deque(items)
        workers = [self._worker(number) for number in range(min(self.count, len(queue)))]
        for worker in workers:
            worker.begin(factory, arguments, queue)
        while busy := {worker.connection: worker for worker in workers if worker.item is not _NOTHING}:
            ready = wait(list(busy), timeout=1)
            for connection, worker in busy.items():
                item = worker.item
                try:
                    kind, value = worker.hear() if connection in ready else worker.silence()
                except EOFError:
                    kind, value = "lost", worker.epitaph()
                    worker.begin(factory, arguments, queue)
                if kind == "beat":
                    beat(value)
                elif kind != "nothing":
                    if kind == "done":
                        worker.feed(queue)
                    yield item, Lost(value) if kind == "lost" else value

    def _worker(self, number: int) -> _Worker:
        while len(self._workers) <= number:
            self._workers.append(_Worker())
        return self._workers[number]


class _Worker:
    """One process, seen from the one that started it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.item: Any = _NOTHING
        self.begun = False
        self.heard = time.monotonic()
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        with _no_main():
            self.process.start()
        theirs.close()

    def begin(self, factory: Factory, arguments: Sequence[Any], queue: deque[Any]) -> None:
        """Let it make the work, and do the first item."""
        if queue:
            if not self.process.is_alive():
                self.start()
            self.begun = False
            self._send(("begin", (factory, tuple(arguments))))
        self.feed(queue)

    def feed(self, queue: deque[Any]) -> None:
        """Give it the next item, if there is any."""
        self.item = queue.popleft() if queue else _NOTHING
        self.heard = time.monotonic()
        if self.item is not _NOTHING:
            self._send(("item", self.item))

    def _send(self, message: tuple[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died: the next word from it is EOFError
            self.connection.send(message)

    def hear(self) -> tuple[str, Any]:
        """Its next word. Raises what its work raised, EOFError if it is dead."""
        try:
            kind, value = self.connection.recv()
        except ConnectionError as error:
            raise EOFError from error
        self.heard = time.monotonic()
        if kind == "input":
            raise value
        if kind == "system":
            raise OSError(*value)
        if kind == "begun":
            self.begun = True
            return "nothing", None
        return kind, value

    def silence(self) -> tuple[str, Any]:
        """Nothing was heard: EOFError, and the end, if that has been so for too long."""
        if time.monotonic() - self.heard > (PATIENCE if self.begun else START_PATIENCE):
            raise EOFError
        return "nothing", None

    def epitaph(self) -> str:
        """End what is left of it, and say why it ended. Raises if it was not the item's doing."""
        self.connection.close()
        self.process.join(1)
        code = self.process.exitcode
        if code is None:
            self.end()
            how = f"made no progress for {(PATIENCE if self.begun else START_PATIENCE) / 60:.3g} minutes"
        elif code >= 0:
            raise RuntimeError(f"a worker process failed with exit code {code}; --workers 1 does without them")
        else:
            name = signal.Signals(-code).name
            how = f"died ({name})" + ": is memory short?" * (name == "SIGKILL")
        if not self.begun:
            raise InputError(f"a worker process {how} as it started; choose fewer --workers, or 1 for none")
        return f"the process that read it {how}"

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Spawned processes run the script that started this one up to its ``if __name__ == "__main__"``, if it has that.
    These need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# --- in the other process -----------------------------------------------------------------------------------------


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all: who started this process ends it
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    demux.threads = 1
    with contextlib.suppress(EOFError, ConnectionError):  # who started this process is gone
        work: Work | None = None
        while True:
            kind, value = connection.recv()
            try:
                if kind == "begin":
                    factory, arguments = value
                    work = factory(*arguments)
                    answer: tuple[str, Any] = ("begun", None)
                else:
                    assert work is not None
                    answer = ("done", work(value, lambda n: connection.send(("beat", n))))
            except InputError as error:
                answer = ("input", error)
            except ConnectionError:
                raise
            except OSError as error:
                answer = ("system", (error.errno, error.strerror or str(error), error.filename))
            connection.send(answer)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
