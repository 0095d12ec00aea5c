"""When a search ends: by candidates, tokens, time or patience, read from the journal; a raised budget resumes it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evovlm.errors import RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.sections import BudgetSection
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.run import Run
from evovlm.runs.searching.evolve import RunResult, evolve
from evovlm.search.loop import NextGeneration
from tests.runs.conftest import journal_rows


def entry(
    generation: int, fitness: float | None, *, kind: str = "candidate", wall_s: float = 1.0, tokens: int = 10
) -> Entry:
    outcome = (
        Failure(kind="not_finite", reason="")
        if fitness is None
        else Evaluation(scores={}, fitness=fitness, seconds={}, tokens=tokens)
    )
    return Entry(
        kind=kind,
        index=0,
        generation=generation,
        genome=np.zeros(1),
        recipe_id="",
        outcome=outcome,
        wall_s=wall_s,
    )


def ended(budget: dict[str, object], entries: list[Entry], *, population: int = 2) -> tuple[int, str]:
    """Return before which generation a search of these entries ends, and by what."""
    journal = Journal(path=Path("journal.jsonl"), config={}, entries=entries, blocks={})
    section = BudgetSection.model_validate(budget)
    for number in range(100):
        upcoming = NextGeneration(number=number, before=number * population, candidates=population)
        reason = section.spent(journal, upcoming)
        if reason is not None:
            return number, reason
    raise RuntimeError("it never ends")


TWO_A_GENERATION = [entry(number // 2, fitness) for number, fitness in enumerate((0.1, 0.3, 0.2, 0.3, 0.31, 0.1) * 3)]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"candidates": 4}, (2, "candidates")),
        ({"candidates": 5}, (2, "candidates")),
        ({"tokens": 40}, (2, "tokens")),
        ({"tokens": 41}, (3, "tokens")),
        ({"seconds": 6.0}, (3, "seconds")),
        ({"patience": 1}, (2, "patience")),
        ({"patience": 2}, (5, "patience")),
        ({"patience": 2, "min_improvement": 0.05}, (3, "patience")),
        ({"candidates": 4, "patience": 2, "tokens": 1000, "seconds": 1000.0}, (2, "candidates")),
        ({"candidates": 100, "tokens": 20}, (1, "tokens")),
    ],
)
def test_the_first_bound_that_is_reached_ends_it_after_a_whole_generation(
    budget: dict[str, object], expected: tuple[int, str]
) -> None:
    assert ended(budget, TWO_A_GENERATION) == expected


def test_failures_take_time_and_bring_no_improvement() -> None:
    entries = [entry(0, 0.5), entry(0, None), entry(1, None), entry(1, 0.4)]
    assert ended({"seconds": 4.0}, entries) == (2, "seconds")
    assert ended({"patience": 1}, entries) == (2, "patience")
    assert ended({"tokens": 20}, entries) == (2, "tokens")


def test_where_there_are_snapshots_patience_looks_at_them() -> None:
    entries = [
        entry(0, 0.2, kind="snapshot"),
        entry(0, 0.9),
        entry(1, 0.3, kind="snapshot"),
        entry(1, 0.1),
        entry(2, 0.3, kind="snapshot"),
    ]
    assert ended({"patience": 1}, entries) == (2, "patience")


@pytest.mark.parametrize(
    ("before", "now", "is_raised"),
    [
        ({"candidates": 4}, {"candidates": 8}, True),
        ({"candidates": 4, "tokens": 9}, {"candidates": 4, "tokens": 10}, True),
        ({"candidates": 4, "tokens": 9}, {"candidates": 4}, True),
        ({"candidates": 4}, {"candidates": 4, "tokens": 10}, False),
        ({"candidates": 8}, {"candidates": 4}, False),
        ({"patience": 2, "min_improvement": 0.1}, {"patience": 2, "min_improvement": 0.05}, True),
        ({"patience": 2}, {"patience": 2, "min_improvement": 0.05}, False),
    ],
)
def test_a_budget_is_raised_where_no_bound_is_lower(
    before: dict[str, object], now: dict[str, object], is_raised: bool
) -> None:
    section = BudgetSection.model_validate
    assert section(now).is_raised_from(section(before)) is is_raised


def with_budget(config: EvolveConfig, **budget: object) -> EvolveConfig:
    return config.model_copy(update={"budget": BudgetSection.model_validate(budget)})


def test_a_search_that_ran_out_of_tokens_resumes_with_more_and_ends_as_if_it_always_had_them(
    config: EvolveConfig, whole_run: RunResult, evaluator: Evaluator, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = evolve(with_budget(config, tokens=1), out=out, evaluator=evaluator)
    assert (first.candidates, first.stopped_by) == (4, "tokens")
    assert [row["kind"] for row in journal_rows(out)][-2:] == ["stop", "mean"]
    assert json.loads((out / "result.json").read_text())["stopped_by"] == Run.open(out).stopped_by == "tokens"

    with pytest.raises(RunMismatch, match=r"(?s)budget.candidates: none -> 4.*may only be raised"):
        evolve(with_budget(config, tokens=1, candidates=4), out=out, resume=True, evaluator=evaluator)
    raised = with_budget(config, tokens=first.tokens)
    before = (out / "journal.jsonl").read_bytes()
    second = evolve(raised, out=out, resume=True, evaluator=evaluator)
    assert (out / "journal.jsonl").read_bytes().startswith(before)
    assert second.stopped_by == "tokens"
    assert second.candidates > 4
    whole = [each.recipe_id for each in read_journal(whole_run.folder / "journal.jsonl").candidates]
    assert [each.recipe_id for each in read_journal(out / "journal.jsonl").candidates][:12] == whole[
        : second.candidates
    ]
    assert Run.open(out).finished
    # The larger budget is what the run has now.
    assert evolve(raised, out=out, resume=True, evaluator=evaluator).as_json() == second.as_json()
    with pytest.raises(RunMismatch, match=r"budget.tokens: \d+ -> 1"):
        evolve(with_budget(config, tokens=1), out=out, resume=True, evaluator=evaluator)


def test_the_time_a_line_took_is_recorded_and_decides_a_resumed_run(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = evolve(with_budget(config, seconds=1e-4), out=out, evaluator=evaluator)
    assert (first.candidates, first.stopped_by) == (4, "seconds")
    entries = read_journal(out / "journal.jsonl").candidates
    assert all(each.wall_s > 0 for each in entries)
    assert Run.open(out).seconds >= sum(each.wall_s for each in entries)
    again = tmp_path / "again"
    shutil.copytree(out, again)
    journal = again / "journal.jsonl"
    journal.write_bytes(b"".join(line + b"\n" for line in journal.read_bytes().splitlines()[:5]))
    second = evolve(with_budget(config, seconds=1e-4), out=again, resume=True, evaluator=evaluator)
    assert (second.candidates, second.stopped_by) == (4, "seconds")
    assert journal_rows(again) == journal_rows(out)
