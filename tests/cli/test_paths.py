"""The commands on recipes of paths and hybrids."""

import json
from pathlib import Path

import pytest

from evovlm.cli.show_recipe import scale_bar
from tests.cli.conftest import Command

PATH = """\
format: 1
kind: layer_path
host: {models}/base
sources: {{base: {models}/base, ja: {models}/ja}}
scale_target: stream
path:
  - [base, 0, 1.0]
  - [ja, 1, -0.5]
  - [base, 1, 2.5]
"""
HYBRID = """\
format: 1
kind: hybrid
stages:
  ps:
    kind: parameter_merge
    base: {models}/base
    sources: {{math: {models}/math, ja: {models}/ja}}
    method: linear
    parameters: {{math: {{weight: 0.5}}, ja: {{weight: 0.5}}}}
  path:
    kind: layer_path
    sources: {{ja: {models}/ja}}
    scale_target: pending
    path: [[ps, 0, 1.0], [ja, 1, 0.9], [ps, 1, 1.0]]
"""


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def path_recipe(models: Path, tmp_path: Path) -> Path:
    file = tmp_path / "path.yaml"
    file.write_text(PATH.format(models=models), encoding="utf-8")
    return file


@pytest.fixture
def hybrid_recipe(models: Path, tmp_path: Path) -> Path:
    file = tmp_path / "hybrid.yaml"
    file.write_text(HYBRID.format(models=models), encoding="utf-8")
    return file


def test_a_path_is_checked_merged_and_scored(
    evovlm: Command, path_recipe: Path, problems: Path, tmp_path: Path
) -> None:
    checked = evovlm("check", path_recipe)
    assert checked.code == 0, checked
    assert "the result: 3 blocks, 0.0" in checked.out
    assert "no problems found" in checked.out
    merged = evovlm("merge", path_recipe, "--out", tmp_path / "out")
    assert merged.code == 0, merged
    assert "the result: 3 blocks, 0.0" in merged.err
    asked = ("--task", "word_problems_ja", "--data", f"word_problems_ja={problems}", "--json")
    scores = [evovlm("score", model, *asked) for model in (path_recipe, tmp_path / "out")]
    assert [each.code for each in scores] == [0, 0], scores
    assert json.loads(scores[0].out).keys() == {"word_problems_ja"}


def test_a_hybrid_is_checked_merged_and_scored(
    evovlm: Command, hybrid_recipe: Path, problems: Path, tmp_path: Path
) -> None:
    checked = json.loads(evovlm("check", hybrid_recipe, "--json").out)
    assert checked["ok"] is True
    assert checked["result"]["n_blocks"] == 3
    merged = json.loads(evovlm("merge", hybrid_recipe, "--out", tmp_path / "out", "--json").out)
    assert merged["size_bytes"] == checked["result"]["size_bytes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hybrid.yaml", "out"]
    asked = ("--task", "word_problems_ja", "--data", f"word_problems_ja={problems}", "--json")
    assert evovlm("score", hybrid_recipe, *asked).code == 0


def test_a_path_is_shown_hop_by_hop_and_drawn(evovlm: Command, path_recipe: Path, tmp_path: Path) -> None:
    shown = evovlm("show", path_recipe, "--svg", tmp_path / "path.svg")
    assert shown.code == 0, shown
    assert "3 hops through 3 blocks, scales multiply the whole stream" in shown.out
    rows = [line.split() for line in shown.out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:3] for row in rows[:3]] == [["0", "0", "1"], ["1", "1", "-0.5"], ["2", "1", "2.5"]]
    assert (tmp_path / "path.svg").read_text(encoding="utf-8").startswith("<svg")
    again = evovlm("show", path_recipe, "--svg", tmp_path / "path.svg")
    assert again.code == 2
    assert "exists already" in again.err
    told = json.loads(evovlm("show", path_recipe, "--json").out)
    assert told["path"] == [["base", 0, 1.0], ["ja", 1, -0.5], ["base", 1, 2.5]]
    assert told["recipe_id"] in shown.out


def test_a_hybrid_and_a_merge_in_parameter_space_are_shown(
    evovlm: Command, hybrid_recipe: Path, models: Path, tmp_path: Path
) -> None:
    shown = evovlm("show", hybrid_recipe)
    assert "stages.ps.sources.math" in shown.out
    assert "has not yet added" in shown.out
    assert "1 hop repeats" not in shown.out
    stage = "format: 1\n" + HYBRID.split("  ps:\n")[1].split("  path:")[0].replace("\n    ", "\n").lstrip()
    (tmp_path / "merge.yaml").write_text(stage.format(models=models), encoding="utf-8")
    shown = evovlm("show", tmp_path / "merge.yaml")
    assert shown.code == 0, shown
    assert "method: linear" in shown.out
    refused = evovlm("show", tmp_path / "merge.yaml", "--svg", tmp_path / "path.svg")
    assert refused.code == 2
    assert "no path to draw" in refused.err


def test_a_path_is_exported_as_slices_and_a_hybrid_is_not(
    evovlm: Command, path_recipe: Path, hybrid_recipe: Path
) -> None:
    exported = evovlm("export", path_recipe, "--format", "mergekit")
    assert exported.code == 0, exported
    assert "layer_range: [0, 1]" in exported.out
    refused = evovlm("export", hybrid_recipe, "--format", "mergekit")
    assert refused.code == 2
    assert "one by one" in refused.err


@pytest.mark.parametrize("command", ["check", "merge", "score", "show"])
def test_a_path_through_a_block_that_is_not_there_is_refused_with_its_line(
    evovlm: Command, path_recipe: Path, tmp_path: Path, command: str
) -> None:
    path_recipe.write_text(path_recipe.read_text().replace("[ja, 1,", "[ja, 9,"), encoding="utf-8")
    further = {"merge": ("--out", tmp_path / "out"), "score": ("--task", "word_problems_ja")}.get(command, ())
    refused = evovlm(command, path_recipe, *further)
    assert refused.code == 2
    assert "path.yaml:8: path[1]: 'ja' has 2 blocks, 0 to 1, and no block 9" in refused.err


def test_a_bar_is_as_long_as_its_scale() -> None:
    assert scale_bar(1.0) == " " + "█" * 8
    assert scale_bar(-0.5) == "-" + "█" * 4
    assert scale_bar(7.0) == " " + "█" * 16 + ">"
    assert scale_bar(0.0) == " "
