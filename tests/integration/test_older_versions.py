"""Folders that version 0.6.0 wrote are still loaded and resumed: a pipeline, prepared data and training states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import flowreel
from flowreel.cli import main
from flowreel.data.dataset import WindowDataset
from tests.conftest import GOLDEN

OLD = GOLDEN / "version_0_6_0"
TRAIN = "--batch 2 --save 2 --keep 1 --preview 0 --validate 0 --model.dim 8 --model.depth 1 --model.heads 1"
TRAIN += " --model.fusion_norm true --data.window 6 --objective.contexts 2 --objective.roles.audio_clean 1"
TRAIN += " --objective.guidance 1.5 --data.workers 0"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the folders. All have the same autoencoder, which is stored once."""
    shutil.copytree(OLD, tmp_path / "old")
    weights = Path("codec", "autoencoder", "model.safetensors")
    for folder in ("data", "run"):
        shutil.copy(OLD / weights, tmp_path / "old" / folder / weights)
    return tmp_path / "old"


def state(run: Path, step: int) -> dict:
    return json.loads((run / "training" / str(step) / "state.json").read_text())


def test_a_pipeline_loads_and_generates(old: Path) -> None:
    pipe = flowreel.load(old / "run")
    assert (pipe.config.trained.guidance, pipe.config.trained.conditioned_guidance) == (1.5, 2.0)
    clip = pipe.generate(seconds=0.6, seed=1)
    assert clip.frames.shape == (6, 16, 16, 3)
    assert clip.audio is not None
    assert np.isfinite(clip.audio).all()


def test_prepared_data_is_complete_and_trained_on(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"prepare {old}/clips {old}/data --codec {old}/codec --size 16 --mel.bins 16 --mel.n_fft 256"
    before = (old / "data" / "index.json").read_bytes()
    assert WindowDataset(old / "data").sample(0)["video"].shape == (10, 2, 2, 2)
    assert main([*command.split(), "--mel.win_length", "256", "--workers", "1"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (old / "data" / "index.json").read_bytes() == before


def test_training_resumes_under_the_new_names(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", str(old / "data"), str(old / "run"), *TRAIN.split(), "--steps", "4"]
    other = [*command, "--objective.degrade", "0.3", "--objective.conditioned_guidance", "2"]
    assert main(other) == 2
    assert "objective.degrade" in capsys.readouterr().err
    assert main([*command, "--objective.degrade", "0.2", "--objective.conditioned_guidance", "2"]) == 0
    assert state(old / "run", 4)["step"] == 4
    assert state(old / "run", 4)["seconds"] > state(OLD / "run", 2)["seconds"]


def test_a_vocoder_resumes(old: Path) -> None:
    options = "--batch 2 --save 2 --keep 1 --preview 0 --validate 0 --segment 8"
    options += " --sinusoids.width 4 --sinusoids.layers 1"
    command = ["train-vocoder", str(old / "clips"), str(old / "sinusoids"), *options.split(), "--steps", "4"]
    assert main([*command, "--like", str(old / "data")]) == 0
    assert state(old / "sinusoids", 4)["step"] == 4
