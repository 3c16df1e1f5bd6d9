"""Per-process trainer: optimisation step, checkpoint, evaluation of the averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from flowreel.config import LoopConfig, OptimConfig, TrainConfig, flat, from_dict, to_dict
from flowreel.errors import InputError
from flowreel.training import checkpoint, parallel
from flowreel.training.checkpoint import Checkpoint
from flowreel.training.ema import EMA
from flowreel.training.optim import optimizers
from flowreel.training.parallel import Parallel
from flowreel.training.signals import SignalHandler
from flowreel.training.task import NETWORK, Batch, Task, purpose_seed
from flowreel.utils.distributed import Processes
from flowreel.utils.files import replacing_files, replacing_folder
from flowreel.utils.reporting import Report, silent
from flowreel.utils.resume import check_unchanged
from flowreel.utils.runtime import rank_and_world
from flowreel.utils.threads import flush_denormals

# Settings that may change when a run is resumed: they alter its length, what is shown, or the rounding.
FREE = {
    "steps",
    "log",
    "save",
    "keep",
    "preview",
    "validate",
    "sharding",
    "tracker",
    "compile",
    "checkpointing",
    "data.workers",
    "data.validation",
    "optim.accumulate",
}

KINDS = {"TrainConfig": "flow", "CodecTrainConfig": "autoencoder", "VocoderTrainConfig": "vocoder"}
"""Kinds of runs by the class names that stand for them in states of version 0.7.0 and before."""


class Trainer:
    """The network, its average, the optimizers and the place of this process among the others.

    ``lead`` is True in the one process that writes; ``report`` does nothing in the others.
    """

    def __init__(self, task: Task, run: Path, config: LoopConfig, report: Report) -> None:
        self.rank, self.world = rank_and_world()
        if config.batch % (self.world * config.optim.accumulate):
            raise InputError(
                f"batch {config.batch} can't be shared evenly among {self.world} process(es) with optim.accumulate "
                f"{config.optim.accumulate}: choose a multiple of {self.world * config.optim.accumulate}"
            )
        self.processes = Processes()
        self.lead = self.processes.lead
        self.report = report if self.lead else silent
        self.task, self.run, self.config = task, run, config
        if self.processes.device.type == "cpu":
            flush_denormals()
        sharded = isinstance(config, TrainConfig) and config.sharding == "fsdp"
        if sharded and config.optim.kind == "muon":
            raise InputError("optim.kind muon needs whole matrices: use adamw with sharding 'fsdp'")
        if sharded and self.world == 1:
            raise InputError(
                "sharding 'fsdp' spreads a network over several processes, but there is one: start it with torchrun "
                "--nproc_per_node N -m flowreel train ..., or leave --sharding at none"
            )
        checkpoint.claim(run)
        self.ema = EMA(task.averaged, config.ema)
        self.ema.module.to(self.processes.device)
        self.blueprint = copy.deepcopy(self.ema.module).to("meta") if sharded else None
        self.parallel = Parallel(
            self.processes, task.module, "shards" if sharded else "adversarial" if task.networks else "copies"
        )
        if sharded:
            parallel.shard(self.ema.module, self.processes)
        if config.compile:
            task.module.compile()
        self.networks = {name: Optimized.of(task.module, name, config.optim) for name in task.networks or ("",)}
        self.batches: Iterator[Batch] = iter(())

    def resume(self) -> tuple[int, float, bool]:
        """Load the newest checkpoint, and delete what a killed process left incomplete.

        Returns its step and the seconds of training so far, or zeros, and whether this step was shown, see
        :meth:`mark_shown`.
        """
        saved = checkpoint.latest(self.run, self.report)
        step, seconds, shown, current = 0, 0.0, True, True
        if saved is not None:
            before = saved.settings
            before["run"] = KINDS.get(before["run"], before["run"])
            if before["run"] == self.task.kind:  # options that were added since have their defaults
                kept = {name: value for name, value in before["config"].items() if name not in FREE}
                before["config"] = to_dict(from_dict(type(self.config), kept, "saved settings"))
            check_unchanged(self.run, _named(before), _named(self._settings()), "was trained", FREE, only_shared=True)
            parallel.load_whole(self.task.module, saved.model)
            parallel.load_whole(self.ema.module, saved.ema)
            for network in self.networks.values():
                for optimizer in network.optimizers:
                    checkpoint.load_optimizer(optimizer, self.task.module, saved.optimizer)
            step, seconds = saved.step, saved.seconds
            current, shown = checkpoint.exported(self.run) == step, checkpoint.shown(self.run) == step
        self.processes.wait()  # all have read before one writes
        if self.lead:
            checkpoint.clear_leftovers(self.run, step, self.config.keep)
        if not current:  # stopped between the checkpoint and its export
            self.export(step)
        if 0 < step < self.config.steps:
            self.report(f"resuming from step {step} in {self.run}")
        self.batches = self.task.batches(step, self.rank, self.world)
        return step, seconds, shown

    def step(self, step: int, lr: float, stop: SignalHandler) -> dict[str, float]:
        """Do the optimizer step after ``step`` steps. Returns the loss, its parts and the norm of the gradient."""
        batches = [self._next_batch(step) for _ in range(self.config.optim.accumulate)]
        numbers: dict[str, float] = {}
        norms: list[float] = []
        for name, network in self.networks.items():
            if len(self.networks) > 1:
                network.enable_gradients(self.networks.values())
            losses, norm = self._gradients(network, name, batches, step, stop)
            if not losses:
                continue
            self._check_finite(step, {**losses, "grad_norm": norm}, batches)
            for optimizer in network.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.step()
            numbers |= losses
            norms.append(norm)
        self.ema.update(self.task.averaged, step + 1)
        return {"loss": sum(numbers.values()), **numbers, "grad_norm": math.hypot(*norms)}

    def _next_batch(self, step: int) -> Batch:
        batch = next(self.batches)
        moved = {name: tensor.to(self.processes.device, non_blocking=True) for name, tensor in batch.items()}
        return {**moved, "clip": batch["clip"], "step": torch.tensor(step)}

    def _gradients(
        self, network: Optimized, name: str, batches: list[Batch], step: int, stop: SignalHandler
    ) -> tuple[dict[str, float], float]:
        """Compute the clipped gradients of the whole batch for the weights of ``network``. Returns the losses and the
        norm of the gradient over all processes; no losses where its update is skipped."""
        config, parts = self.config, len(batches)
        for optimizer in network.optimizers:
            optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for part, batch in enumerate(batches):
            # Stochastic depth draws from the global generator, as fetching the batch may have done.
            torch.manual_seed(purpose_seed(config.seed, NETWORK, (step * self.world + self.rank) * parts + part))
            with self.parallel.accumulating(last=part == parts - 1):
                with self._arithmetic():
                    losses = self.task.losses(self.parallel.call, batch, name)
                if not losses:
                    return {}, 0.0
                (torch.stack(list(losses.values())).sum() / parts).backward()
            for kind, value in losses.items():
                sums[kind] = sums.get(kind, 0) + value.detach().float() / parts
        self.parallel.exchange(network.weights)
        norm = parallel.whole(nn.utils.clip_grad_norm_(network.weights, config.optim.clip or math.inf))
        own = torch.stack([*sums.values(), norm.float(), norm.new_tensor(float(stop.requested))])
        *means, norm_value, asked = self.processes.reduce(own).tolist()
        stop.agreed = asked > 0
        return dict(zip(sums, means, strict=True)), norm_value

    def _check_finite(self, step: int, numbers: dict[str, float], batches: list[Batch]) -> None:
        """Raise :class:`InputError` unless all numbers are finite; they are the same in all processes."""
        if all(math.isfinite(value) for value in numbers.values()):
            return
        clips = [clip for batch in batches for clip in batch["clip"].tolist()]
        everyone = sorted({clip for part in self.processes.gather(clips) for clip in part})
        wrong = f"{', '.join(f'{name} is {value:g}' for name, value in numbers.items())}"
        listed = f"Clips in its batch: {', '.join(map(str, everyone))}."
        saved = checkpoint.steps(self.run)
        good = str(self.run / checkpoint.FOLDER / str(saved[-1])) if saved else "none, nothing was saved yet"
        raise InputError(
            f"step {step + 1} can't be done: {wrong}.\n{listed} The last good checkpoint: {good}.\n"
            "Look at these clips, or start another run with a lower optim.lr, optim.clip 1 or precision float32."
        )

    def averaged(self) -> nn.Module | None:
        """The whole network with the averaged weights, in the process that leads, else None. All have to call it."""
        if self.blueprint is None:
            return self.ema.module if self.lead else None
        state = parallel.gathered(self.ema.module.state_dict(), self.lead)
        if not self.lead:
            return None
        module = copy.deepcopy(self.blueprint).to_empty(device=self.processes.device)
        module.load_state_dict(state)
        return module.eval().requires_grad_(False)

    def save(self, step: int, seconds: float) -> None:
        """Write the checkpoint of ``step``, then export it."""
        moments: dict[str, Tensor] = {}
        for network in self.networks.values():
            for optimizer in network.optimizers:
                moments |= checkpoint.optimizer_tensors(optimizer, self.task.module)
        states = (self.task.module.state_dict(), self.ema.module.state_dict(), moments)
        weights, average, optimizer = (parallel.gathered(state, self.lead) for state in states)
        if self.lead:
            state = Checkpoint(step, weights, average, optimizer, self._settings(), seconds)
            try:
                checkpoint.save(self.run, state, self.config.keep)
            except (OSError, SafetensorError) as error:
                raise self._write_error(f"checkpoint of step {step}", error) from error
        self.export(step)

    def export(self, step: int) -> None:
        """Replace the exported files in the root of the run, one by one."""
        module = self.averaged()
        if module is None:
            return
        try:
            with replacing_files(self.run) as aside:
                self.task.export(module, aside, step)
            checkpoint.mark_exported(self.run, step)
        except (OSError, SafetensorError) as error:
            raise self._write_error(f"pipeline of step {step}", error) from error

    def validate(self) -> dict[str, float]:
        """The task's measures; empty in the processes that don't lead."""
        module = self.averaged()
        if module is None:
            return {}
        with torch.no_grad(), self._arithmetic():
            return self.task.validate(module)

    def preview(self, step: int) -> None:
        """Write the task's preview into ``RUN/previews/<step>/``; a failure is reported and does not end the run."""
        module = self.averaged()
        if module is None:
            return
        try:
            with replacing_folder(self.run / checkpoint.PREVIEWS / str(step)) as aside, torch.no_grad():
                self.task.preview(module, aside, step)
        except (InputError, OSError) as error:
            self.report(f"WARNING: no preview at step {step}: {error}")

    def mark_shown(self, step: int) -> None:
        """Note that the saved ``step`` was validated, drawn and previewed, as far as that was due: a resumed run need
        not do so again."""
        if self.lead:
            try:
                checkpoint.mark_shown(self.run, step)
            except OSError as error:
                raise self._write_error(f"note of step {step}", error) from error

    def agree(self, stop: SignalHandler) -> None:
        """Let all processes know whether one of them got a signal to stop."""
        asked = torch.tensor(float(stop.requested), device=self.processes.device)
        stop.agreed = self.processes.reduce(asked, mean=False).item() > 0

    def close(self) -> None:
        """End the processes that read the data. At the interpreter's exit, Python would wait for them for ever."""
        if isinstance(self.batches, Generator):
            self.batches.close()

    def _arithmetic(self) -> AbstractContextManager[Any]:
        bfloat16 = self.config.precision == "bfloat16"
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=bfloat16)

    def _write_error(self, what: str, error: Exception) -> InputError:
        saved = checkpoint.steps(self.run)
        kept = f"step {saved[-1]} is safe in {self.run / checkpoint.FOLDER}" if saved else "nothing was saved before"
        return InputError(
            f"the {what} could not be written: {error}.\n{kept}. Free some space; then the same command resumes there."
        )

    def _settings(self) -> dict[str, Any]:
        return {"run": self.task.kind, "config": to_dict(self.config), "data": self.task.data}


@dataclass(frozen=True)
class Optimized:
    """What one update changes: weights and their optimizers."""

    weights: list[nn.Parameter]
    optimizers: list[torch.optim.Optimizer]

    @classmethod
    def of(cls, module: nn.Module, name: str, config: OptimConfig) -> Optimized:
        network = module.get_submodule(name)
        return cls([weight for weight in network.parameters() if weight.requires_grad], optimizers(network, config))

    def enable_gradients(self, networks: Iterable[Optimized]) -> None:
        """Enable gradients for these weights only."""
        for network in networks:
            for weight in network.weights:
                weight.requires_grad_(network is self)


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run by their dotted names, those of its config as options are named."""
    return {name.removeprefix("config."): value for name, value in flat(settings).items()}
