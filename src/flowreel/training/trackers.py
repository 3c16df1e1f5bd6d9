"""Trackers of a run's curves besides its own files: TensorBoard and Weights & Biases.

A tracker that fails during a run is reported once and not used again; the run continues. Which online run belongs to a
training run is noted in ``RUN/training/tracker.json``.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any, Protocol

from flowreel.errors import InputError, MissingExtraError, require
from flowreel.training.checkpoint import FOLDER
from flowreel.utils.files import read_json, write_json
from flowreel.utils.reporting import Report

KINDS = ("none", "tensorboard", "wandb")
PROJECT = "flowreel"
NOTE = "tracker.json"


class Tracker(Protocol):
    """Takes numbers by name, step by step."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def open(kind: str, run: Path, settings: dict[str, Any], step: int, report: Report) -> Tracker | None:
    """The tracker ``kind`` of :data:`KINDS` for ``run``, which continues after ``step``; None for "none".

    The project is "flowreel" (or the one that WANDB_PROJECT names), the run is named after its folder, and ``settings``
    (JSON-able) are shown with it. A resumed run is resumed in the tracker too. Later failures go to ``report``.

    Raises:
        InputError: there is no such kind, its package is not installed, or a new run can't be started. Where a run
            can't be resumed in the tracker, that is reported and None is returned.
    """
    if kind not in KINDS:
        raise InputError(f"tracker must be one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "none":
        return None
    known = identity(run, kind)
    opening: Any = {"tensorboard": _TensorBoard, "wandb": _WandB}[kind]
    try:
        inner: Tracker = opening(run, settings, step, known or _new_identity(run))
    except MissingExtraError:
        raise
    except Exception as error:  # services raise anything: network, login, files
        reason = f"{type(error).__name__}: {str(error).strip() or 'no reason given'}".splitlines()[0]
        if known is None:
            raise InputError(
                f"--tracker {kind} can't be started: {reason}\n"
                "Log in to it, work offline (for wandb: WANDB_MODE=offline), or choose --tracker none"
            ) from error
        report(f"WARNING: no curves for {kind} until the run is resumed again: {reason}")
        return None
    return _Forgiving(kind, inner, report)


def identity(run: Path, kind: str) -> dict[str, str] | None:
    """Id and name of ``run`` in the tracker ``kind``, as noted at its start; None before."""
    return _notes(run).get(kind)


def _notes(run: Path) -> dict[str, Any]:
    path = run / FOLDER / NOTE
    try:
        return read_json(path) if path.is_file() else {}
    except InputError:  # a damaged note: start another run there
        return {}


def _note(run: Path, kind: str, known: dict[str, str]) -> None:
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(run / FOLDER / NOTE, {**_notes(run), kind: known})


def _new_identity(run: Path) -> dict[str, str]:
    code = uuid.uuid4().hex[:8]
    return {"id": code, "name": f"{run.resolve().name}-{code}"}


class _Forgiving:
    """A tracker whose first failure is reported and disables it."""

    def __init__(self, kind: str, inner: Tracker, report: Report) -> None:
        self.kind, self.inner, self._report = kind, inner, report
        self._works = True

    def log(self, values: dict[str, float], step: int) -> None:
        self._try(lambda: self.inner.log(values, step))

    def close(self) -> None:
        self._try(self.inner.close)

    def _try(self, action: Any) -> None:
        if not self._works:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever a service raises must not end the run
            self._works = False
            self._report(
                f"WARNING: {self.kind} failed ({type(error).__name__}: {error}); the run continues without it, "
                "the curves are in loss.csv"
            )


class _TensorBoard:
    """Event files in ``RUN/tensorboard``; events after ``step`` are hidden."""

    def __init__(self, run: Path, settings: dict[str, Any], step: int, known: dict[str, str]) -> None:  # noqa: ARG002
        boards = require("torch.utils.tensorboard", "train")
        self._writer = boards.SummaryWriter(run / "tensorboard", purge_step=step + 1)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run of Weights & Biases, with its files in ``RUN/wandb``. It ignores steps that it has already."""

    def __init__(self, run: Path, settings: dict[str, Any], step: int, known: dict[str, str]) -> None:  # noqa: ARG002
        wandb = require("wandb", "trackers")
        run.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", "60")  # without it, a lost network blocks for ever
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=known["id"],
            name=run.resolve().name,
            resume="allow",
            dir=str(run),
            config=settings,
            settings=wandb.Settings(console="off"),  # else it captures the progress bar
        )
        _note(run, "wandb", known)

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
