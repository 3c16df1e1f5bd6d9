"""The loop: resuming, stopping, several processes and failures, on a small task."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowreel.config import EMAConfig, LoopConfig, OptimConfig
from flowreel.errors import InputError
from flowreel.training import checkpoint, logger
from flowreel.training.checkpoint import Checkpoint
from flowreel.training.loop import SignalHandler, fit
from flowreel.training.optim import learning_rate, optimizers
from flowreel.utils import files
from tests.kills import content, states
from tests.toy import Toy, config


def quiet(text: str) -> None:
    pass


def final(run: Path) -> Checkpoint:
    saved = checkpoint.latest(run, quiet)
    assert saved is not None
    return saved


def same(first: Checkpoint, second: Checkpoint) -> bool:
    pairs = [(first.parts[name], second.parts[name]) for name in first.parts]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "loss.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(run: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(run)]


def ema_of(run: Path, step: int) -> Tensor:
    return checkpoint.read(run / "training" / str(step)).ema["0.weight"]


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_four_steps_equal_two_and_two_to_the_bit(tmp_path: Path, accumulate):
    optim = OptimConfig(lr=1e-2, warmup=2, accumulate=accumulate)
    fit(Toy(config(optim=optim)), tmp_path / "whole", config(optim=optim), quiet)
    for steps in (2, 4):
        settings = config(steps=steps, optim=optim)
        torch.manual_seed(steps)  # nothing may depend on what the process drew before
        fit(Toy(settings), tmp_path / "parts", settings, quiet)
    assert final(tmp_path / "parts").step == 4
    assert same(final(tmp_path / "whole"), final(tmp_path / "parts"))
    assert without_time(tmp_path / "whole") == without_time(tmp_path / "parts")


def test_killed_between_checkpoints_resumes_from_the_last(tmp_path: Path):
    settings = config(steps=8, save=3)
    fit(Toy(settings), tmp_path / "whole", settings, quiet)

    def fail() -> None:
        raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="gone"):
        fit(Toy(settings, at={5: fail}), tmp_path / "killed", settings, quiet)
    assert checkpoint.steps(tmp_path / "killed") == [3]
    assert [row["step"] for row in rows(tmp_path / "killed")] == ["1", "2", "3", "4", "5"]
    with (tmp_path / "killed" / "loss.csv").open("a") as file:
        file.write("6,0.12")  # a line that the crash cut short
    said: list[str] = []
    fit(Toy(settings), tmp_path / "killed", settings, said.append)
    assert "resuming from step 3" in said[0]
    assert same(final(tmp_path / "whole"), final(tmp_path / "killed"))
    assert without_time(tmp_path / "whole") == without_time(tmp_path / "killed")


def test_damaged_newest_checkpoint_is_trained_again(tmp_path: Path):
    settings = config(steps=6)
    fit(Toy(settings), tmp_path / "whole", settings, quiet)
    fit(Toy(settings), tmp_path / "run", settings, quiet)
    (tmp_path / "run" / "training" / "6" / "ema.safetensors").unlink()
    said: list[str] = []
    fit(Toy(settings), tmp_path / "run", settings, said.append)
    assert any("WARNING" in line for line in said)
    assert same(final(tmp_path / "whole"), final(tmp_path / "run"))


class Showing(Toy):
    """Its preview has several files in several folders."""

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        super().preview(module, folder, step)
        (folder / "more").mkdir()
        save_file(module.state_dict(), folder / "more" / "weights.safetensors")
        (folder / "end").mkdir()


@pytest.mark.usefixtures("plain_curves")
def test_run_killed_at_any_moment_equals_one_that_was_not(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(logger, "time", SimpleNamespace(monotonic=lambda: 0.0))  # seconds are written too
    settings = config(steps=2, save=1, preview=1, validate=1, keep=1)
    run = tmp_path / "run"
    found = states(run, tmp_path / "states", lambda: fit(Showing(settings), run, settings, quiet))
    assert len(found) > 60
    whole = content(run)
    assert {name.split("/")[1] for name in whole if name.startswith("previews/")} == {"1", "2"}
    for folder in found:
        shutil.rmtree(run)
        if folder.exists():  # not before there was any
            folder.rename(run)  # its name is in the picture of the losses
        fit(Showing(settings), run, settings, quiet)
        assert content(run) == whole, folder


def test_finished_run_does_not_repeat_its_previews(tmp_path: Path):
    settings = config(preview=2, validate=2)
    fit(Showing(settings), tmp_path, settings, quiet)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    fit(Showing(settings), tmp_path, settings, quiet)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_finished_run_says_so(tmp_path: Path):
    fit(Toy(config()), tmp_path, config(), quiet)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert fit(Toy(config()), tmp_path, config(), said.append) == tmp_path
    assert "4 of 4 steps already" in said[-1]
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before


def test_missing_export_is_made_after_a_crash(tmp_path: Path):
    class Crashing(Toy):
        def export(self, module: nn.Module, folder: Path, step: int) -> None:
            super().export(module, folder, step)
            if step == 4:
                raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="gone"):
        fit(Crashing(config()), tmp_path, config(), quiet)
    assert checkpoint.steps(tmp_path) == [2, 4]
    assert torch.equal(load_file(tmp_path / "model.safetensors")["0.weight"], ema_of(tmp_path, 2))
    fit(Toy(config()), tmp_path, config(), quiet)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["0.weight"], ema_of(tmp_path, 4))


def test_other_settings_are_refused_with_a_list(tmp_path: Path):
    fit(Toy(config()), tmp_path, config(), quiet)
    other = config(steps=6, seed=1, optim=OptimConfig(lr=2e-2, warmup=2))
    with pytest.raises(InputError, match=r"optim.lr: was 0.01, now 0.02\n  seed: was 0, now 1"):
        fit(Toy(other), tmp_path, other, quiet)
    task = Toy(config(steps=6))
    task.data = {"name": "parabola"}
    with pytest.raises(InputError, match=r"data.name: was line, now parabola"):
        fit(task, tmp_path, config(steps=6), quiet)


def test_what_does_not_change_the_run_may_change(tmp_path: Path):
    fit(Toy(config()), tmp_path, config(), quiet)
    free = config(steps=6, log=3, save=1, keep=1, preview=6, optim=OptimConfig(lr=1e-2, warmup=2, accumulate=4))
    fit(Toy(free), tmp_path, free, quiet)
    assert checkpoint.steps(tmp_path) == [6]


def test_settings_that_are_newer_than_the_run_have_their_defaults(tmp_path: Path):
    fit(Toy(config()), tmp_path, config(), quiet)
    path = tmp_path / "training" / "4" / "state.json"
    state = json.loads(path.read_text())
    del state["settings"]["config"]["precision"]
    path.write_text(json.dumps(state))
    later = config(steps=5, precision="bfloat16")
    with pytest.raises(InputError, match="precision: was float32, now bfloat16"):
        fit(Toy(later), tmp_path, later, quiet)
    fit(Toy(config(steps=5)), tmp_path, config(steps=5), quiet)


def test_foreign_folder_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="not empty"):
        fit(Toy(config()), tmp_path, config(), quiet)


# --- one batch, however it is cut ---------------------------------------------------------------------------------


def test_accumulation_changes_the_rounding_alone(tmp_path: Path):
    for parts in (1, 2, 4):
        settings = config(optim=OptimConfig(lr=1e-2, warmup=2, accumulate=parts))
        fit(Toy(settings, dropout=0.0), tmp_path / str(parts), settings, quiet)
    whole = final(tmp_path / "1")
    for parts in (2, 4):
        torch.testing.assert_close(final(tmp_path / str(parts)).model, whole.model, rtol=1e-4, atol=1e-5)
        last = [float(rows(tmp_path / name)[-1]["loss"]) for name in (str(parts), "1")]
        assert last[0] == pytest.approx(last[1], rel=1e-4)


def test_two_processes_equal_one(tmp_path: Path):
    settings = config(optim=OptimConfig(lr=1e-2, warmup=2, accumulate=2))
    fit(Toy(settings, dropout=0.0), tmp_path / "one", settings, quiet)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.toy", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "process 0 of 2 is done" in done.stdout
    assert "process 1 of 2 is done" in done.stdout
    one, two = final(tmp_path / "one"), final(tmp_path / "two")
    torch.testing.assert_close(two.model, one.model, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two.ema, one.ema, rtol=1e-4, atol=1e-5)
    losses = [[float(row["loss"]) for row in rows(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"batch 8 can't be shared evenly among 3 process"):
        fit(Toy(config()), tmp_path, config(), quiet)


# --- stopping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_step_saves_and_says_how_to_resume(tmp_path: Path, number):
    settings = config(steps=6, save=100, log=100)
    before = signal.getsignal(number)
    fit(Toy(settings), tmp_path / "whole", settings, quiet)
    said: list[str] = []
    stopped = Toy(settings, at={2: lambda: os.kill(os.getpid(), number)})
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, tmp_path / "run", settings, said.append)
    assert signal.getsignal(number) == before
    assert checkpoint.steps(tmp_path / "run") == [3]
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == stopped.module.state_dict().keys()
    assert "stopped after step 3 of 6" in said[-1]
    assert "same command" in said[-1]
    fit(Toy(settings), tmp_path / "run", settings, quiet)
    assert same(final(tmp_path / "whole"), final(tmp_path / "run"))


def test_signal_during_the_last_preview_is_not_forgotten(tmp_path: Path):
    class Slow(Toy):
        def preview(self, module: nn.Module, folder: Path, step: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            super().preview(module, folder, step)

    settings = config(preview=4)
    with pytest.raises(KeyboardInterrupt):
        fit(Slow(settings), tmp_path, settings, quiet)
    assert (tmp_path / "previews" / "4" / "seen.txt").exists()
    said: list[str] = []
    fit(Slow(settings), tmp_path, settings, said.append)
    assert "4 of 4 steps already" in said[-1]


def test_second_interrupt_does_not_wait():
    with SignalHandler() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_runs_outside_the_main_thread(tmp_path: Path):
    thread = threading.Thread(target=fit, args=(Toy(config()), tmp_path, config(), quiet))
    thread.start()
    thread.join()
    assert final(tmp_path).step == 4


def test_loss_that_is_not_finite_stops_before_the_weights_are_touched(tmp_path: Path):
    settings = config(steps=8)
    task = Toy(settings)
    task.poison = {5 * 8 + 2}  # in the batch of the sixth step; clip number 42 % 7
    with pytest.raises(InputError) as error:
        fit(task, tmp_path, settings, quiet)
    message = str(error.value)
    assert "step 6" in message
    assert "square is nan" in message
    assert "Clips in its batch: 0, 1, 2, 3, 4, 5, 6." in message
    assert str(tmp_path / "training" / "4") in message
    assert all(weight.isfinite().all() for weight in task.module.parameters())


# --- adversarial networks ------------------------------------------------------------------------------------------


class Pair(nn.Module):
    """One learns the sum of three numbers, the other to tell its errors from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminator, self.generator = nn.Linear(1, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        error = self.generator(x) - x.sum(1, keepdim=True)
        return error, self.discriminator(error), self.discriminator(torch.zeros_like(error))


class AdversarialToy(Toy):
    """:class:`Pair` with alternating updates; the discriminator begins at step ``since``."""

    networks = ("discriminator", "generator")
    loss_names = ("square", "generator_loss", "discriminator_loss")

    def __init__(self, settings: LoopConfig, since: int = 0) -> None:
        super().__init__(settings)
        self.since, self.module = since, Pair()
        self.averaged = self.module.generator
        self.touched: list[tuple[str, bool, bool]] = []

    def losses(self, module: nn.Module, batch: dict[str, Tensor], network: str = "") -> dict[str, Tensor]:
        self.touched.append((network, *(getattr(self.module, name).weight.requires_grad for name in self.networks)))
        if network == "discriminator" and int(batch["step"]) < self.since:
            return {}
        error, of_generated, of_real = module(batch["x"])
        if network == "discriminator":
            return {"discriminator_loss": of_generated.square().mean() + (1 - of_real).square().mean()}
        return {"square": error.square().mean(), "generator_loss": (1 - of_generated).square().mean()}

    def validate(self, module: nn.Module) -> dict[str, float]:
        return {"weight": float(module.weight.sum())}  # type: ignore[operator, union-attr]

    def preview(self, module: nn.Module, folder: Path, step: int) -> None:
        pass


def test_networks_are_updated_alternately(tmp_path: Path):
    settings = config(steps=4)
    task = AdversarialToy(settings, since=2)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    fit(task, tmp_path, settings, quiet)
    assert task.touched == [("discriminator", True, False), ("generator", False, True)] * 4
    saved = final(tmp_path)
    assert set(saved.model) == {"discriminator.weight", "discriminator.bias", "generator.weight", "generator.bias"}
    assert set(saved.ema) == {"weight", "bias"}
    assert {name.split(".")[0] for name in saved.optimizer} == {"discriminator", "generator"}
    assert saved.optimizer["discriminator.weight.step"] == 2
    assert saved.optimizer["generator.weight.step"] == 4
    assert not torch.equal(saved.model["discriminator.weight"], before["discriminator.weight"])
    assert [row["discriminator_loss"] != "" for row in rows(tmp_path)] == [False, False, True, True]


def test_adversarial_networks_resume_to_the_bit(tmp_path: Path):
    """With the same columns, though the second part begins with both losses."""
    fit(AdversarialToy(config(), since=2), tmp_path / "whole", config(), quiet)
    for steps in (2, 4):
        fit(AdversarialToy(config(steps=steps), since=2), tmp_path / "parts", config(steps=steps), quiet)
    assert same(final(tmp_path / "whole"), final(tmp_path / "parts"))
    assert [list(row) for row in rows(tmp_path / "whole")] == [list(row) for row in rows(tmp_path / "parts")]
    assert without_time(tmp_path / "whole") == without_time(tmp_path / "parts")


# --- disks that fail ----------------------------------------------------------------------------------------------


class FailingDisk:
    """Lets the ``k``-th write, sync, rename or removal of a run fail as a full disk does; counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, k: int) -> None:
        self.k, self.count = k, 0
        self.log: list[tuple[str, Path]] = []
        for place, name in (
            (checkpoint, "save_file"),
            (files, "sync"),
            (Path, "rename"),
            (Path, "replace"),
            (Path, "mkdir"),
            (Path, "write_text"),
        ):
            monkeypatch.setattr(place, name, self._failing(name, getattr(place, name)))

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            path = args[1] if name == "save_file" else args[0]
            self.log.append((name, Path(path)))
            self.count += 1
            if self.count == self.k:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return real(*args, **options)

        return call


@pytest.mark.usefixtures("plain_curves")
def test_a_write_that_fails_at_any_step_loses_nothing(tmp_path: Path):
    settings = config(steps=2, save=1, keep=1)
    fit(Toy(settings), tmp_path / "whole", settings, quiet)
    whole = final(tmp_path / "whole")
    for k in itertools.count(1):
        run = tmp_path / str(k)
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(patch, k)
            try:
                fit(Toy(settings), run, settings, quiet)
                failed = False
            except (InputError, OSError) as error:
                failed = True
                assert "No space left" in str(error)  # noqa: PT017
        if not failed and disk.count < k:
            break
        checkpoint.latest(run, pytest.fail)  # what is there is whole: nothing is reported as damaged
        fit(Toy(settings), run, settings, quiet)
        assert same(final(run), whole), k
        assert not list(run.rglob(".tmp-*")), k
        assert torch.equal(load_file(run / "model.safetensors")["0.weight"], whole.ema["0.weight"])
    assert k > 30


def test_full_disk_is_reported_with_the_last_checkpoint(tmp_path: Path, monkeypatch):
    fit(Toy(config(steps=2)), tmp_path, config(steps=2), quiet)

    def full(*args: Any, **options: Any) -> None:  # noqa: ARG001
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError) as error:
        fit(Toy(config()), tmp_path, config(), quiet)
    assert "the checkpoint of step 4 could not be written" in str(error.value)
    assert f"step 2 is safe in {tmp_path / 'training'}" in str(error.value)


def test_files_are_synced_before_they_are_renamed(tmp_path: Path, monkeypatch):
    disk = FailingDisk(monkeypatch, 0)
    fit(Toy(config(steps=2)), tmp_path, config(steps=2), quiet)
    synced: set[Path] = set()
    renamed = 0
    for name, path in disk.log:
        if name == "sync":
            synced.add(path)
        elif name in ("save_file", "write_text"):
            synced.discard(path)
        elif name in ("rename", "replace"):
            renamed += 1
            assert path in synced, path
    assert renamed >= 4
    checkpoints = [path for name, path in disk.log if name == "rename"]
    assert checkpoints == [tmp_path / "training" / ".tmp-2"]
    inside = {path.name for path in synced if path.parent == checkpoints[0] and path.name[0] != "."}
    assert inside == {"state.json", "model.safetensors", "ema.safetensors", "optimizer.safetensors"}


# --- what is written ----------------------------------------------------------------------------------------------


def test_files_of_a_run(tmp_path: Path):
    said: list[str] = []
    settings = config(steps=5, log=2, save=4, preview=3, validate=3, tracker="tensorboard")
    pytest.importorskip("tensorboard")
    fit(Toy(settings), tmp_path, settings, said.append)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("training", "previews", "loss.csv", "loss.png", "validation.csv", "tensorboard", "model.safetensors")
    }
    assert {path.name for path in (tmp_path / "previews").iterdir()} == {"3", "5"}
    assert [row["step"] for row in rows(tmp_path)] == ["2", "4", "5"]
    assert list(rows(tmp_path)[0]) == ["step", "loss", "square", "absolute", "grad_norm", "lr", "seconds"]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert all(line.startswith("step ") and "\n" not in line for line in said)
    assert len([line for line in said if "steps/s" in line or "s/step" in line]) == 3
    assert [line.split(":")[0] for line in said if ":" in line] == ["step 3  validation", "step 5  validation"]
    row = rows(tmp_path)[0]
    assert float(row["loss"]) == pytest.approx(float(row["square"]) + float(row["absolute"]), rel=1e-4)


def test_root_file_is_the_average_and_not_the_raw_weights(tmp_path: Path):
    fit(Toy(config()), tmp_path, config(), quiet)
    saved, exported = final(tmp_path), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(exported[name], saved.ema[name]) for name in exported)
    assert not torch.equal(exported["0.weight"], saved.model["0.weight"])
    raw = config(ema=EMAConfig(decay=0.0))
    fit(Toy(raw), tmp_path / "raw", raw, quiet)
    saved, exported = final(tmp_path / "raw"), load_file(tmp_path / "raw" / "model.safetensors")
    assert all(torch.equal(exported[name], saved.model[name]) for name in exported)


def test_preview_is_complete_or_absent(tmp_path: Path):
    class Breaking(Toy):
        def preview(self, module: nn.Module, folder: Path, step: int) -> None:
            super().preview(module, folder, step)
            if step == 4:
                raise OSError(errno.ENOSPC, "No space left on device")

    settings = config(preview=2)
    said: list[str] = []
    fit(Breaking(settings), tmp_path, settings, said.append)
    assert "WARNING: no preview at step 4" in "".join(said)
    assert content(tmp_path / "previews") == {"2": None, "2/seen.txt": b"2"}


def test_preview_that_cannot_be_made_does_not_stop_the_run(tmp_path: Path):
    class Blind(Toy):
        def preview(self, module: nn.Module, folder: Path, step: int) -> None:  # noqa: ARG002
            raise InputError("no decoder here")

    said: list[str] = []
    settings = config(preview=2)
    fit(Blind(settings), tmp_path, settings, said.append)
    assert sum("no decoder here" in line for line in said) == 2
    assert final(tmp_path).step == 4


def test_training_lowers_the_loss_with_every_option(tmp_path: Path):
    for name, settings in {
        "bfloat16": config(steps=150, precision="bfloat16", optim=OptimConfig(lr=2e-2)),
        "cosine": config(steps=150, optim=OptimConfig(lr=2e-2, schedule="cosine", clip=0.0)),
    }.items():
        settings = config(**{**vars(settings), "save": 150, "log": 10})
        fit(Toy(settings, dropout=0.0), tmp_path / name, settings, quiet)
        losses = [float(row["loss"]) for row in rows(tmp_path / name)]
        assert losses[-1] < 0.2 * losses[0], (name, losses)


# --- optimizer ----------------------------------------------------------------------------------------------------


def test_only_matrices_of_layers_decay():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = nn.Embedding(3, 4)
            self.positions = nn.Parameter(torch.zeros(1, 5, 4))
            self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 2), nn.LayerNorm(4), nn.Linear(4, 2)

    net = Net()
    names = {id(weight): name for name, weight in net.named_parameters()}
    decay, rest = optimizers(net, OptimConfig(weight_decay=0.1))[0].param_groups
    assert {names[id(weight)] for weight in decay["params"]} == {"conv.weight", "linear.weight"}
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert len(decay["params"]) + len(rest["params"]) == len(names)


def test_muon_steps_the_matrices_of_blocks_and_adamw_the_rest():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.modulation = nn.Linear(4, 8), nn.Linear(4, 12)

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.blocks = nn.Linear(3, 4), nn.ModuleList([Block(), Block()])

    flow, config = Flow(), OptimConfig(kind="muon", lr=0.1, weight_decay=0.0)
    names = {id(weight): name for name, weight in flow.named_parameters()}
    adamw, muon = optimizers(flow, config)
    stepped = [{names[id(w)] for group in o.param_groups for w in group["params"]} for o in (adamw, muon)]
    assert stepped[1] == {"blocks.0.fc.weight", "blocks.1.fc.weight"}
    assert stepped[0] == set(names.values()) - stepped[1]
    weight = flow.blocks[0].fc.weight  # type: ignore[union-attr]
    before = weight.detach().clone()
    weight.grad = torch.randn(8, 4)
    muon.step()
    singular = torch.linalg.svdvals(weight.detach() - before)  # orthogonal, of the size of AdamW's steps
    assert singular.max() < 2 * singular.min()
    assert (weight.detach() - before).square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.3)
    with pytest.raises(InputError, match="muon is for flows"):
        optimizers(nn.Linear(2, 2), config)


def test_learning_rate_warms_up_and_then_keeps_or_falls():
    constant = OptimConfig(lr=1.0, warmup=4)
    assert [learning_rate(constant, step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = OptimConfig(lr=1.0, warmup=4, schedule="cosine", final=0.1)
    values = [learning_rate(cosine, step, 24) for step in range(4, 25)]
    assert values[0] == 1
    assert values[10] == pytest.approx(0.55)
    assert values[-1] == pytest.approx(0.1)
    assert values == sorted(values, reverse=True)


def test_losses_may_be_of_any_number(tmp_path: Path):
    class Single(Toy):
        loss_names = ("video",)

        def losses(self, module: nn.Module, batch: dict[str, Tensor], network: str = "") -> dict[str, Tensor]:
            return {"video": super().losses(module, batch, network)["square"]}

    said: list[str] = []
    fit(Single(config()), tmp_path, config(), said.append)
    assert "(" not in said[0]
    assert rows(tmp_path)[0]["loss"] == rows(tmp_path)[0]["video"]
