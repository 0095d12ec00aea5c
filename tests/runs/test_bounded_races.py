"""Races where the fitness is more than a mean: the lowest score, a geometric mean, bounds, batches, replay."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.objective import Combine, Constraint, Objective
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.recipes.kinds import Recipe
from evovlm.report.course import read_course
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.sections import RacingSection
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.run import Run
from evovlm.runs.samples import SampleParts
from evovlm.runs.searching.evolve import evolve
from evovlm.search.loop import replayed
from tests.runs.conftest import TASK, journal_rows, racing_document
from tests.runs.test_races import run_race

RIGHT, WRONG = [1.0] * 100, [0.0] * 100
Tables = Mapping[str, Mapping[str, Sequence[float]]]


def rules(*, smooth: bool = False) -> RacingSection:
    return RacingSection(first=20, limit=1.0, order="shuffled", smooth=smooth)


def some(share: float) -> list[float]:
    """Right on this share of 100 samples."""
    return [1.0] * round(100 * share) + [0.0] * round(100 * (1 - share))


@pytest.mark.parametrize("combine", ["worst", "geometric"])
def test_the_task_that_the_fitness_hangs_on_decides_who_stops(combine: Combine) -> None:
    # All are good at a; b is the one to be better at, though a's differences are as large.
    tables = {f"c{n}": {"a": some(1.0 if n < 2 else 0.7), "b": some(0.05 if n < 2 else 0.35)} for n in range(4)}
    found = run_race(tables, objective=Objective(weights={"a": 1.0, "b": 1.0}, combine=combine), rules=rules())
    assert min(found[name].fitness for name in ("c2", "c3")) > max(found[name].fitness for name in ("c0", "c1"))
    even = run_race(tables, objective=Objective(weights={"a": 1.0, "b": 1.0}), rules=rules())
    assert all(each.fitness == pytest.approx(0.525, abs=0.1) for each in even.values())


def at_least(share: float) -> Objective:
    return Objective(weights={"a": 1.0, "b": 0.0}, constraints=(Constraint(task="b", at_least=share),))


@pytest.mark.parametrize("smooth", [False, True])
def test_a_candidate_that_breaks_a_bound_ranks_below_all_that_keep_it_and_stops_none_of_them(smooth: bool) -> None:
    tables: Tables = {
        "high-but-broken": {"a": RIGHT, "b": WRONG},
        "broken-too": {"a": RIGHT, "b": some(0.4)},
        "good": {"a": some(0.6), "b": RIGHT},
        "fair": {"a": some(0.55), "b": RIGHT},
        "poor": {"a": WRONG, "b": RIGHT},
    }
    found = run_race(tables, objective=at_least(0.9), rules=rules(smooth=smooth))
    fitness = {name: each.fitness for name, each in found.items()}
    assert max(fitness["high-but-broken"], fitness["broken-too"]) < 0 <= min(fitness["good"], fitness["poor"])
    assert min(fitness["good"], fitness["fair"]) > fitness["poor"]
    assert fitness["high-but-broken"] == pytest.approx(-0.9)
    seen = {name: each.scores["a"].n for name, each in found.items()}
    assert seen["good"] == seen["fair"] == 100 > seen["poor"]


def test_where_all_break_a_bound_they_race_for_the_smallest_violation() -> None:
    tables = {f"c{n}": {"a": RIGHT if n < 3 else WRONG, "b": WRONG if n < 3 else some(0.6)} for n in range(6)}
    found = run_race(tables, objective=at_least(0.9), rules=rules())
    assert all(each.fitness < 0 for each in found.values())
    nearer, further = ("c3", "c4", "c5"), ("c0", "c1", "c2")
    assert min(found[name].fitness for name in nearer) > max(found[name].fitness for name in further)
    assert max(found[name].scores["b"].n for name in further) < 100


def bounded(models: Path, **changes: object) -> EvolveConfig:
    document = racing_document(models) | {
        "racing": {"first": 3, "limit": 1.0, "error": 0.9, "order": "shuffled"},
        "objective": {"constraints": [{"task": TASK, "at_least": 0.3}, {"task": TASK, "not_below": "ja", "by": 0.9}]},
        **changes,
    }
    return EvolveConfig.model_validate(document).resolved(relative_to=None)


def test_the_journal_of_a_bounded_race_says_who_broke_a_bound_and_resumes_where_it_was_cut(
    models: Path, racer: Evaluator, tmp_path: Path
) -> None:
    config = bounded(models)
    result = evolve(config, out=tmp_path / "whole", evaluator=racer)
    journal = read_journal(tmp_path / "whole/journal.jsonl")
    objective = config.goal(journal.parents)
    outcomes = [entry.outcome for entry in journal.candidates if isinstance(entry.outcome, Evaluation)]
    broke = [each for each in outcomes if objective.violated(each.scores)]
    # Some do, and some do not: else this looks at nothing.
    assert 0 < len(broke) < len(outcomes)
    assert all((each.fitness < 0) == (each in broke) for each in outcomes)
    assert [each.fitness for each in broke] == [objective.fitness(each.scores) for each in broke]
    assert not objective.violated(result.evaluation.scores)

    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    for cut in (4, len(lines) // 2, len(lines) - 2):
        run = tmp_path / f"cut-{cut}"
        run.mkdir()
        (run / "journal.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:20])
        evolve(config, out=run, resume=True, evaluator=racer)
        assert journal_rows(run) == journal_rows(tmp_path / "whole"), cut


def test_races_on_batches_see_no_more_than_the_batch_and_go_on_where_they_were_cut(
    models: Path, racer: Evaluator, tmp_path: Path
) -> None:
    config = bounded(models, batch=8, objective={})
    evolve(config, out=tmp_path / "whole", evaluator=racer)
    journal = read_journal(tmp_path / "whole/journal.jsonl")
    rows: dict[int, set[int]] = {}
    for entry in journal.candidates:
        assert isinstance(entry.outcome, Evaluation)
        rows.setdefault(entry.generation, set()).update(entry.outcome.scores[TASK].rows or ())
    parts = SampleParts(sizes={TASK: 12}, seed=config.seed, batch=8, validation=None)
    for generation, seen in rows.items():
        (batch,) = parts.of_candidates(generation) or ()
        assert seen <= set(batch)
    assert len(rows) == 2
    for entry in journal.rescored:
        assert isinstance(entry.outcome, Evaluation)
        assert entry.outcome.scores[TASK].n == 12
    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    run = tmp_path / "cut"
    run.mkdir()
    (run / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    evolve(config, out=run, resume=True, evaluator=racer)
    assert journal_rows(run) == journal_rows(tmp_path / "whole")


def assert_it_replays(config: EvolveConfig, journal: Journal) -> None:
    """Compare the genomes of an optimizer that replays the generations with those of the journal."""
    space = config.space_for(journal.blocks)
    groups = [
        [each for each in journal.candidates if each.generation == n]
        for n in range(journal.candidates[-1].generation + 1)
    ]
    told = [[entry.outcome for entry in group] for group in groups]
    for number, group in enumerate(groups):
        *_, optimizer = replayed(config.new_optimizer(space), told[:number])
        asked = optimizer.ask()
        assert len(asked) == len(group)
        assert all(np.array_equal(genome, entry.genome) for genome, entry in zip(asked, group, strict=True))
    *_, optimizer = replayed(config.new_optimizer(space), told)
    assert journal.mean is not None
    assert np.array_equal(optimizer.mean, journal.mean.genome)


@pytest.mark.parametrize("kind", ["cma", "catcma", "m2n2", "cma_ipop"])
def test_a_race_with_failures_replays_to_the_same_genomes(
    kind: str, models: Path, racer: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate
    asked: list[str] = []

    def some_fail(self: Evaluator, recipe: Recipe) -> Evaluation | Failure:
        asked.append(recipe.recipe_id)
        if len(asked) % 9 == 3:
            return Failure(kind="not_finite", reason="the logits are not finite")
        return evaluate(self, recipe)

    monkeypatch.setattr(Evaluator, "evaluate", some_fail)
    config = bounded(
        models, objective={}, optimizer={"kind": kind, "population": 4}, budget={"candidates": 12}, rescore=1
    )
    evolve(config, out=tmp_path / "run", evaluator=racer)
    journal = read_journal(tmp_path / "run/journal.jsonl")
    assert any(isinstance(entry.outcome, Failure) for entry in journal.candidates)
    assert any(
        entry.outcome.scores[TASK].n < 12 for entry in journal.candidates if isinstance(entry.outcome, Evaluation)
    )
    assert_it_replays(config, journal)
    course = read_course(Run.open(tmp_path / "run"))
    assert course.replayed == (kind != "m2n2")
