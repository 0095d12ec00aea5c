"""Searches whose generations grow: CMA-ES with restarts, in a run folder with its budgets, stops and failures."""

from pathlib import Path

import pytest

from evovlm.errors import AllCandidatesFailed
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.recipes.kinds import Recipe
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.searching.evolve import RunResult, evolve, open_evaluator
from evovlm.search.loop import Generation
from tests.runs.conftest import journal_rows, search_document, task_section


class Watch:
    """Notes what a progress display receives."""

    def __init__(self) -> None:
        self.at_most: list[tuple[int | None, int | None]] = []
        self.sizes: list[int] = []

    def started(self, *, candidates: int | None, generations: int | None, done: int, warnings: tuple[str, ...]) -> None:
        self.at_most.append((candidates, generations))

    def evaluated(self, entry: Entry) -> None:
        """Nothing then."""

    def generation_ended(self, generation: Generation) -> None:
        self.sizes.append(len(generation.proposals))


def restarting(models: Path, kind: str = "cma_ipop", **budget: int) -> EvolveConfig:
    """Return a search whose every start is too narrow after its first generation, and ends."""
    document = search_document(models) | {
        "optimizer": {"kind": kind, "population": 4, "sigma": 1e-7},
        "budget": budget,
        "tasks": [task_section(models, limit=1)],
    }
    return EvolveConfig.model_validate(document).resolved(relative_to=None)


@pytest.fixture(scope="module")
def opened(models: Path) -> Evaluator:
    config = restarting(models, candidates=30)
    return open_evaluator(config)


@pytest.fixture(scope="module")
def grown(models: Path, opened: Evaluator, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run of generations of 4, 8 and 16."""
    return evolve(restarting(models, candidates=30), out=tmp_path_factory.mktemp("grown") / "run", evaluator=opened)


def generations(run: Path) -> list[int]:
    counts: dict[int, int] = {}
    for entry in read_journal(run / "journal.jsonl").candidates:
        counts[entry.generation] = counts.get(entry.generation, 0) + 1
    return list(counts.values())


def test_generations_grow_as_far_as_the_candidates_last(grown: RunResult) -> None:
    assert generations(grown.folder) == [4, 8, 16]
    assert (grown.candidates, grown.stopped_by) == (28, "candidates")


@pytest.mark.parametrize("kind", ["cma_ipop", "cma_bipop"])
def test_a_display_gets_the_largest_number_of_candidates_and_no_number_of_generations(
    kind: str, models: Path, opened: Evaluator, tmp_path: Path
) -> None:
    watch = Watch()
    evolve(restarting(models, kind, candidates=17), out=tmp_path / "run", evaluator=opened, observer=watch)
    assert watch.at_most == [(17, None)]
    assert watch.sizes == generations(tmp_path / "run")
    # IPOP's third generation would have 16; BIPOP's is a small start again.
    assert watch.sizes == ([4, 8] if kind == "cma_ipop" else [4, 8, 4])


def test_a_budget_of_tokens_ends_it_after_a_whole_larger_generation(
    grown: RunResult, models: Path, opened: Evaluator, tmp_path: Path
) -> None:
    candidates = read_journal(grown.folder / "journal.jsonl").candidates
    of_the_first = sum(each.outcome.tokens for each in candidates[:4] if isinstance(each.outcome, Evaluation))
    watch = Watch()
    config = restarting(models, tokens=of_the_first + 1)
    result = evolve(config, out=tmp_path / "run", evaluator=opened, observer=watch)
    assert (generations(tmp_path / "run"), result.stopped_by) == ([4, 8], "tokens")
    assert watch.at_most == [(None, None)]


@pytest.mark.parametrize("lines", [3, 5, 13])
def test_a_run_cut_within_or_between_two_starts_ends_with_the_same_journal(
    lines: int, grown: RunResult, models: Path, opened: Evaluator, tmp_path: Path
) -> None:
    whole = (grown.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    run = tmp_path / "run"
    run.mkdir()
    (run / "journal.jsonl").write_bytes(b"".join(whole[:lines]) + whole[lines][:30])
    evolve(restarting(models, candidates=30), out=run, resume=True, evaluator=opened)
    assert journal_rows(run) == journal_rows(grown.folder)


def test_a_larger_generation_of_failures_stops_the_run_and_is_tried_again(
    grown: RunResult, models: Path, opened: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate
    left = 4

    def fails_after_a_generation(self: Evaluator, recipe: Recipe) -> Evaluation | Failure:
        nonlocal left
        left -= 1
        return evaluate(self, recipe) if left >= 0 else Failure(kind="out_of_memory", reason="out of memory")

    config = restarting(models, candidates=30)
    with monkeypatch.context() as broken:
        broken.setattr(Evaluator, "evaluate", fails_after_a_generation)
        for resume in (False, True):
            with pytest.raises(AllCandidatesFailed, match=r"generation 1: none of its 8 candidates"):
                evolve(config, out=tmp_path / "run", resume=resume, evaluator=opened)
    evolve(config, out=tmp_path / "run", resume=True, evaluator=opened)
    kept, whole = (read_journal(run / "journal.jsonl").entries for run in (tmp_path / "run", grown.folder))
    assert [entry.recipe_id for entry in kept] == [entry.recipe_id for entry in whole]
    assert [row["generation"] for row in journal_rows(tmp_path / "run") if row["kind"] == "retry"] == [1, 1]
