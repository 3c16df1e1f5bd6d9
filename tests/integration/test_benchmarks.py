"""The benchmarks fit the package that they measure: each of them runs with its smallest settings."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from flowreel.media import demux
from flowreel.world.render import CLASSES
from tests.conftest import tiny_pipeline
from tests.data.test_prepare import write_clip

FOLDER = Path(__file__).parents[2] / "benchmarks"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUN = {"busy", "cold_start", "kill", "live", "media", "rolling", "speed", "world"}
PARTS = {"speed_data", "speed_gpu", "speed_networks", "speed_rows"}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark by its name, afresh."""
    monkeypatch.syspath_prepend(FOLDER)

    def load(name: str) -> ModuleType:
        for other in RUN | PARTS:
            monkeypatch.delitem(sys.modules, other, raising=False)
        return importlib.import_module(name)

    return load


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    """The folder of a small pipeline with the classes of the world."""
    tiny_pipeline(classes=tuple(CLASSES)).save(tmp_path / "pipe")
    return str(tmp_path / "pipe")


def test_every_file_is_known_here(benchmark: Any) -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == RUN | PARTS
    for name in RUN | PARTS:
        benchmark(name)


def test_cold_start(benchmark: Any, capfd: pytest.CaptureFixture[str]) -> None:
    benchmark("cold_start").main(1)
    assert "first solver step" in capfd.readouterr().out


def test_busy(benchmark: Any, pipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("busy").main(1, pipe, turns=1)
    assert "beside 1 other programs" in capsys.readouterr().out


def test_rolling(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("rolling").main(["--frames", "101"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["frame"] for row in rows] == [100, 101]


def test_media(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demux, "threads", demux.threads)
    write_clip(tmp_path / "clips" / "1.mkv")
    benchmark("media").main([str(tmp_path / "clips"), "--rounds", "1", "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text()).keys() == {"1.mkv", "all"}


@pytest.mark.parametrize("name", ["FLAV-S/2", "FLAV-B/2", "FlowField-S/4", "loader", "prepare"])
def test_speed(benchmark: Any, tmp_path: Path, name: str) -> None:
    arguments = ["--quick", "--rounds", "1", "--threads", "1", "--device", "cpu"]
    benchmark("speed").main([*arguments, "--only", name, "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text())["rows"]


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_speed_on_a_gpu(benchmark: Any, tmp_path: Path) -> None:
    benchmark("speed").main(["--quick", "--rounds", "1", "--json", str(tmp_path / "figures.json")])
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert {row["what"] for row in rows} == {"FLAV-S/2", "FLAV-B/2", "FLAV-B/1"}


@pytest.mark.parametrize("only", ["joint,audio_to_video,video_to_audio", "continuation,codec", "speed,roll"])
def test_world(benchmark: Any, pipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], only: str) -> None:
    arguments = ["--pipe", pipe, "--count", "1", "--seconds", "1.5", "--minutes", "0.05", "--only", only]
    benchmark("world").main([*arguments, "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text()).keys() == {"of", *only.split(",")}
    assert "bounce | pendulum | rain | fireworks" in capsys.readouterr().out


@pytest.mark.parametrize(
    "only",
    [
        "synchrony",
        "abuse",
        "growth",
        pytest.param("watching", marks=pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")),
        pytest.param("leaving", marks=pytest.mark.slow),
        *(
            pytest.param(
                name,
                marks=[pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")],
            )
            for name in ("opening", "steering")
        ),
    ],
)
def test_live(benchmark: Any, pipe: str, capfd: pytest.CaptureFixture[str], only: str) -> None:
    pytest.importorskip("starlette")
    if only in ("watching", "opening", "steering"):
        pytest.importorskip("playwright")
    small = ["--minutes", "0.05", "--count", "5", "--watch", "1"]
    benchmark("live").main(["--pipe", pipe, *small, "--only", only])
    assert "| figure | to reach | measured |" in capfd.readouterr().out


@pytest.mark.parametrize("command", ["prepare", "fit", pytest.param("train", marks=pytest.mark.slow)])
def test_kill(benchmark: Any, capfd: pytest.CaptureFixture[str], command: str) -> None:
    code = benchmark("kill").main([command, "--times", "1", "--clips", "2", "--steps", "6"])
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (code, figures["equal"], figures["differing"]) == (0, True, [])
