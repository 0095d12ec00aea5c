"""CONTRIBUTING.md: what it names is there."""

import ast
import re
from pathlib import Path

import pytest

from evovlm.merging.arithmetic.methods import METHODS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| `(evovlm/[\w/]+\.py)` \| `([\w.]+)` \|$", TEXT, flags=re.MULTILINE)
LIKE = {"dare": "DARE", "della": "DELLA", "breadcrumbs": "Breadcrumbs", "nuslerp": "SLERP"}


def defined_in(path: Path) -> set[str]:
    """Return the functions and classes of a module, methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_the_way_from_the_papers_has_its_rows() -> None:
    section = TEXT.partition("## From the paper to the code")[2].partition("\n## ")[0]
    assert len(ROWS) == section.count("\n| ") - 1 >= 25


@pytest.mark.parametrize(("what", "file", "name"), ROWS, ids=[name for _, _, name in ROWS])
def test_every_function_that_computes_an_equation_is_there(what: str, file: str, name: str) -> None:
    assert name in defined_in(ROOT / file), f"{what}: {file} defines no {name}"


def test_every_method_of_the_table_is_led_to() -> None:
    text = " ".join(f"{what} {name}" for what, _, name in ROWS).lower()
    for method in METHODS:
        stem = LIKE.get(method.partition("_")[0], method.replace("_", " "))
        assert stem.lower() in text or method in text or method == "passthrough", method


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:evovlm|tests|benchmarks|assets)/[\w./]+)`", TEXT))))
def test_every_file_that_is_named_is_there(path: str) -> None:
    assert (ROOT / path).exists()
