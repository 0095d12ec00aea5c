"""Several goals and bounds on the command line: the front shown, a candidate taken, a budget that ran out."""

import json
from pathlib import Path

import pytest

from evovlm.recipes.documents import load_recipe
from tests.cli.conftest import TASK, Command, short_task, write_config


@pytest.fixture(scope="module")
def traded(models: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a search that trades two tasks, and ends by its tokens."""
    return write_config(
        tmp_path_factory.mktemp("traded") / "trade.yaml",
        models=models,
        problems=problems,
        optimizer={"kind": "random", "population": 4},
        merge={
            "base": str(models / "base"),
            "sources": {"math": str(models / "math"), "ja": str(models / "ja")},
            "method": "dare_ties",
            # Without it, mergekit has no equivalent.
            "settings": {"rescale": "l1"},
        },
        budget={"tokens": 1},
        tasks=[short_task(problems), short_task(problems, f"{TASK}_en")],
        objective={
            "pareto": True,
            "constraints": [{"task": f"{TASK}_en", "not_below": "math", "by": 1.0}],
        },
    )


def test_the_front_is_shown_and_a_candidate_of_it_exported(evovlm: Command, traded: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = evovlm("evolve", traded, "--out", run)
    assert found.code == 0, found.err
    assert "ended by its budget of tokens" in found.out
    shown = evovlm("show", run)
    for printed in (found.out, shown.out):
        assert "Pareto front" in printed
        assert f"evovlm export {run} --pick CANDIDATE --out recipe.yaml" in printed
    assert f"constraints: {TASK}_en not below math by more than 1" in shown.out
    assert "0 of 4 candidates violate one" in shown.out
    summary = json.loads(evovlm("show", run, "--json").out)
    index = summary["front"][0]["index"]

    taken = json.loads(evovlm("export", run, "--pick", index, "--out", tmp_path / "taken.yaml", "--json").out)
    assert taken["candidate"] == index
    assert taken["recipe_id"] == summary["front"][0]["recipe_id"]
    assert load_recipe(tmp_path / "taken.yaml").recipe_id == taken["recipe_id"]
    assert "format: 1" in evovlm("export", run, "--pick", "knee").out
    mergekit = evovlm("export", run, "--pick", "best", "--format", "mergekit")
    assert "merge_method: dare_ties" in mergekit.out, mergekit.err
    again = evovlm("export", run, "--pick", index, "--out", tmp_path / "taken.yaml")
    assert (again.code, "exists already" in again.err) == (2, True)


def test_export_says_what_is_missing(evovlm: Command, finished: Path) -> None:
    for arguments, words in (
        ([finished], "Choose a candidate with --pick"),
        ([finished / "best.yaml"], "Choose a tool with --format"),
        ([finished / "best.yaml", "--pick", "best"], "is not a run's folder"),
        ([finished, "--pick", "knee"], "no Pareto front"),
    ):
        refused = evovlm("export", *arguments)
        assert refused.code == 2
        assert words in refused.err
        assert "Traceback" not in refused.err


def test_a_constraint_on_a_task_that_is_not_scored_is_refused_with_its_line(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    objective = {"constraints": [{"task": "emoji_ja", "at_least": 0.5}]}
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, objective=objective)
    refused = evovlm("evolve", config, "--out", tmp_path / "run")
    assert refused.code == 2
    assert "objective.constraints[0].task: is not scored; name it among the tasks (with weight 0" in refused.err
    assert not (tmp_path / "run").exists()
