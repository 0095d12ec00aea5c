"""A further kind of search costs one file and one row: `evovlm_example/line.py` goes through every command."""

import json
from pathlib import Path

import pytest

from evovlm.recipes.documents import load_recipe
from evovlm.recipes.recipe import ParameterMerge
from evovlm.runs.config import kinds
from tests.cli.conftest import Command, write_config
from tests.plugin_package.evovlm_example.line import LineConfig


@pytest.fixture(autouse=True)
def _one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "SEARCH_KINDS", {**kinds.SEARCH_KINDS, "line": LineConfig})


@pytest.fixture
def line(models: Path, problems: Path, tmp_path: Path) -> Path:
    """The config of a search along a line, that starts a quarter of the way."""
    recipe = {
        "format": 1,
        "kind": "parameter_merge",
        "base": str(models / "base"),
        "sources": {"start": str(models / "math"), "end": str(models / "ja")},
        "method": "linear",
        "parameters": {"start": {"weight": 0.75}, "end": {"weight": 0.25}},
    }
    merge = {"kind": "line", "base": str(models / "base"), "ends": [str(models / "math"), str(models / "ja")]}
    changes = {"merge": merge, "space": {"kind": "line"}, "start": {"recipe": recipe}, "optimizer": {"population": 4}}
    return write_config(tmp_path / "line.yaml", models=models, problems=problems, **changes)


def test_a_kind_of_search_in_one_file_goes_through_every_command(evovlm: Command, line: Path, tmp_path: Path) -> None:
    checked = evovlm("check", line, "--json")
    assert checked.code == 0, checked.out
    assert json.loads(checked.out)["search"]["genes"] == 1
    run = tmp_path / "run"
    searched = evovlm("evolve", line, "--out", run, "--json")
    assert searched.code == 0, searched.err
    result = json.loads(searched.out)
    assert result["candidates"] == 8
    shown = json.loads(evovlm("show", run, "--json").out)
    assert shown["top"][0]["recipe_id"] == result["recipe_id"]
    [start, end] = shown["numbers"]
    assert (start["source"], end["source"]) == ("start", "end")
    assert start["values"][0] + end["values"][0] == pytest.approx(1.0)
    exported = evovlm("export", run, "--pick", "best", "--out", tmp_path / "best.yaml")
    assert exported.code == 0, exported.err
    recipe = load_recipe(tmp_path / "best.yaml")
    assert recipe.recipe_id == result["recipe_id"]
    assert isinstance(recipe, ParameterMerge)
    assert evovlm("report", run, "--out", tmp_path / "page.html").code == 0
    again = evovlm("evolve", run / "config.yaml", "--out", run, "--resume", "--json")
    assert json.loads(again.out) == result
    assert evovlm("merge", tmp_path / "best.yaml", "--out", tmp_path / "model").code == 0


def test_an_unknown_kind_of_search_is_refused_with_the_known_ones(evovlm: Command, line: Path) -> None:
    line.write_text(line.read_text().replace("kind: line\n  base", "kind: lime\n  base"))
    refused = evovlm("check", line)
    assert refused.code == 2
    assert "merge.kind: unknown kind 'lime'; did you mean 'line'?" in refused.err
