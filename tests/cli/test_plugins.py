"""Rows that other packages add to the tables: tests/plugin_package adds one to each, and commands use them."""

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from evovlm.cli.completion import complete_methods
from evovlm.errors import PluginError
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.plugins import PluginTable
from evovlm.recipes.space_kinds import SPACES
from evovlm.runs.config.kinds import SEARCH_KINDS
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.tasks.catalogue import TASKS
from evovlm.tasks.metrics.table import METRICS
from tests.cli.conftest import Command, write_config

PACKAGE = Path(__file__).parents[1] / "plugin_package"
SHOWN = {"methods": "halved", "optimizers": "halton", "spaces": "halves", "tasks": "capitals_ja"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package, as its wheel installs it."""
    pytest.importorskip("hatchling", reason="building needs hatchling, which the dev extra installs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=PACKAGE, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def _fresh_tables() -> Iterator[None]:
    """Let the tables read their entry points again, now and after the test."""

    def forget() -> None:
        for table in (METHODS, METRICS, OPTIMIZERS, SEARCH_KINDS, SPACES, TASKS):
            vars(table).pop("_added", None)

    forget()
    yield
    forget()


@pytest.fixture
def _installed(site: Path, monkeypatch: pytest.MonkeyPatch, _fresh_tables: None) -> None:
    """Make the example package known to this process."""
    monkeypatch.syspath_prepend(site)


@pytest.mark.usefixtures("_installed")
def test_the_tables_and_completion_show_the_rows_of_another_package(evovlm: Command) -> None:
    for command, row in SHOWN.items():
        assert row in [each["name"] for each in json.loads(evovlm(command, "--json").out)]
    assert complete_methods("halv") == ["halved"]
    kind = json.loads(evovlm("spaces", "--json").out)[-1]
    assert (kind["name"], kind["summary"]) == ("merge.kind line", "A whole search along a line.")
    assert "merge.kind line" in evovlm("spaces").out


@pytest.mark.usefixtures("_installed")
def test_a_merge_by_a_method_of_another_package(evovlm: Command, models: Path, tmp_path: Path) -> None:
    merges = {"halved": {"ja": 0.5, "math": 1.0}, "task_arithmetic": {"ja": 0.25, "math": 0.5}}
    for method, weights in merges.items():
        recipe = {
            "format": 1,
            "kind": "parameter_merge",
            "base": str(models / "base"),
            "sources": {name: str(models / name) for name in weights},
            "method": method,
            "parameters": {name: {"weight": weight} for name, weight in weights.items()},
        }
        (tmp_path / f"{method}.yaml").write_text(yaml.safe_dump(recipe))
        assert evovlm("merge", tmp_path / f"{method}.yaml", "--out", tmp_path / method).code == 0
    found, expected = (load_file(tmp_path / method / "model.safetensors") for method in merges)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in found)


@pytest.mark.usefixtures("_installed")
def test_a_search_with_every_row_of_another_package(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    sources = {name: str(models / name) for name in ("ja", "math")}
    config = write_config(
        tmp_path / "config.yaml",
        models=models,
        problems=problems,
        merge={"base": str(models / "base"), "sources": sources, "method": "halved"},
        space={"kind": "halves", "weight": [0, 1]},
        optimizer={"kind": "halton", "population": 4},
        tasks=[{"name": "capitals_ja"}],
    )
    assert evovlm("evolve", config, "--out", tmp_path / "run").code == 0
    assert json.loads(evovlm("show", tmp_path / "run", "--json").out)["candidates"] == 8
    scored = evovlm("score", tmp_path / "run" / "best.yaml", "--task", "capitals_ja", "--device", "cpu", "--json")
    assert json.loads(scored.out)["capitals_ja"]["n"] == 2


@pytest.mark.usefixtures("_installed")
def test_a_whole_kind_of_search_of_another_package(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    merge = {"kind": "line", "base": str(models / "base"), "ends": [str(models / "math"), str(models / "ja")]}
    config = write_config(tmp_path / "line.yaml", models=models, problems=problems, merge=merge)
    checked = json.loads(evovlm("check", config, "--json").out)
    assert (checked["errors"], checked["search"]["genes"]) == ([], 1)


def test_no_package_is_imported_before_its_row_is_used(site: Path) -> None:
    script = """
import sys
import evovlm
from evovlm.cli.app import main
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.search.catalogue import OPTIMIZERS
assert METHODS["ties"].name == "ties"
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
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(site), *sys.path]))}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("_fresh_tables")
def test_a_broken_package_stops_only_the_commands_that_use_its_table(
    evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_package(tmp_path, "broken", group="evovlm.methods", rows={"new": "not_there:ROW"})
    monkeypatch.syspath_prepend(tmp_path)
    shown = evovlm("methods")
    assert shown.code == 2
    assert "The package broken adds 'new' to evovlm.methods, but not_there:ROW cannot be imported" in shown.err
    assert evovlm("spaces").code == 0


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
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rows_a", raising=False)
    add_package(tmp_path, "rows_a", group="evovlm.testing", rows=rows, code=code or "x = 1")
    table = PluginTable("evovlm.testing", {"old": Fraction(1, 2)}, row_type=Fraction)
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
    table = PluginTable("evovlm.testing", {}, row_type=importlib.metadata.EntryPoint)
    assert (list(table), len(table), "new" in table, "old" in table) == (["new", "newer"], 2, True, False)
    assert table["new"] is table["new"]
    with pytest.raises(KeyError):
        table["old"]
    with pytest.raises(PluginError, match=r"the row that it names is called 'new'\. Give both the same name"):
        table["newer"]
    add_package(tmp_path, "rows_c", group="evovlm.testing", rows={"new": "rows_c:ROW"})
    with pytest.raises(PluginError, match=r"several packages add a row of that name \(rows_b, rows_c\)\. Keep one"):
        list(PluginTable("evovlm.testing", {}, row_type=importlib.metadata.EntryPoint))
