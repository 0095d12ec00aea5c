"""docs/papers.md: every row names a function that exists, and every merge method has a row."""

import ast
import re
from pathlib import Path

import pytest

from evovlm.merging.arithmetic.methods import METHODS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
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


def test_every_line_of_the_table_is_read_as_a_row() -> None:
    assert len(ROWS) == TEXT.count("\n| ") - 1 >= 25


@pytest.mark.parametrize(("what", "file", "name"), ROWS, ids=[name for _, _, name in ROWS])
def test_every_row_names_a_function_or_class_that_exists(what: str, file: str, name: str) -> None:
    assert name in defined_in(ROOT / file), f"{what}: {file} does not define {name}"


def test_every_merge_method_has_a_row() -> None:
    text = " ".join(f"{what} {name}" for what, _, name in ROWS).lower()
    for method in METHODS:
        stem = LIKE.get(method.partition("_")[0], method.replace("_", " "))
        assert stem.lower() in text or method in text or method == "passthrough", method
