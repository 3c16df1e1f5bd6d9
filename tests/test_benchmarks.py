"""The benchmarks fit the package that they measure: every file is imported, and the quick ones run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_is_imported() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert "speed_networks" in names
    run("\n".join(f"import {name}" for name in names))


@pytest.mark.parametrize("arguments", [["cold_start.py", "1"]])
def test_the_quick_ones_run(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "import torch" in done.stdout
