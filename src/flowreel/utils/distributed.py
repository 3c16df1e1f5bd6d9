"""One process, or those that torchrun started, and what they tell each other.

Knows: this process's place, how values go round, and that all end when one can't go on. Does not know: what they do.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from flowreel.errors import InputError, require

T = TypeVar("T")

_PATIENCE = timedelta(days=30)  # one may encode for days while another waits
_HEARING_SECONDS = 20.0
_TELLING_SECONDS = 5.0


class Processes:
    """The place of this process: ``rank`` of ``world``, on ``device``. All have to make the same calls."""

    def __init__(self) -> None:
        self.rank, self.world = place()
        self.device = device()
        if self.world > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            else:  # or Accelerate, when the codec is fitted, takes each process for a run of its own
                os.environ.setdefault("ACCELERATE_USE_CPU", "true")
            self._group = _join_group()

    @property
    def lead(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        return self._exchange(value, None)

    def from_lead(self, value: T) -> T:
        """The value of the process that leads."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Go on when all are here."""
        self.gather(None)

    def fail(self, error: Exception) -> bool:
        """Let all others raise at their next call. Whether they heard it soon: they may wait for this process in a
        training step."""
        text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        telling = threading.Thread(target=self._exchange, args=(None, text), daemon=True)
        telling.start()
        telling.join(_HEARING_SECONDS)
        if telling.is_alive():
            atexit.unregister(leave_group)  # it would wait for them too
        return not telling.is_alive()

    def _exchange(self, value: T, error: str | None) -> list[T]:
        if self.world == 1:
            return [value]
        said: list[Any] = [None] * self.world
        distributed.all_gather_object(said, (value, error), group=self._group)
        errors = [text for _, text in said if text is not None]
        if errors and error is None:
            raise _ElsewhereError(errors[0])
        return [each for each, _ in said]


class _ElsewhereError(Exception):
    """Another process can't go on; says why."""


def place() -> tuple[int, int]:
    """The number of this process, and of how many that torchrun started."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextmanager
def together() -> Iterator[Processes]:
    """Do the block in every process that torchrun started, each with its place.

    An :class:`InputError` or :class:`OSError` in one of them ends all: the one that leads raises it, the others leave
    with exit code 2 and say nothing. If they don't hear of it, the one that it happened to raises it.
    """
    processes = Processes()
    try:
        yield processes
        processes.wait()
    except _ElsewhereError as error:
        if processes.lead:
            raise InputError(str(error)) from error
        _leave_after_lead()
    except (InputError, OSError) as error:
        heard = processes.fail(error)
        if processes.lead or not heard:
            raise
        _leave_after_lead()


def _leave_after_lead() -> None:
    """End with exit code 2, as the process that leads does, but not before it has told why: when one of its processes
    fails, torchrun terminates the others at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(2))
    time.sleep(_TELLING_SECONDS)
    raise SystemExit(2)


def _join_group() -> Any:
    """A group of all processes for what they tell each other, beside the one that training in them uses."""
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        atexit.register(leave_group)  # not earlier: training in this process goes on with the same group
    return distributed.new_group(backend="gloo", timeout=_PATIENCE)


PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: one of them writes checkpoints and previews while the others wait."""


def machine() -> Any:
    """Accelerate's view of this process: its rank, its device, its place among the others."""
    accelerate = require("accelerate", "train")
    patience = require("accelerate.utils", "train").InitProcessGroupKwargs(timeout=PATIENCE)
    # Unless it is told, Accelerate takes each process of a CPU for a run of its own.
    made = accelerate.Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])
    atexit.register(leave_group)
    return made


def leave_group() -> None:
    """Part from the other processes, while Python still runs.

    A thread of gloo that lets go of a tensor after the interpreter was taken down aborts the process: so the groups'
    threads are ended before, which they are when nothing refers to their group any more.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
        gc.collect()
