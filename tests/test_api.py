"""What `import evovlm` offers: the names, the examples of their docstrings, and what a run is as values."""

import dataclasses
import doctest
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

import evovlm
from evovlm import api
from evovlm.api import load_run
from evovlm.errors import ConfigError, OutputExists, RunMismatch, TaskError
from evovlm.recipes.candidate import Failure, Outcome
from evovlm.recipes.kinds import HybridMerge, ParameterMerge
from evovlm.runs.config.kinds import load_config
from evovlm.runs.findings import RunCandidate
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.run import Run
from evovlm.runs.searching.evolve import evolve
from tests.cli.conftest import TASK, models, problems, write_config
from tests.cli.test_path_searches import hybrid_search

__all__ = ["models", "problems"]

PUBLIC = {"Recipe", "__version__", "evolve", "load_run", "merge", "score"}


def test_the_public_names_are_these() -> None:
    assert set(evovlm.__all__) == PUBLIC == set(dir(evovlm))
    for name in PUBLIC:
        assert getattr(evovlm, name) is not None
    assert evovlm.load_run is load_run
    assert evovlm.Recipe is api.Recipe
    with pytest.raises(AttributeError, match="no attribute 'evolv'"):
        _ = evovlm.evolv


def test_every_public_function_says_what_it_does_with_an_example() -> None:
    for name in PUBLIC:
        found = getattr(evovlm, name)
        if isinstance(found, types.FunctionType):
            assert ">>> " in (found.__doc__ or ""), name


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, evovlm; dir(evovlm); print(*(m for m in sys.modules if m.split('.')[0] in {}))"
    heavy = ("torch", "transformers", "numpy", "pydantic", "numba", "yaml")
    shown = subprocess.run([sys.executable, "-c", code.format(heavy)], check=True, capture_output=True, text=True)
    assert shown.stdout.split() == []


def test_the_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = {test.name: test for test in doctest.DocTestFinder().find(api)}
    runner = doctest.DocTestRunner()
    order = ("api.evolve", "api.load_run", "api.merge", "api.score")
    for name in order:
        assert found[f"evovlm.{name}"].examples
        assert runner.run(found[f"evovlm.{name}"]).failed == 0, name
    assert {name for name, test in found.items() if test.examples} == {f"evovlm.{name}" for name in order}


def test_a_run_is_loaded_with_its_recipes_and_scores(models: Path, problems: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems)
    result = evolve(load_config(config), out=tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert (run.finished, len(run.candidates)) == (True, 8)
    assert run.winner is not None
    assert run.winner.recipe_id == result.recipe.recipe_id
    assert run.fitness == result.fitness
    assert [each.recipe.recipe_id for each in run.candidates] == [
        entry.recipe_id for entry in read_journal(tmp_path / "run" / "journal.jsonl").candidates
    ]
    for each in run.candidates:
        assert each.fitness == each.scores[TASK].score
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.winner = None


def test_a_failed_candidate_is_loaded_with_its_reason(models: Path, problems: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems)
    evolve(load_config(config), out=tmp_path / "run")
    path = tmp_path / "run" / "journal.jsonl"
    whole = read_journal(path)
    failed = Journal.create(path, config=whole.config, blocks=whole.blocks)
    outcome: Outcome = Failure(kind="ModelError", reason="its weights cancel")
    failed.append(dataclasses.replace(whole.candidates[0], outcome=outcome))
    run = load_run(tmp_path / "run")
    assert (run.finished, run.winner, run.fitness) == (False, None, None)
    (only,) = run.candidates
    assert (only.fitness, only.scores, only.failure) == (None, {}, "its weights cancel")


def test_a_hybrid_is_loaded_at_the_stage_that_it_has_come_to(models: Path, problems: Path, tmp_path: Path) -> None:
    config = tmp_path / "hybrid.yaml"
    config.write_text(yaml.safe_dump(hybrid_search(models, problems)))
    evovlm.evolve(config, out=tmp_path / "run")
    assert isinstance(load_run(tmp_path / "run").winner, HybridMerge)
    assert isinstance(load_run(tmp_path / "run" / "ps").winner, ParameterMerge)


def test_mistakes_are_errors_of_the_user(models: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(RunMismatch, match=r"holds no journal\.jsonl"):
        evovlm.load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        evovlm.evolve(tmp_path / "none.yaml", out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        evovlm.merge(tmp_path / "none.yaml", out=tmp_path / "new")
    with pytest.raises(TaskError, match="not among the scored tasks"):
        evovlm.score(models / "ja", tasks="word_problems_ja", data={"word_problem_ja": "x.jsonl"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"format: 1\nkind: parameter_merge\nbase: {models}/base\nsources: {{ja: {models}/ja}}\nmethod: ties\n"
        "parameters: {ja: {weight: 1}}\n"
    )
    with pytest.raises(OutputExists, match="exists already"):
        evovlm.merge(recipe, out=tmp_path / "model")


def test_what_is_returned_never_changes() -> None:
    for kind in (Run, RunCandidate, api.RunResult, api.WrittenCheckpoint, api.Scores):
        assert kind.__dataclass_params__.frozen
