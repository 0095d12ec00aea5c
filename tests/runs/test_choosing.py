"""A search that chooses among methods, settings and ropes: one resident model, a journal as ever, a winner to merge."""

from pathlib import Path

import pytest

from evovlm.evaluation.engines.builtin import BuiltinEngine
from evovlm.evaluation.evaluator import Evaluator
from evovlm.merging.writer import write_checkpoint
from evovlm.models.loading import load_model
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.space_kinds import SPACES
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.run import Run
from evovlm.runs.searching.evolve import evolve
from tests.runs.conftest import journal_rows, search_document

CHOICES = {"method": ["dare_ties", "ties", "linear"], "rescale": ["density", "l1"], "config_from": ["host", "math"]}


def choosing(models: Path, **changes: object) -> EvolveConfig:
    """Return the small search with choices."""
    return EvolveConfig.model_validate({**search_document(models), "space": {"choices": CHOICES}, **changes})


def test_a_search_with_choices_resumes_where_it_was_cut(models: Path, evaluator: Evaluator, tmp_path: Path) -> None:
    config = choosing(models, optimizer={"kind": "random", "population": 6})
    result = evolve(config, out=tmp_path / "run", evaluator=evaluator)
    assert result.failures == 0
    journal = tmp_path / "run" / "journal.jsonl"
    whole = journal_rows(tmp_path / "run")
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(lines[:7]), encoding="utf-8")
    evolve(config, out=tmp_path / "run", resume=True, evaluator=evaluator)
    assert journal_rows(tmp_path / "run") == whole
    read = read_journal(journal)
    space = config.space_for(read.blocks)
    recipes = [space.decode(entry.genome) for entry in read.candidates]
    found = {
        (each.method, each.settings.rescale, each.config_from) for each in recipes if isinstance(each, ParameterMerge)
    }
    assert len({method for method, _, _ in found}) == 3
    assert {config_from for _, _, config_from in found} == {None, "math"}


def test_the_winner_scores_what_its_checkpoint_scores(models: Path, evaluator: Evaluator, tmp_path: Path) -> None:
    result = evolve(choosing(models), out=tmp_path / "run", evaluator=evaluator)
    recipe = load_recipe(tmp_path / "run" / "best.yaml")
    write_checkpoint(recipe, tmp_path / "model")
    (task,) = evaluator.tasks
    written = task.answer(BuiltinEngine(loaded=load_model(tmp_path / "model", device="cpu")))
    assert written.score.score == result.fitness
    assert [round(value, 6) for value in written.score.per_sample] == list(
        result.evaluation.scores[task.name].per_sample
    )


def test_a_run_says_what_was_chosen(models: Path, evaluator: Evaluator, tmp_path: Path) -> None:
    evolve(choosing(models), out=tmp_path / "run", evaluator=evaluator)
    chosen = Run.open(tmp_path / "run").description.chosen
    winner = load_recipe(tmp_path / "run" / "best.yaml")
    assert isinstance(winner, ParameterMerge)
    assert chosen["method"] == winner.method
    assert chosen["config_from"] == (winner.config_from or "host")
    assert ("rescale" in chosen) == (winner.method == "dare_ties")


@pytest.mark.parametrize("kind", SPACES)
def test_every_space_is_searched_written_and_shown(
    models: Path, evaluator: Evaluator, tmp_path: Path, kind: str
) -> None:
    space = {"kind": kind, **({"knots": 2} if "interpolated" in kind else {})}
    config = EvolveConfig.model_validate(
        {**search_document(models), "space": space, "budget": {"candidates": 4}, "winner": "mean"}
    )
    evolve(config, out=tmp_path / "run", evaluator=evaluator)
    found = Run.open(tmp_path / "run").description
    recipe = load_recipe(tmp_path / "run" / "mean.yaml")
    assert isinstance(recipe, ParameterMerge)
    components = 4 if "component" in kind else 1
    assert len(found.numbers) == 2 * 2 * components
    assert len(found.units) == (1 if kind in ("model", "component") else 4)
    # Attention and MLP have no tensors in embedding and head, the norms none in the embedding, the rest none in blocks.
    there = sum(value is not None for each in found.numbers for value in each.values)
    wanted = {"model": 1, "component": 4}.get(kind, 4 if components == 1 else 2 + 2 + 3 + 2)
    assert there == 2 * 2 * wanted
