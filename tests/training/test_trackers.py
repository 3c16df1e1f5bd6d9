"""Trackers: opened, resumed, closed, and never the end of a run. The package wandb is a stand-in here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from flowreel.errors import InputError, MissingExtraError
from flowreel.training import trackers
from flowreel.training.logger import TrainingLogger, read_curve


class Service:
    """The part of wandb that is used: ``init`` returns a run that can log and finish."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int]] = []
        self.finished = 0
        self.fail: set[str] = set()

    def init(self, **arguments: Any) -> Service:
        if "init" in self.fail:
            raise RuntimeError("no network\nand more")
        self.opened.append(arguments)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        if "log" in self.fail:
            raise ConnectionError("gone")
        self.logged.append((values, step))

    def finish(self) -> None:
        if "finish" in self.fail:
            raise RuntimeError("gone too")
        self.finished += 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    service, module = Service(), ModuleType("wandb")
    module.init = service.init  # type: ignore[attr-defined]
    module.Settings = lambda **values: values  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "5")
    return SimpleNamespace(kind="wandb", it=service)


def numbers(value: float) -> dict[str, float]:
    return {"loss": value, "video": value, "grad_norm": 0.1}


def test_rows_and_validation_arrive_and_the_same_run_is_resumed(tmp_path: Path, service: SimpleNamespace) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for start in (0, 1):
        with TrainingLogger(run, 9, start, 0.0, str, tracker=service.kind, settings={"lr": 0.1}) as logger:
            logger.add(start + 1, numbers(2.0))
            logger.row(0.5)
            logger.validation(start + 1, {"loss": 3.0})
    first, second = service.it.opened
    assert first["project"] == "flowreel"
    assert first["config"] == {"lr": 0.1}
    assert first["resume"] == "allow"
    assert first["name"].startswith("run")
    assert first == second
    row = {"loss": 2.0, "video": 2.0, "grad_norm": 0.1, "lr": 0.5}
    assert service.it.logged == [(row, 1), ({"validation/loss": 3.0}, 1), (row, 2), ({"validation/loss": 3.0}, 2)]
    assert service.it.finished == 2


def test_two_runs_of_one_name_are_two_there(tmp_path: Path, service: SimpleNamespace) -> None:
    for folder in ("a", "b"):
        trackers.open(service.kind, tmp_path / folder / "run", {}, 0, str)
    first, second = service.it.opened
    assert first["id"] != second["id"]


def test_project_from_the_environment(
    tmp_path: Path, service: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    trackers.open(service.kind, tmp_path, {}, 0, str)
    assert service.it.opened[0]["project"] == "mine"


@pytest.mark.parametrize("failing", ["log", "finish"])
def test_failure_is_reported_once_and_the_run_continues(tmp_path: Path, service: SimpleNamespace, failing: str) -> None:
    service.it.fail = {failing}
    said: list[str] = []
    with TrainingLogger(tmp_path, 9, 0, 0.0, said.append, tracker=service.kind) as logger:
        for step in (1, 2, 3):
            logger.add(step, numbers(1.0))
            logger.row(0.5, shown=False)
    warnings = [line for line in said if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert f"{service.kind} failed" in warnings[0]
    assert "the run continues without it" in warnings[0]
    assert len(read_curve(tmp_path / "loss.csv")[1]) == 3


def test_failed_start_is_refused_and_failed_resume_is_reported(tmp_path: Path, service: SimpleNamespace) -> None:
    service.it.fail = {"init"}
    with pytest.raises(InputError, match=r"can't be started: RuntimeError: no network\n.*--tracker none"):
        trackers.open(service.kind, tmp_path, {}, 0, str)
    service.it.fail = set()
    assert trackers.open(service.kind, tmp_path, {}, 0, str) is not None
    service.it.fail = {"init"}
    said: list[str] = []
    assert trackers.open(service.kind, tmp_path, {}, 4, said.append) is None
    assert said == [f"WARNING: no curves for {service.kind} until the run is resumed again: RuntimeError: no network"]


def test_damaged_note_starts_another_run(tmp_path: Path, service: SimpleNamespace) -> None:
    note = tmp_path / "training" / "tracker.json"
    note.parent.mkdir()
    note.write_text("{")
    assert trackers.open(service.kind, tmp_path, {}, 4, str) is not None
    assert service.kind in note.read_text()


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"flowreel\[trackers\]"):
        trackers.open("wandb", tmp_path, {}, 0, str)
    assert not (tmp_path / "training").exists()


def test_none_and_unknown(tmp_path: Path) -> None:
    assert trackers.open("none", tmp_path, {}, 0, str) is None
    with pytest.raises(InputError, match="one of none, tensorboard, wandb, not 'board'"):
        trackers.open("board", tmp_path, {}, 0, str)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_hides_what_a_crash_left(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, value in ((0, 1.0), (2, 5.0)):
        tracker = trackers.open("tensorboard", tmp_path, {}, start, str)
        assert tracker is not None
        for step in range(start + 1, start + 4):
            tracker.log({"loss": value}, step)
        tracker.close()
    seen = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert [(point.step, point.value) for point in seen.Scalars("loss")] == [(1, 1), (2, 1), (3, 5), (4, 5), (5, 5)]
