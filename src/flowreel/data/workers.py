"""A pool of processes that survives workers which crash or hang.

Processes are spawned, because OpenMP does not survive a fork, and use one thread each. The work is passed as a
*factory*, a function at the top level of a module, whose result ``work(item, beat)`` is called with each item. Work
calls ``beat(n)`` from time to time to report that ``n`` more units (such as frames) are done.
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
"""Seconds without a heartbeat after which a process is considered hung."""
START_PATIENCE = 600.0
"""Seconds in which a process must have started."""
MOST = 8
"""Most processes that are started if no number is chosen."""

Beat = Callable[[int], None]
Work = Callable[[Any, Beat], Any]
Factory = Callable[..., Work]

_NOTHING = object()


@dataclass(frozen=True)
class WorkerFailure:
    """The result of an item whose process died or hung."""

    reason: str


def cores() -> int:
    """Processor cores for this process: those available, divided by the processes that torchrun started here."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class Pool:
    """Up to ``count`` worker processes, started when there is work; 0 means one for each core, at most ``MOST``.

    The pool is a context manager. Its processes end with the block, or with this process, however it ends.
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
        """Yield each item with the result of ``factory(*arguments)(item, beat)``, in the order of completion.

        The result is a :class:`WorkerFailure` where the process died or hung. With ``count`` 1, or ``here``, all work
        is done in this process.

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
                    kind, value = worker.receive() if connection in ready else worker.check_alive()
                except EOFError:
                    kind, value = "lost", worker.exit_reason()
                    worker.begin(factory, arguments, queue)
                if kind == "beat":
                    beat(value)
                elif kind != "nothing":
                    if kind == "done":
                        worker.feed(queue)
                    yield item, WorkerFailure(value) if kind == "lost" else value

    def _worker(self, number: int) -> _Worker:
        while len(self._workers) <= number:
            self._workers.append(_Worker())
        return self._workers[number]


class _Worker:
    """A worker process, as seen by the one that started it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.item: Any = _NOTHING
        self.ready = False
        self.last_message = time.monotonic()
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        with _no_main():
            self.process.start()
        theirs.close()

    def begin(self, factory: Factory, arguments: Sequence[Any], queue: deque[Any]) -> None:
        """Send the work and the first item."""
        if queue:
            if not self.process.is_alive():
                self.start()
            self.ready = False
            self._send(("begin", (factory, tuple(arguments))))
        self.feed(queue)

    def feed(self, queue: deque[Any]) -> None:
        """Send the next item, if there is one."""
        self.item = queue.popleft() if queue else _NOTHING
        self.last_message = time.monotonic()
        if self.item is not _NOTHING:
            self._send(("item", self.item))

    def _send(self, message: tuple[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it died: receive() raises EOFError
            self.connection.send(message)

    def receive(self) -> tuple[str, Any]:
        """Receive its next message. Raises the error that its work raised, EOFError if the process died."""
        try:
            kind, value = self.connection.recv()
        except ConnectionError as error:
            raise EOFError from error
        self.last_message = time.monotonic()
        if kind == "input":
            raise value
        if kind == "system":
            raise OSError(*value)
        if kind == "ready":
            self.ready = True
            return "nothing", None
        return kind, value

    def check_alive(self) -> tuple[str, Any]:
        """Raise EOFError if the process has sent nothing for too long."""
        if time.monotonic() - self.last_message > (PATIENCE if self.ready else START_PATIENCE):
            raise EOFError
        return "nothing", None

    def exit_reason(self) -> str:
        """End the process and return why it ended. Raises if the item was not the cause."""
        self.connection.close()
        self.process.join(1)
        code = self.process.exitcode
        if code is None:
            self.end()
            how = f"made no progress for {(PATIENCE if self.ready else START_PATIENCE) / 60:.3g} minutes"
        elif code >= 0:
            raise RuntimeError(f"a worker process failed with exit code {code}; --workers 1 uses none")
        else:
            how = f"died ({signal.Signals(-code).name})"
            if -code == getattr(signal, "SIGKILL", None):
                how += ": is memory short?"
        if not self.ready:
            raise InputError(f"a worker process {how} while it started; choose fewer --workers, or 1 for none")
        return f"the process that read it {how}"

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Hide the main script from spawned processes, which would run it and don't need it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# --- in the worker process ----------------------------------------------------------------------------------------


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches all processes: the parent ends this one
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    demux.threads = 1
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has ended
        work: Work | None = None
        while True:
            kind, value = connection.recv()
            try:
                if kind == "begin":
                    factory, arguments = value
                    work = factory(*arguments)
                    answer: tuple[str, Any] = ("ready", None)
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


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
