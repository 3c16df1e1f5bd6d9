"""The state of a training run on disk: ``RUN/training/<step>/``, one folder per saved step.

A step's folder holds ``model.safetensors`` (raw weights), ``ema.safetensors`` (float32), ``optimizer.safetensors``
(``<parameter>.<moment>``) and ``state.json``: format version, step, the run's settings and the tensor names of the
other files. There is no random state and no learning rate: both are pure functions of the seed and the step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from flowreel.codec.registry import TRAINING
from flowreel.config import FORMAT_VERSION
from flowreel.errors import InputError
from flowreel.training.parallel import laid_out_like
from flowreel.utils.files import make_readable, read_json, replacing_folder, undo, write_json
from flowreel.utils.locking import contents
from flowreel.utils.tensors import Tensors, load_tensors, plain_name

FOLDER, PREVIEWS = TRAINING, "previews"
STATE = "state.json"
EXPORTED = "exported.json"


@dataclass
class Checkpoint:
    """A run after ``step`` optimizer steps and ``seconds`` of training.

    ``settings`` is JSON-able: they are compared when the run is resumed.
    """

    step: int
    model: Tensors
    ema: Tensors
    optimizer: Tensors
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def parts(self) -> dict[str, Tensors]:
        return {"model": self.model, "ema": self.ema, "optimizer": self.optimizer}


class DamagedError(Exception):
    """A checkpoint folder can't be used, for the reason in its text."""


# --- writing ------------------------------------------------------------------------------------------------------


def save(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write ``checkpoint`` into ``RUN/training/<step>/``; afterwards only the newest ``keep`` steps up to it are there.

    The folder is written under a temporary name, synced to the disk and renamed, so that a crash at any moment leaves
    the step before untouched. Later steps, from before a resumed run went back, are removed.
    """
    final = run / FOLDER / str(checkpoint.step)
    state = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "settings": checkpoint.settings,
        "tensors": {name: sorted(map(plain_name, tensors)) for name, tensors in checkpoint.parts.items()},
    }
    with replacing_folder(final) as aside:
        write_json(aside / STATE, state)
        for name, tensors in checkpoint.parts.items():
            whole = {plain_name(key): tensor.detach().contiguous() for key, tensor in tensors.items()}
            save_file(whole, aside / f"{name}.safetensors")
            make_readable(aside / f"{name}.safetensors")
    for later in steps(run):
        if later > checkpoint.step:
            shutil.rmtree(run / FOLDER / str(later))
    _prune(run, checkpoint.step, keep)
    return final


def _prune(run: Path, newest: int, keep: int) -> None:
    for step in [step for step in steps(run) if step <= newest][:-keep]:
        shutil.rmtree(run / FOLDER / str(step))


def clear_leftovers(run: Path, newest: int, keep: int) -> None:
    """Delete incomplete files of a killed process in ``run``, and the steps before the newest ``keep`` up to ``newest``
    that it had not deleted yet. The caller holds the run's lock."""
    undo(run)
    _prune(run, newest, keep)
    for path in (*(run / FOLDER).glob(".tmp-*"), *(run / PREVIEWS).glob(".tmp-*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def mark_exported(run: Path, step: int) -> None:
    """Note that the exported files in the root of ``run`` are those of ``step``."""
    write_json(run / FOLDER / EXPORTED, {"step": step})


def mark_shown(run: Path, step: int) -> None:
    """Note that ``step`` was exported and shown: validation, plot and preview are complete."""
    write_json(run / FOLDER / EXPORTED, {"step": step, "shown": True})


def exported(run: Path) -> int | None:
    """The step of the exported files in the root of ``run``, None where nothing was exported."""
    return _exported_note(run).get("step")


def shown(run: Path) -> int | None:
    """The step that :func:`mark_shown` noted, None if there is none."""
    note = _exported_note(run)
    return note.get("step") if note.get("shown") else None


def _exported_note(run: Path) -> dict[str, Any]:
    path = run / FOLDER / EXPORTED
    try:
        return read_json(path) if path.exists() else {}
    except InputError:  # a damaged note: export again
        return {}


# --- reading ------------------------------------------------------------------------------------------------------


def steps(run: Path) -> list[int]:
    """The saved steps of ``run``, ascending."""
    return sorted(int(path.name) for path in (run / FOLDER).glob("[0-9]*") if path.name.isdecimal() and path.is_dir())


def latest(run: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest usable checkpoint of ``run``, or None where nothing was ever saved.

    A damaged one is reported and the one before is returned. Raises :class:`InputError` if all are damaged: it does not
    start again over them.
    """
    found = steps(run)
    for step in reversed(found):
        folder = run / FOLDER / str(step)
        try:
            return read(folder)
        except DamagedError as error:
            report(f"WARNING: the checkpoint {folder} is damaged ({error}); going back to the one before")
    if found:
        raise InputError(
            f"every checkpoint in {run / FOLDER} is damaged: start again in another folder, or delete {run}"
        )
    return None


def read(folder: Path) -> Checkpoint:
    """Read one step's folder; :class:`DamagedError` says what is wrong with it."""
    state = _read_state(folder / STATE)
    try:
        parts = {name: load_tensors(folder / f"{name}.safetensors") for name in ("model", "ema", "optimizer")}
    except InputError as error:
        raise DamagedError(str(error)) from error
    for name, tensors in parts.items():
        if sorted(tensors) != state["tensors"].get(name):
            raise DamagedError(f"{name}.safetensors does not hold the tensors that {STATE} lists")
    return Checkpoint(state["step"], **parts, settings=state["settings"], seconds=state["seconds"])


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = read_json(path)
    except (OSError, InputError) as error:
        raise DamagedError(str(error)) from error
    if state.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {state.get('format_version')}, this flowreel reads {FORMAT_VERSION}: "
            "use the version of flowreel that wrote it, or start again in another folder"
        )
    missing = {"step", "seconds", "settings", "tensors"} - set(state)
    if missing:
        raise DamagedError(f"{STATE} lacks {', '.join(sorted(missing))}")
    return state


# --- the run's folder ------------------------------------------------------------------------------------------


def claim(run: Path) -> None:
    """Make ``run`` a run folder; :class:`InputError` if it exists and is neither empty nor a run's."""
    if run.exists() and not run.is_dir():
        raise InputError(f"{run} is a file: give a folder for the run")
    if contents(run) and not (run / FOLDER).is_dir():
        raise InputError(
            f"{run} is not empty and holds no {FOLDER}/, so it is not a training run: choose a new or an empty folder"
        )
    (run / FOLDER).mkdir(parents=True, exist_ok=True)


# --- optimizer ----------------------------------------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> Tensors:
    """The moments of an optimizer over weights of ``module``, under ``<parameter>.<moment>``."""
    names = {id(weight): name for name, weight in module.named_parameters()}
    return {
        f"{names[id(weight)]}.{moment}": value
        for weight, moments in optimizer.state.items()
        for moment, value in moments.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Tensors) -> None:
    """Restore what :func:`optimizer_tensors` returned; ``tensors`` may hold those of other optimizers over ``module``.

    Learning rate and weight decay stay unchanged.
    """
    names = {id(weight): name for name, weight in module.named_parameters()}
    ordered = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[str, Tensors] = {}
    for key, value in tensors.items():
        name, moment = key.rsplit(".", 1)
        moments.setdefault(name, {})[moment] = value
    state = optimizer.state_dict()
    state["state"] = {
        i: {moment: laid_out_like(weight, value) for moment, value in moments[names[id(weight)]].items()}
        for i, weight in enumerate(ordered)
        if names[id(weight)] in moments
    }
    optimizer.load_state_dict(state)
