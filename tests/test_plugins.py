"""Rows that other packages add to the tables: tests/plugin_package adds one to each, and commands use them."""

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from evovlm.errors import PluginError
from evovlm.plugins import Table

PACKAGE = Path(__file__).parent / "plugin_package"
ROWS = {
    "methods": "halved",
    "optimizers": "halton",
    "spaces": "halves",
    "tasks": "capitals_ja",
}
MERGE = {
    "base": "zoo:base",
    "sources": {"ja": "zoo:ja", "math": "zoo:math-a"},
    "method": "halved",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package, as its wheel installs it."""
    pytest.importorskip("hatchling", reason="building needs hatchling, which the dev extra installs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=PACKAGE, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


SEVERAL = """
import json, sys
from evovlm.cli.app import main
for arguments in json.loads(sys.argv.pop()):
    sys.argv = ["evovlm", *arguments]
    try:
        main()
    except SystemExit as left:
        if left.code:
            raise
"""


def run(*arguments: str, site: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that finds the packages in `site`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(site), *sys.path]))}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def evovlm(*commands: list[str], site: Path, folder: Path) -> list[Any]:
    """Run commands in one process (most of the time of one is what it imports), and return the JSON of each."""
    done = run("-c", SEVERAL, json.dumps([[*command, "--json"] for command in commands]), site=site, folder=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_tables_show_the_rows_of_another_package(installed: Path, tmp_path: Path) -> None:
    shown = evovlm(*([command] for command in ROWS), site=installed, folder=tmp_path)
    for row, table in zip(ROWS.values(), shown, strict=True):
        assert row in [each["name"] for each in table]


def test_a_merge_by_a_method_of_another_package(installed: Path, tmp_path: Path) -> None:
    merges = {"halved": {"ja": 0.5, "math": 1.0}, "task_arithmetic": {"ja": 0.25, "math": 0.5}}
    for method, weights in merges.items():
        numbers = {name: {"weight": weight} for name, weight in weights.items()}
        recipe = {**MERGE, "format": 1, "kind": "parameter_merge", "method": method, "parameters": numbers}
        (tmp_path / f"{method}.yaml").write_text(yaml.safe_dump(recipe))
    evovlm(*(["merge", f"{method}.yaml", "--out", method] for method in merges), site=installed, folder=tmp_path)
    found, expected = (load_file(tmp_path / method / "model.safetensors") for method in merges)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in found)


def test_a_search_with_every_row_of_another_package(installed: Path, tmp_path: Path) -> None:
    config = {
        "format": 1,
        "kind": "evolve",
        "merge": MERGE,
        "space": {"kind": "halves", "weight": [0, 1]},
        "optimizer": {"kind": "halton", "population": 4},
        "budget": {"candidates": 8},
        "tasks": [{"name": "capitals_ja"}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    evolve = ["evolve", "config.yaml", "--out", "run"]
    score = ["score", "run/best.yaml", "--task", "capitals_ja"]
    _, shown, scored = evovlm(evolve, ["show", "run"], score, site=installed, folder=tmp_path)
    assert shown["candidates"] == 8
    assert scored["capitals_ja"]["n"] == 2


def test_no_package_is_imported_before_its_row_is_used(installed: Path, tmp_path: Path) -> None:
    script = """
import sys
import evovlm
from evovlm.cli.app import main
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.search.catalogue import OPTIMIZERS
assert METHODS["ties"].name == "ties"
assert "importlib.metadata" not in sys.modules or "evovlm_example" not in sys.modules
assert "halved" in METHODS and "halton" in list(OPTIMIZERS) and "halton" not in METHODS
sys.argv = ["evovlm", "--help"]
try:
    main()
except SystemExit:
    pass
assert not any(name.startswith("evovlm_example") for name in sys.modules)
METHODS["halved"]
assert "evovlm_example.method" in sys.modules and "evovlm_example.optimizer" not in sys.modules
"""
    done = run("-c", script, site=installed, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_broken_package_stops_only_the_commands_that_use_its_table(tmp_path: Path) -> None:
    add_package(tmp_path, "broken", group="evovlm.methods", rows={"new": "not_there:ROW"})
    done = run("-m", "evovlm", "methods", site=tmp_path, folder=tmp_path)
    assert done.returncode == 2
    assert "The package broken adds 'new' to evovlm.methods, but not_there:ROW cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr
    assert run("-m", "evovlm", "spaces", site=tmp_path, folder=tmp_path).returncode == 0


def add_package(site: Path, name: str, *, group: str, rows: dict[str, str], code: str = "") -> None:
    """Write a package's metadata, with its entry points, and its one module."""
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{key} = {at}\n" for key, at in rows.items()))
    if code:
        (site / f"{name}.py").write_text(code)


@pytest.mark.parametrize(
    ("rows", "code", "problem"),
    [
        ({"new": "rows_a:MISSING"}, "", "rows_a:MISSING cannot be imported (AttributeError: "),
        ({"new": "rows_a:ROW"}, "raise RuntimeError('two\\nlines')", "cannot be imported (RuntimeError: two)"),
        ({"new": "rows_a:ROW"}, "def", "cannot be imported (SyntaxError: invalid syntax"),
        ({"new": "rows_a:ROW"}, "ROW = 'text'", "rows_a:ROW is a str, not a Fraction. Fix the package, or"),
        ({"old": "rows_a:ROW"}, "", "evovlm has a row of that name. Rename the entry point, or uninstall rows_a."),
    ],
)
def test_a_row_that_cannot_be_used_is_an_error_that_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: dict[str, str], code: str, problem: str
) -> None:
    from fractions import Fraction

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rows_a", raising=False)
    add_package(tmp_path, "rows_a", group="evovlm.testing", rows=rows, code=code or "x = 1")
    table = Table("evovlm.testing", {"old": Fraction(1, 2)}, row_type=Fraction)
    assert table["old"] == Fraction(1, 2)
    with pytest.raises(PluginError) as raised:
        dict(table)
    assert problem in str(raised.value)
    assert str(raised.value).startswith(f"The package rows_a adds '{next(iter(rows))}' to evovlm.testing, but ")


def test_a_row_has_the_name_of_its_entry_point_and_one_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    add_package(
        tmp_path,
        "rows_b",
        group="evovlm.testing",
        rows={"new": "rows_b:ROW", "newer": "rows_b:ROW"},
        code="from importlib.metadata import EntryPoint\nROW = EntryPoint('new', 'b', 'c')\n",
    )
    table = Table("evovlm.testing", {}, row_type=importlib.metadata.EntryPoint)
    assert (list(table), len(table), "new" in table, "old" in table) == (["new", "newer"], 2, True, False)
    assert table["new"] is table["new"]
    with pytest.raises(KeyError):
        table["old"]
    with pytest.raises(PluginError, match=r"the row that it names is called 'new'\. Give both the same name"):
        table["newer"]
    add_package(tmp_path, "rows_c", group="evovlm.testing", rows={"new": "rows_c:ROW"})
    with pytest.raises(PluginError, match=r"several packages add a row of that name \(rows_b, rows_c\)\. Keep one"):
        list(Table("evovlm.testing", {}, row_type=importlib.metadata.EntryPoint))
