"""The loop: what resumes, stops, is shared or goes wrong, on a task of a second."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flowreel import checkpoint
from flowreel.checkpoint import Checkpoint
from flowreel.config import EMAConfig, OptimConfig
from flowreel.errors import InputError
from flowreel.loop import Stop, fit
from flowreel.optim import adamw, learning_rate
from tests.toy import Toy, config

pytest.importorskip("accelerate")


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


def test_killed_between_checkpoints_goes_on_from_the_last(tmp_path: Path):
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
    assert "going on from step 3" in said[0]
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


def test_finished_run_says_so(tmp_path: Path):
    fit(Toy(config()), tmp_path, config(), quiet)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert fit(Toy(config()), tmp_path, config(), said.append) == tmp_path
    assert "4 of 4 steps already" in said[-1]
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before


def test_export_that_a_crash_cut_off_is_made_good(tmp_path: Path):
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
    with pytest.raises(InputError, match=r"optim.lr: saved 0.01, now 0.02\n  seed: saved 0, now 1"):
        fit(Toy(other), tmp_path, other, quiet)
    task = Toy(config(steps=6))
    task.data = {"name": "parabola"}
    with pytest.raises(InputError, match=r"data.name: saved line, now parabola"):
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
    with pytest.raises(InputError, match="precision: saved float32, now bfloat16"):
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
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
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
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "num_processes", 3)
    with pytest.raises(InputError, match=r"batch 8 can't be shared evenly among 3 process"):
        fit(Toy(config()), tmp_path, config(), quiet)


# --- stopping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path: Path, number):
    settings = config(steps=6, save=100, log=100)
    before = signal.getsignal(number)
    fit(Toy(settings), tmp_path / "whole", settings, quiet)
    said: list[str] = []
    stopped = Toy(settings, at={2: lambda: os.kill(os.getpid(), number)})
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            fit(stopped, tmp_path / "run", settings, said.append)
    else:
        assert fit(stopped, tmp_path / "run", settings, said.append) == tmp_path / "run"
    assert signal.getsignal(number) == before
    assert checkpoint.steps(tmp_path / "run") == [3]
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == stopped.module.state_dict().keys()
    assert "stopped after step 3 of 6" in said[-1]
    assert "same command" in said[-1]
    fit(Toy(settings), tmp_path / "run", settings, quiet)
    assert same(final(tmp_path / "whole"), final(tmp_path / "run"))


def test_second_interrupt_does_not_wait():
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
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
    assert len([line for line in said if " left" in line]) == 3
    assert [line.split(":")[0] for line in said if " left" not in line] == ["step 3  validation", "step 5  validation"]
    row = rows(tmp_path)[0]
    assert float(row["loss"]) == pytest.approx(float(row["square"]) + float(row["absolute"]), rel=1e-4)


def test_root_file_is_the_average_and_not_the_raw_weights(tmp_path: Path):
    fit(Toy(config()), tmp_path, config(), quiet)
    saved, exported = final(tmp_path), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(exported[name], saved.ema[name]) for name in exported)
    assert not torch.equal(exported["0.weight"], saved.model["0.weight"])
    raw = config(ema=EMAConfig("none"))
    fit(Toy(raw), tmp_path / "raw", raw, quiet)
    saved, exported = final(tmp_path / "raw"), load_file(tmp_path / "raw" / "model.safetensors")
    assert all(torch.equal(exported[name], saved.model[name]) for name in exported)


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
    decay, rest = adamw(net, OptimConfig(weight_decay=0.1)).param_groups
    assert {names[id(weight)] for weight in decay["params"]} == {"conv.weight", "linear.weight"}
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert len(decay["params"]) + len(rest["params"]) == len(names)


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
        def losses(self, module: nn.Module, batch: dict[str, Tensor], player: str = "") -> dict[str, Tensor]:
            return {"video": super().losses(module, batch, player)["square"]}

    said: list[str] = []
    fit(Single(config()), tmp_path, config(), said.append)
    assert "(" not in said[0]
    assert rows(tmp_path)[0]["loss"] == rows(tmp_path)[0]["video"]
