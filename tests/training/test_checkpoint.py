"""Checkpoints: complete or not there, the newest that is undamaged, and the folder of a run."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from flowreel.config import OptimConfig
from flowreel.errors import InputError
from flowreel.training import checkpoint
from flowreel.training.checkpoint import Checkpoint
from flowreel.training.optim import optimizers
from flowreel.utils import files
from tests.kills import content, states


def make(step: int, value: float = 0.0) -> Checkpoint:
    weights = {"layer.weight": torch.full((2, 3), value), "layer.bias": torch.arange(3.0)}
    return Checkpoint(step, weights, dict(weights), {"layer.weight.exp_avg": torch.ones(2, 3)}, {"seed": 3}, 12.5)


def ignore(text: str) -> None:
    pass


def silent(text: str) -> None:
    raise AssertionError(f"nothing should be reported, but was: {text}")


def test_round_trip(tmp_path: Path):
    checkpoint.save(tmp_path, make(20, 1.5), keep=2)
    got = checkpoint.latest(tmp_path, silent)
    assert (got.step, got.settings, got.seconds) == (20, {"seed": 3}, 12.5)
    for name, tensors in make(20, 1.5).parts.items():
        assert got.parts[name].keys() == tensors.keys()
        assert all(torch.equal(got.parts[name][key], value) for key, value in tensors.items())


def test_nothing_saved_is_none(tmp_path: Path):
    assert checkpoint.latest(tmp_path, silent) is None


def test_only_the_newest_are_kept_by_number(tmp_path: Path):
    for step in (2, 10, 9, 100):
        checkpoint.save(tmp_path, make(step), keep=2)
    assert checkpoint.steps(tmp_path) == [9, 100]
    assert sorted(path.name for path in (tmp_path / "training").iterdir()) == ["100", "9"]


def test_compiled_names_are_stripped_on_both_ways(tmp_path: Path):
    compiled = make(1)
    compiled.model = {f"_orig_mod.{name}": value for name, value in compiled.model.items()}
    checkpoint.save(tmp_path, compiled, keep=1)
    assert set(checkpoint.latest(tmp_path, silent).model) == {"layer.weight", "layer.bias"}


def cut(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def lose(folder: Path) -> None:
    (folder / "ema.safetensors").unlink()


def spoil_state(folder: Path) -> None:
    (folder / "state.json").write_text('{"step": 4')


def swap(folder: Path) -> None:
    (folder / "optimizer.safetensors").replace(folder / "model.safetensors")
    (folder / "optimizer.safetensors").write_bytes((folder / "model.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [cut, empty, lose, spoil_state, swap])
def test_damaged_newest_falls_back_loudly(tmp_path: Path, damage):
    checkpoint.save(tmp_path, make(2, 0.5), keep=2)
    damage(checkpoint.save(tmp_path, make(4, 0.7), keep=2))
    said: list[str] = []
    got = checkpoint.latest(tmp_path, said.append)
    assert got.step == 2
    assert got.model["layer.weight"][0, 0] == 0.5
    assert len(said) == 1
    assert "WARNING" in said[0]
    assert str(tmp_path / "training" / "4") in said[0]


def test_resuming_from_the_one_before_replaces_the_damaged(tmp_path: Path):
    checkpoint.save(tmp_path, make(2), keep=2)
    lose(checkpoint.save(tmp_path, make(4), keep=2))
    checkpoint.save(tmp_path, make(3), keep=2)
    assert checkpoint.steps(tmp_path) == [2, 3]
    lose(checkpoint.save(tmp_path, make(4), keep=2))
    checkpoint.save(tmp_path, make(4), keep=2)
    assert checkpoint.latest(tmp_path, silent).step == 4


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path):
    lose(checkpoint.save(tmp_path, make(2), keep=2))
    with pytest.raises(InputError, match="every checkpoint"):
        checkpoint.latest(tmp_path, ignore)


def test_another_format_version_is_an_error(tmp_path: Path):
    path = checkpoint.save(tmp_path, make(2), keep=2) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(InputError, match="version 99"):
        checkpoint.latest(tmp_path, silent)


@pytest.mark.parametrize("broken", ["save_file", "write_json", "sync"])
def test_failure_while_saving_leaves_the_one_before(tmp_path: Path, monkeypatch, broken):
    checkpoint.save(tmp_path, make(2), keep=1)

    def fail(*args: object) -> None:  # noqa: ARG001
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(files if broken == "sync" else checkpoint, broken, fail)
        with pytest.raises(OSError, match="full"):
            checkpoint.save(tmp_path, make(4), keep=1)
    assert checkpoint.latest(tmp_path, silent).step == 2
    checkpoint.save(tmp_path, make(4), keep=1)
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["4"]


def test_every_file_and_folder_is_synced_before_the_rename(tmp_path: Path, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path.name))
    checkpoint.save(tmp_path, make(4), keep=1)
    names = {"model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"}
    assert names <= set(synced)
    assert synced[-2:] == [".tmp-4", "training"]


def test_replacing_changes_files_one_by_one_or_none(tmp_path: Path):
    (tmp_path / "kept").write_text("old")
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "a").write_text("old")
    with contextlib.suppress(RuntimeError), files.replacing_files(tmp_path) as aside:
        (aside / "kept").write_text("half")
        raise RuntimeError
    assert (tmp_path / "kept").read_text() == "old"
    with files.replacing_files(tmp_path) as aside:
        (aside / "codec").mkdir()
        (aside / "codec" / "a").write_text("new")
        (aside / "b").write_text("new")
    assert (tmp_path / "codec" / "a").read_text() == (tmp_path / "b").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "codec", "kept"]


# --- killed while files are replaced ---


def _export(folder: Path, texts: dict[str, str]) -> None:
    with files.replacing_files(folder) as aside:
        for name, text in texts.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text)


def test_replacing_starts_again_in_what_a_killed_process_left_of_a_new_folder(tmp_path: Path):
    first, second = {"a": "1", "codec/b": "2", "codec/c": "3", "d": "4"}, {"a": "5", "voice/e": "6"}
    found = states(tmp_path / "out", tmp_path / "states", lambda: _export(tmp_path / "out", first))
    _export(tmp_path / "whole", second)
    assert len(found) > 10
    for folder in found[:-1]:  # the last is the finished one
        _export(folder, second)
        assert content(folder) == content(tmp_path / "whole"), folder


def test_replacing_keeps_the_other_files_of_a_folder_whatever_a_killed_process_left(tmp_path: Path):
    for name in ("out", "whole"):
        _export(tmp_path / name, {"a": "old", "codec/kept": "old"})
    found = states(tmp_path / "out", tmp_path / "states", lambda: _export(tmp_path / "out", {"a": "1", "codec/b": "2"}))
    _export(tmp_path / "whole", {"a": "3", "codec/b": "4"})
    for folder in found:
        assert (folder / "a").read_text() in ("old", "1")
        _export(folder, {"a": "3", "codec/b": "4"})
        assert content(folder) == content(tmp_path / "whole"), folder


def test_what_fails_midway_leaves_a_new_folder_empty(tmp_path: Path, monkeypatch):
    real = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name == "b":
            raise OSError("the disk is full")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="full"):
        _export(tmp_path, {"a": "1", "b": "2"})
    assert content(tmp_path) == {}


def test_undoing_touches_nothing_outside_the_folder(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("mine")
    names = ["../precious", str(tmp_path / "precious")]
    files.write_json(tmp_path / "out" / files.MOVES, {"new": True, "files": names})
    files.undo(tmp_path / "out")
    assert content(tmp_path) == {"out": None, "precious": b"mine"}


def test_write_json_leaves_one_file(tmp_path: Path):
    files.write_json(tmp_path / "a.json", {"name": "é"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "é"}
    assert len(list(tmp_path.iterdir())) == 1


def test_optimizer_round_trip_by_name():
    def network() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 2))
        module = module.to(memory_format=torch.channels_last)  # moments must be laid out as the weights are
        return module, optimizers(module, OptimConfig())[0]

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        module(torch.randn(5, 3, 4, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    module, optimizer = network()
    step(module, optimizer)
    tensors = checkpoint.optimizer_tensors(optimizer, module)
    assert len(tensors) == 3 * len(list(module.parameters()))
    assert "3.weight.exp_avg_sq" in tensors
    saved = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    other, fresh = network()
    other.load_state_dict(module.state_dict())
    checkpoint.load_optimizer(fresh, other, saved)
    for pair in ((module, optimizer), (other, fresh)):
        torch.manual_seed(1)
        step(*pair)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("what", ["new", "empty", "run"])
def test_claim_takes_new_empty_and_own_folders(tmp_path: Path, what):
    run = tmp_path / "run"
    if what != "new":
        run.mkdir()
    if what == "run":
        checkpoint.claim(run)
        (run / "loss.csv").write_text("step\n")
    checkpoint.claim(run)
    assert (run / "training").is_dir()


def test_claim_refuses_foreign_folders_and_files(tmp_path: Path):
    (tmp_path / "holiday.jpg").write_text("")
    with pytest.raises(InputError, match="not a training run"):
        checkpoint.claim(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        checkpoint.claim(tmp_path / "holiday.jpg")
