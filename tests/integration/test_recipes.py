"""The recipes: their commands' settings are ones that exist and go together."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from flowreel.cli import COMMANDS, parse
from flowreel.config import TrainConfig

RECIPES = sorted(Path(__file__).parents[2].glob("recipes/[a-z]*.sh"))


def commands(recipe: Path) -> list[list[str]]:
    text = recipe.read_text(encoding="utf-8").replace("\\\n", " ")
    text = text.replace("$recipes", str(recipe.parent))
    text = re.sub(r'"\$\(\((\d+) \* \$\{GPUS:-1\}\)\)"', r"\1", text)
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("flowreel ")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_settings_are_known_and_fit(recipe: Path) -> None:
    found = commands(recipe)
    order = [words[0] for words in found if words[0] in ("prepare", "train")]
    assert order == sorted(order)
    assert set(order) == {"prepare", "train"}
    for name, *arguments in found:
        positionals, config = parse(name, COMMANDS[name], arguments)
        assert len(positionals) == len(COMMANDS[name].positionals)
        if isinstance(config, TrainConfig) and recipe.stem != "world":  # the one for a laptop
            assert config.steps >= 100_000
    subprocess.run(["bash", "-n", recipe], check=True)
    asked = subprocess.run([recipe], capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert "usage" in asked.stderr
