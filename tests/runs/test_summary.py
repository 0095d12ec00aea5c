"""A run's folder read for people."""

import json
from pathlib import Path

import pytest

from evovlm.errors import RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Failure
from evovlm.recipes.documents import load_recipe
from evovlm.runs.config.parameters import EvolveConfig, load_config
from evovlm.runs.folder.journal import Entry, Journal
from evovlm.runs.searching.evolve import RunResult, evolve
from evovlm.runs.summary import summarise
from evovlm.runs.winner_numbers import ALL
from tests.runs.conftest import WriteConfig


def test_the_best_candidates_come_first_with_the_winner_s_numbers(
    whole_run: RunResult,
) -> None:
    summary = summarise(whole_run.folder, top=4)
    assert (summary.finished, summary.winner, summary.candidates) == (True, "best", 12)
    assert summary.top[0].recipe_id == whole_run.recipe.recipe_id
    assert [row.fitness for row in summary.top] == sorted((row.fitness for row in summary.top), reverse=True)
    assert len(summary.top) == 4
    assert summary.units == (ALL,)
    numbers = {(source, parameter): values for source, parameter, values in summary.numbers}
    recipe = load_recipe(whole_run.folder / "best.yaml")
    assert numbers == {
        (source, parameter): (getattr(recipe.parameters[source], parameter),)
        for source in ("ja", "math")
        for parameter in ("weight", "density")
    }
    assert len(summary.best_by_generation) == len(summary.mean_by_generation) == 3
    assert summary.best_by_generation[-1] == whole_run.fitness
    json.dumps(summary.as_json())


def test_the_mean_s_numbers_are_shown_where_the_mean_is_the_winner(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    evolve(config.model_copy(update={"winner": "mean"}), out=tmp_path / "run", evaluator=evaluator)
    summary = summarise(tmp_path / "run", top=1)
    weights = {source: values[0] for source, parameter, values in summary.numbers if parameter == "weight"}
    recipe = load_recipe(tmp_path / "run/mean.yaml")
    assert summary.winner == "mean"
    assert summary.mean_fitness is not None
    assert weights == {name: recipe.parameters[name].weight for name in ("ja", "math")}


def test_a_layer_wise_run_without_density_has_a_column_per_unit(
    write_config: WriteConfig, models: Path, tmp_path: Path
) -> None:
    merge = {"host": str(models / "ja"), "sources": {"math": str(models / "math"), "ja": str(models / "ja")}}
    config = load_config(
        write_config({"merge": {**merge, "method": "linear"}, "space": {"kind": "layer"}, "budget": {"candidates": 4}})
    )
    evolve(config, out=tmp_path / "run")
    summary = summarise(tmp_path / "run", top=1)
    assert summary.units == ("embedding", "block0", "block1", "head")
    assert [(source, parameter, len(values)) for source, parameter, values in summary.numbers] == [
        ("ja", "weight", 4),
        ("math", "weight", 4),
    ]


def test_a_run_that_goes_on_and_one_in_which_all_failed_can_be_shown(config: EvolveConfig, tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.jsonl", config=config.as_mapping(), blocks={"math": 2, "ja": 2})
    with pytest.raises(RunMismatch, match="no candidate has been evaluated yet"):
        summarise(tmp_path, top=3)
    genome = config.search_space(n_blocks=2).initial
    failure = Failure(kind="not_finite", reason="the logits are not finite")
    journal.append(Entry(kind="candidate", index=0, generation=0, genome=genome, recipe_id="0" * 12, outcome=failure))
    with journal.path.open("ab") as file:
        file.write(b'{"kind": "candidate", "ind')
    summary = summarise(tmp_path, top=3)
    assert (summary.finished, summary.top, summary.numbers, summary.best_by_generation) == (False, (), (), ())
    assert summary.failures == ((0, "the logits are not finite"),)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunMismatch, match=r"holds no journal\.jsonl"):
        summarise(tmp_path, top=3)
