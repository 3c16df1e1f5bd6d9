"""The trees in the README and in docs/architecture.md are those of the source. Run as a program, this writes them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "flowreel"
LAW = "config utils flow models media codec data world pipeline training metrics serve"
ORDER = LAW.split()
BEGIN, END = "<!-- tree: python tests/integration/test_tree.py writes it -->", "<!-- end of tree -->"


def first_sentence(path: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", re.split(r"\.(?=\s|$)", text)[0])


def packages() -> list[str]:
    rows = [("errors.py", first_sentence(SOURCE / "errors.py"))]
    rows += [(f"{name}/", first_sentence(SOURCE / name / "__init__.py")) for name in ORDER]
    rows += [(name, first_sentence(SOURCE / name)) for name in ("cli_parser.py", "cli.py")]
    return [f"{name:14}{text}" for name, text in rows]


def modules() -> list[str]:
    lines = []
    for name in ORDER:
        lines += [f"{name}/"]
        files = sorted(path for path in (SOURCE / name).glob("*.py") if path.name != "__init__.py")
        lines += [f"  {path.name:21}{first_sentence(path)}" for path in files]
    lines += [f"{name:23}{first_sentence(SOURCE / name)}" for name in ("errors.py", "cli_parser.py", "cli.py")]
    return lines


def with_tree(text: str, lines: list[str]) -> str:
    head, rest = text.split(BEGIN)
    return "\n".join([f"{head}{BEGIN}", "```", *lines, "```", END + rest.split(END)[1]])


PAGES = {ROOT / "README.md": packages, ROOT / "docs" / "architecture.md": modules}


def test_all_packages_are_in_the_order() -> None:
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == set(ORDER)


def test_trees_are_those_of_the_source() -> None:
    for page, lines in PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert with_tree(text, lines()) == text, f"{page.name}: python tests/integration/test_tree.py writes it anew"


if __name__ == "__main__":
    for page, lines in PAGES.items():
        page.write_text(with_tree(page.read_text(encoding="utf-8"), lines()), encoding="utf-8")
