"""Data flows one way, and the command line starts at once: who may import whom."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flowreel

ROOT = Path(flowreel.__file__).parent
ENDS = ("train", "evaluate", "serve")
"""Rooms at the end of the flow of data: what uses them is the command line alone."""


def module_name(path: Path) -> str:
    parts = ["flowreel", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Full names of what a file imports (``from a import b`` is a.b), and whether outside of every function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, id(node) not in inside) for name in names)


def within(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def test_flow_imports_torch_alone() -> None:
    files = sorted((ROOT / "flow").rglob("*.py"))
    assert len(files) >= 7
    for path in files:
        for name, _ in imported(path):
            standard = name.split(".")[0] in sys.stdlib_module_names
            assert standard or within(name, "torch", "flowreel.flow"), f"{path.name} imports {name}"


def test_models_know_no_more_than_flow_and_config() -> None:
    for path in (ROOT / "models").rglob("*.py"):
        for name, _ in imported(path):
            if within(name, "flowreel"):
                rooms = ("flowreel.models", "flowreel.flow", "flowreel.config", "flowreel.errors")
                assert within(name, *rooms), f"{path.name} imports {name}"


def test_the_ends_are_imported_by_the_command_line_alone() -> None:
    allowed = {"flowreel.cli": ENDS, "flowreel.training.autoencoder": ("train",)}
    for path in ROOT.rglob("*.py"):
        user = module_name(path)
        for name, _ in imported(path):
            for end in ENDS:
                room = f"flowreel.{end}"
                if within(name, room) and not within(user, room):
                    assert end in allowed.get(user, ()), f"{user} imports {name}"


def test_heavy_rooms_are_imported_inside_functions_of_the_command_line() -> None:
    light = (
        "flowreel.config",
        "flowreel.utils.console",
        "flowreel.errors",
        "flowreel.utils.runtime",
        "flowreel.cli_parser",
        "flowreel.config.presets",
        "flowreel.config.rates",
        "flowreel.utils.reporting",
        "flowreel.utils.spelling",
    )
    light += ("flowreel.__version__", "flowreel.utils.lazy")
    files = ("__init__.py", "__main__.py", "cli.py", *(f"{name.split('.')[1]}.py" for name in light))
    for file in (*files, *(f"config/{path.name}" for path in (ROOT / "config").glob("*.py"))):
        path = ROOT / file
        if not path.exists():
            continue
        for name, outside in imported(path):
            if outside and within(name, "flowreel") and not (file == "__main__.py" and within(name, "flowreel.cli")):
                typing_only = file == "__init__.py" and within(
                    name, "flowreel.media", "flowreel.pipeline.pipeline", "flowreel.pipeline.loading"
                )
                assert within(name, *light) or typing_only, f"{file} imports {name} at once"
            assert not (outside and name.split(".")[0] in ("torch", "numpy", "av", "diffusers")), f"{file}: {name}"


def test_the_codec_is_trained_inside_a_function_of_prepare() -> None:
    for path in ROOT.rglob("*.py"):
        for name, outside in imported(path):
            if within(name, "flowreel.training.autoencoder") and not within(module_name(path), "flowreel.cli"):
                assert not outside, f"{module_name(path)} imports {name} at once"


def test_light_rooms_leave_torch_out() -> None:
    rooms = [r for r in ("config", "machine", "presets", "errors", "cli") if importlib.util.find_spec(f"flowreel.{r}")]
    lines = [f"import flowreel, {', '.join(f'flowreel.{room}' for room in rooms)}", "import sys"]
    lines.append("print([m for m in ('torch', 'numpy', 'av', 'diffusers', 'matplotlib') if m in sys.modules])")
    run = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


HEAVY = (
    "PIL",
    "accelerate",
    "av",
    "diffusers",
    "huggingface_hub",
    "jsonargparse",
    "lmdb",
    "matplotlib",
    "numpy",
    "rich",
)
HEAVY += ("safetensors", "scipy", "starlette", "sympy", "torch", "torch._dynamo", "torch._inductor", "yaml")


def loaded_after(code: str) -> set[str]:
    """Which of the heavy modules a new process has imported after ``code``."""
    lines = f"{code}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.split())


def test_loading_a_pipeline_imports_no_more_than_it_needs() -> None:
    assert loaded_after("import flowreel") == set()
    assert loaded_after("import flowreel; flowreel.Clip") == {"numpy"}
    loaded = loaded_after("import flowreel, flowreel.pipeline.generate; flowreel.load('world')")
    assert loaded == {"numpy", "safetensors", "torch"}
