"""The import law: a package imports only packages that stand before it, and the command line starts at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowreel

ROOT = Path(flowreel.__file__).parent
LAW = """errors < config < utils < flow < models < media < codec < data world < pipeline < training metrics < serve
    < cli_parser < cli < __main__"""
PLACES = {name: place for place, names in enumerate(LAW.split("<")) for name in names.split()}


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports anywhere, ``from a import b`` as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "package", [name for name in PLACES if (ROOT / name).exists() or (ROOT / f"{name}.py").exists()]
)
def test_packages_import_only_what_stands_before_them(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py")) or [ROOT / f"{package}.py"]
    others = {name.split(".")[1] for path in files for name in imported(path) if name.startswith("flowreel.")}
    assert all(PLACES.get(name, 0) < PLACES[package] for name in others - {package, "__version__"})


def test_every_module_has_its_place_in_the_law() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} - {"__init__"} <= PLACES.keys()
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= PLACES.keys()
    assert not {"data", "metrics", "training"} & {
        name.split(".")[1] for path in (ROOT / "serve").glob("*.py") for name in imported(path) if "flowreel." in name
    }


def test_flow_imports_torch_alone() -> None:
    for path in (ROOT / "flow").glob("*.py"):
        others = {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names
        assert others <= {"torch", "flowreel"}, f"{path.name} imports {others}"


HEAVY = ("PIL", "av", "diffusers", "huggingface_hub", "lmdb", "matplotlib", "numpy", "rich")
HEAVY += ("safetensors", "scipy", "starlette", "sympy", "torch", "torch._dynamo", "torch._inductor", "yaml")


def loaded_after(code: str, of: tuple[str, ...] = HEAVY) -> set[str]:
    """Which of the modules a new process has imported after ``code``."""
    lines = f"{code}\nimport sys\nprint(*(name for name in {of} if name in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.split())


def test_the_command_line_and_the_configs_leave_torch_out() -> None:
    modules = [f"flowreel.config.{path.stem}" for path in (ROOT / "config").glob("[a-z]*.py")]
    modules += [f"flowreel.utils.{name}" for name in ("console", "files", "lazy", "locking", "reporting", "resume")]
    modules += ["flowreel.utils.runtime", "flowreel.utils.spelling", "flowreel.cli", "flowreel.__main__"]
    assert not loaded_after(f"import {', '.join(modules[:-1])}") - {"safetensors"}
    assert loaded_after("import flowreel.cli") == set()


def test_loading_a_pipeline_imports_no_more_than_it_needs() -> None:
    assert loaded_after("import flowreel") == set()
    assert loaded_after("import flowreel; flowreel.Clip") == {"numpy"}
    loading = "import flowreel, flowreel.pipeline.generate; flowreel.load('world')"
    assert loaded_after(loading) == {"numpy", "safetensors", "torch"}
    modules = tuple(
        ".".join(("flowreel", *path.relative_to(ROOT).with_suffix("").parts))
        for package in ("data", "metrics", "serve", "training", "world")
        for path in (ROOT / package).glob("[a-z]*.py")
    )
    assert len(modules) > 40
    assert loaded_after(loading, modules) == set()
