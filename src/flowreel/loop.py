"""The one loop of every training run, of a flow or of a codec.

Knows: the order in which a run reports, saves, previews, stops and steps; how it resumes; how processes share it.
Does not know: what is trained on what: that is a :class:`Task` (``train.py``, ``train_codec.py``).

A run is a pure function of its settings and data: the clips of a step, everything random about sample ``n``, the
learning rate and the average's decay all follow from the seed and the position. So a resumed run equals one that was
never stopped, and processes or accumulation steps only change the rounding (and which samples stochastic depth hits).
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from flowreel import checkpoint
from flowreel.checkpoint import Checkpoint
from flowreel.config import LoopConfig, from_dict, to_dict
from flowreel.ema import EMA
from flowreel.errors import InputError, require
from flowreel.flow.noise import sample_seed
from flowreel.journal import Journal
from flowreel.optim import adamw, learning_rate
from flowreel.report import Report

Batch = dict[str, Tensor]

# What random numbers are for goes into their seed, so that the noise of a sample and its times never share theirs.
WEIGHTS, NETWORK, NOISE, ROLE = 0, 1, 2, 3

# Settings that may change when a run goes on: they alter its length, what is shown, or the rounding alone.
FREE = {
    "steps",
    "log",
    "save",
    "keep",
    "preview",
    "tracker",
    "compile",
    "checkpointing",
    "data.workers",
    "optim.accumulate",
}


def purpose_seed(seed: int, purpose: int, n: int) -> int:
    """The seed of position ``n`` of a run for one of the purposes above."""
    return sample_seed(sample_seed(seed, purpose), n)


class Task(Protocol):
    """What differs between training a flow and training a codec."""

    module: nn.Module
    data: dict[str, Any]
    """JSON-able facts about the data that must be the same when a run goes on."""

    def batches(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's micro-batches from step ``start`` on; ``"clip"`` (B,) are the numbers of their clips."""

    def losses(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scalars, each a mean over the micro-batch's samples; their sum is what is minimised. ``module`` is
        ``self.module``, wrapped: call it, take nothing else from it."""

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        """Write pictures or clips made with the averaged weights in ``module`` into ``folder``."""

    def export(self, module: nn.Module, folder: Path, step: int) -> None:
        """Write what the run is for, with the averaged weights, into ``folder``."""


def fit(task: Task, run: Path, config: LoopConfig, report: Report) -> Path:
    """Train until ``config.steps``, from the newest checkpoint in ``run`` if there is one. Returns ``run``.

    SIGINT and SIGTERM finish the step and save; then SIGINT raises :class:`KeyboardInterrupt`, SIGTERM returns.
    Under ``torchrun`` every process calls this, and they share each batch.

    Raises :class:`InputError` for a folder that is not a run's, settings that differ from the run's, a batch that can't
    be shared evenly, and a loss that is not finite.
    """
    session = Session(task, run, config, report)
    start, seconds = session.resume()
    if start >= config.steps:
        session.report(f"{run} has {start} of {config.steps} steps already: nothing to do (raise steps to go on)")
        return run
    board = config.tracker == "tensorboard"
    step, lr = start, 0.0
    with Stop() as stop, Journal(run, config.steps, start, seconds, session.report, board, session.lead) as journal:
        while True:
            last = step == config.steps or stop.agreed
            if session.lead and step > start:
                saving = last or step % config.save == 0

                # report
                if saving or step % config.log == 0:
                    journal.row(lr, shown=last or step % config.log == 0)

                # save
                if saving:
                    session.save(step, journal.seconds)
                    journal.draw()

                # preview
                if config.preview and (step == config.steps or step % config.preview == 0):
                    session.preview(step)

            # stop?
            if last:
                break

            # step
            lr = learning_rate(config.optim, step, config.steps)
            numbers = session.step(step, lr, stop)
            step += 1
            journal.add(step, numbers)

    if step < config.steps:
        session.report(
            f"stopped after step {step} of {config.steps}, saved in {run}: the same command goes on from there"
        )
        if stop.signal == signal.SIGINT:
            raise KeyboardInterrupt
    return run


class Session:
    """What one process holds while it trains: the network, its average, the optimizer, and its place among the others.

    ``lead`` is True in the one process that writes; ``report`` says nothing in the others.
    """

    def __init__(self, task: Task, run: Path, config: LoopConfig, report: Report) -> None:
        self.machine = require("accelerate", "train").Accelerator()
        self.rank, self.world = self.machine.process_index, self.machine.num_processes
        if config.batch % (self.world * config.optim.accumulate):
            raise InputError(
                f"batch {config.batch} can't be shared evenly among {self.world} process(es) with optim.accumulate "
                f"{config.optim.accumulate}: choose a multiple of {self.world * config.optim.accumulate}"
            )
        self.lead = self.machine.is_main_process
        self.report = report if self.lead else _silent
        self.task, self.run, self.config = task, run, config
        if self.machine.device.type == "cpu":
            torch.set_flush_denormal(True)  # tiny numbers are many times slower otherwise
        checkpoint.claim(run)
        self.ema = EMA(task.module, config.ema)
        self.ema.module.to(self.machine.device)
        self.model = self.machine.prepare_model(task.module)
        if config.compile:
            task.module.compile()
        self.optimizer = adamw(task.module, config.optim)
        self.batches: Iterator[Batch] = iter(())

    def resume(self) -> tuple[int, float]:
        """Take up the newest checkpoint. Returns its step and the seconds of training so far, or zeros."""
        saved = checkpoint.latest(self.run, self.report)
        step, seconds = 0, 0.0
        if saved is not None:
            before = saved.settings
            if before["run"] == type(self.config).__name__:  # options that were added since have their defaults
                before["config"] = to_dict(from_dict(type(self.config), before["config"], "saved settings"))
            checkpoint.check_same(self.run, before, self._settings(), FREE)
            self.task.module.load_state_dict(saved.model)
            self.ema.module.load_state_dict(saved.ema)
            checkpoint.load_optimizer(self.optimizer, self.task.module, saved.optimizer)
            step, seconds = saved.step, saved.seconds
            if self.lead and checkpoint.exported(self.run) != step:  # stopped between the checkpoint and its export
                self.export(step)
            if step < self.config.steps:
                self.report(f"going on from step {step} in {self.run}")
        self.batches = self.task.batches(step, self.rank, self.world)
        return step, seconds

    def step(self, step: int, lr: float, stop: Stop) -> dict[str, float]:
        """The optimizer step after ``step`` of them. Returns the loss, its parts and the norm of the gradient."""
        config, machine, parts = self.config, self.machine, self.config.optim.accumulate
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        clips: list[int] = []
        for part in range(parts):
            batch = next(self.batches)
            clips += batch["clip"].tolist()
            batch = {name: tensor.to(machine.device, non_blocking=True) for name, tensor in batch.items()}
            # For stochastic depth, which draws from the global generator; fetching the batch may have drawn from it.
            torch.manual_seed(purpose_seed(config.seed, NETWORK, (step * self.world + self.rank) * parts + part))
            whole = part == parts - 1  # processes exchange gradients once a step
            with nullcontext() if whole else machine.no_sync(self.model):
                with torch.autocast(machine.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    losses = self.task.losses(self.model, batch)
                loss = torch.stack(list(losses.values())).sum() / parts
                machine.backward(loss)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / parts
        norm = machine.clip_grad_norm_(self.task.module.parameters(), config.optim.clip or math.inf)
        own = torch.stack([*sums.values(), norm.float(), norm.new_tensor(float(stop.asked))])
        *means, norm_value, asked = machine.reduce(own, reduction="mean").tolist()
        stop.agreed = asked > 0
        numbers = {"loss": sum(means), **dict(zip(sums, means, strict=True)), "grad_norm": norm_value}
        self._check_finite(step, numbers, clips)
        self.optimizer.step()
        self.ema.update(self.task.module, step + 1)
        return numbers

    def save(self, step: int, seconds: float) -> None:
        """Write the checkpoint of ``step``, then the files that are made from it."""
        moments = checkpoint.optimizer_tensors(self.optimizer, self.task.module)
        weights, average = self.task.module.state_dict(), self.ema.module.state_dict()
        state = Checkpoint(step, weights, average, moments, self._settings(), seconds)
        checkpoint.save(self.run, state, self.config.keep)
        self.export(step)

    def export(self, step: int) -> None:
        """Replace the files in the root of the run, one by one."""
        with checkpoint.replacing(self.run) as aside:
            self.task.export(self.ema.module, aside, step)
        checkpoint.mark_exported(self.run, step)

    def preview(self, step: int) -> None:
        """Let the task show itself in ``RUN/previews/<step>/``; what can't be shown is no reason to stop."""
        folder = self.run / "previews" / str(step)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with torch.no_grad():
                self.task.preview(self.ema.module, folder, step)
        except InputError as error:
            self.report(f"WARNING: no preview at step {step}: {error}")

    def _settings(self) -> dict[str, Any]:
        return {"run": type(self.config).__name__, "config": to_dict(self.config), "data": self.task.data}

    def _check_finite(self, step: int, numbers: dict[str, float], clips: list[int]) -> None:
        """All processes see the same numbers, so all raise."""
        if all(math.isfinite(value) for value in numbers.values()):
            return
        everyone = sorted(set(require("accelerate.utils", "train").gather_object(clips)))
        saved = checkpoint.steps(self.run)
        good = str(self.run / checkpoint.FOLDER / str(saved[-1])) if saved else "none, nothing was saved yet"
        raise InputError(
            f"step {step + 1} can't be done: {', '.join(f'{name} is {value:g}' for name, value in numbers.items())}.\n"
            f"Clips in its batch: {', '.join(map(str, everyone))}. The last good checkpoint: {good}.\n"
            "Look at these clips, or start another run with a lower optim.lr, optim.clip 1 or precision float32."
        )


class Stop:
    """Listens for SIGINT and SIGTERM while it is entered. A second SIGINT interrupts at once.

    ``asked``: this process was told to stop; ``agreed``: some process was, and all know it.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.agreed = False
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _silent(text: str) -> None:
    """What the processes that don't lead report."""
