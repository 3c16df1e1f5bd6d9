"""The processes of a run: rank, world, device, and what they exchange, on plain torch.distributed."""

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
from torch import Tensor, distributed

from flowreel.errors import InputError
from flowreel.utils.runtime import rank_and_world

T = TypeVar("T")

_TENSOR_TIMEOUT = timedelta(hours=2)  # one process writes checkpoints and previews while the others wait
_OBJECT_TIMEOUT = timedelta(days=30)  # one may encode for days while another waits
_ERROR_SECONDS = 20.0
_EXIT_SECONDS = 5.0


class Processes:
    """The processes that torchrun started, or this one alone: it is ``rank`` of ``world``, on ``device``.

    Creating it joins the process group. All methods are collective: every process has to make the same calls.
    """

    def __init__(self) -> None:
        self.rank, self.world = rank_and_world()
        self.device = device()
        if self.world > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            self._group = _join_group()

    @property
    def lead(self) -> bool:
        """Whether this process writes files and messages; rank 0 does."""
        return self.rank == 0

    def reduce(self, tensor: Tensor, mean: bool = True) -> Tensor:
        """The mean (or the sum) of a tensor over all processes, as a new tensor."""
        total = tensor.clone()
        if self.world > 1:
            distributed.all_reduce(total)
            if mean:
                total /= self.world
        return total

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        return self._exchange(value, None)

    def from_lead(self, value: T) -> T:
        """The value of rank 0."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self.gather(None)

    def fail(self, error: Exception) -> bool:
        """Send the error to all processes, which raise it at their next exchange. Returns False if some did not
        receive it in time, for example because they wait for this process in a training step."""
        text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        sending = threading.Thread(target=self._exchange, args=(None, text), daemon=True)
        sending.start()
        sending.join(_ERROR_SECONDS)
        if sending.is_alive():
            atexit.unregister(leave_group)  # it would wait for them too
        return not sending.is_alive()

    def _exchange(self, value: T, error: str | None) -> list[T]:
        if self.world == 1:
            return [value]
        received: list[Any] = [None] * self.world
        distributed.all_gather_object(received, (value, error), group=self._group)
        errors = [text for _, text in received if text is not None]
        if errors and error is None:
            raise _RemoteError(errors[0])
        return [each for each, _ in received]


class _RemoteError(Exception):
    """An error of another process; its text is that one's message."""


def device() -> torch.device:
    """The GPU of this process, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextmanager
def together() -> Iterator[Processes]:
    """Run the block in every process that torchrun started.

    An :class:`InputError` or :class:`OSError` in one of them ends all: rank 0 raises it, the others exit with code 2
    and without a message. If some did not receive the error, the process that it occurred in raises it.
    """
    processes = Processes()
    try:
        yield processes
        processes.wait()
    except _RemoteError as error:
        if processes.lead:
            raise InputError(str(error)) from error
        _exit_after_lead()
    except (InputError, OSError) as error:
        received = processes.fail(error)
        if processes.lead or not received:
            raise
        _exit_after_lead()


def _exit_after_lead() -> None:
    """Exit with code 2, as rank 0 does, but not before it has printed the error: when one process fails, torchrun
    terminates the others at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(2))
    time.sleep(_EXIT_SECONDS)
    raise SystemExit(2)


def _join_group() -> Any:
    """Join the default group, which exchanges tensors. Returns a second group of all processes, for Python objects."""
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_TENSOR_TIMEOUT)
        atexit.register(leave_group)  # not earlier: a later training in this process uses the same group
    return distributed.new_group(backend="gloo", timeout=_OBJECT_TIMEOUT)


def leave_group() -> None:
    """Destroy the process group before interpreter shutdown.

    A thread of gloo that releases a tensor after the interpreter was finalised aborts the process. Destroying the
    group ends its threads, provided that nothing refers to it any more.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
        gc.collect()
