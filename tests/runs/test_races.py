"""A search whose generations race, on pico models: what it journals, how it resumes after a stop, who wins."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from evovlm.errors import AllCandidatesFailed, ConfigError
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.objective import Objective
from evovlm.evaluation.workers.jobs import InProcess, Job
from evovlm.recipes.candidate import Candidate, Evaluation, Failure, TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.sections import RacingSection
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.samples import SampleParts
from evovlm.runs.searching.evolve import RunResult, evolve
from evovlm.runs.searching.scoring import Races
from tests.runs.conftest import TASK, WriteConfig, journal_rows


def changed(config: EvolveConfig, **rules: object) -> EvolveConfig:
    racing = RacingSection.model_validate({**(config.racing.model_dump() if config.racing else {}), **rules})
    return config.model_copy(update={"racing": racing})


def of(entry: Entry) -> Evaluation:
    assert isinstance(entry.outcome, Evaluation)
    return entry.outcome


def test_a_candidate_s_line_holds_the_samples_of_its_parts(raced: RunResult) -> None:
    journal = read_journal(raced.folder / "journal.jsonl")
    sizes = []
    for entry in journal.candidates:
        score = of(entry).scores[TASK]
        parts = [of(part) for part in journal.parts if part.index == entry.index]
        rows = [row for part in parts for row in part.scores[TASK].rows or ()]
        assert score.rows == tuple(rows)
        assert len(set(rows)) == len(rows) == score.n
        assert score.per_sample == tuple(value for part in parts for value in part.scores[TASK].per_sample)
        assert of(entry).tokens == sum(part.tokens for part in parts)
        sizes.append(score.n)
    assert set(sizes) <= {3, 6, 12}
    # Some stopped before the last block: else this test looks at no race.
    assert min(sizes) < 12


def test_a_generation_s_candidates_see_the_same_samples_and_the_next_one_others(raced: RunResult) -> None:
    rows: dict[int, list[tuple[int, ...]]] = {}
    for entry in read_journal(raced.folder / "journal.jsonl").candidates:
        rows.setdefault(entry.generation, []).append(of(entry).scores[TASK].rows or ())
    for own in rows.values():
        longest = max(own, key=len)
        assert all(longest[: len(each)] == each for each in own)
    assert len({own[0][:3] for own in rows.values()}) == len(rows)


def test_with_fixed_samples_every_generation_sees_the_same(
    races: EvolveConfig, racer: Evaluator, tmp_path: Path
) -> None:
    config = changed(races, order="fixed", first=4, limit=4 / 12)
    evolve(config, out=tmp_path / "run", evaluator=racer)
    candidates = read_journal(tmp_path / "run/journal.jsonl").candidates
    assert {of(entry).scores[TASK].rows for entry in candidates} == {of(candidates[0]).scores[TASK].rows}
    assert of(candidates[0]).scores[TASK].n == 4


def test_a_race_cut_at_any_line_and_resumed_ends_with_the_same_journal(
    races: EvolveConfig, racer: Evaluator, tmp_path: Path
) -> None:
    # The order of its samples asks what was scored before, which has to be known again.
    config = changed(races, order="informative")
    evolve(config, out=tmp_path / "whole", evaluator=racer)
    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    first_candidate = kinds.index("candidate")
    # In the first block, between two blocks, among the candidates' lines, in the next generation, before the mean.
    for cut in (2, 5, first_candidate + 2, first_candidate + 7, kinds.index("rescored") + 1):
        run = tmp_path / f"cut-{cut}"
        run.mkdir()
        (run / "journal.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:20])
        evolve(config, out=run, resume=True, evaluator=racer)
        assert journal_rows(run) == journal_rows(tmp_path / "whole"), cut


def test_a_race_stopped_by_its_user_resumes_without_asking_anything_twice(
    races: EvolveConfig, racer: Evaluator, raced: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate
    asked: list[tuple[str, object]] = []
    left = 6

    def counted(self: Evaluator, recipe: Recipe) -> Evaluation | Failure:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        asked.append((recipe.recipe_id, self.rows))
        return evaluate(self, recipe)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        evolve(races, out=tmp_path / "run", evaluator=racer)
    left = -1
    evolve(races, out=tmp_path / "run", resume=True, evaluator=racer)
    assert len(set(asked)) == len(asked)
    assert journal_rows(tmp_path / "run") == journal_rows(raced.folder)


@dataclass(slots=True, kw_only=True, eq=False)
class Backwards(InProcess):
    """Does its jobs the last first, as several workers might."""

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Evaluation | Failure]:
        done = {id(job): next(InProcess.outcomes(self, [job])) for job in reversed(jobs)}
        yield from (done[id(job)] for job in jobs)


def test_the_order_in_which_workers_finish_changes_nothing(
    races: EvolveConfig, racer: Evaluator, raced: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evovlm.runs.searching.evolve.InProcess", Backwards)
    evolve(races, out=tmp_path / "run", evaluator=racer)
    assert journal_rows(tmp_path / "run") == journal_rows(raced.folder)


def test_the_best_few_are_scored_in_full_and_the_best_of_them_and_the_mean_wins(raced: RunResult) -> None:
    journal = read_journal(raced.folder / "journal.jsonl")
    assert len(journal.rescored) == len({entry.recipe_id for entry in journal.rescored}) == 3
    assert journal.mean is not None
    final = [*journal.rescored, journal.mean]
    assert all(of(entry).scores[TASK].n == 12 for entry in final)
    assert raced.fitness == max(of(entry).fitness for entry in final)
    candidates = {entry.index: entry for entry in journal.candidates}
    for entry in journal.rescored:
        assert entry.recipe_id == candidates[entry.index].recipe_id

    told = json.loads((raced.folder / "result.json").read_text(encoding="utf-8"))
    assert told["rescored_fitness"] == raced.fitness
    assert [row["fitness"] for row in told["rescored"]] == sorted((of(entry).fitness for entry in final), reverse=True)
    for row in told["rescored"]:
        if row["candidate"] is not None:
            assert row["search_fitness"] == of(candidates[row["candidate"]]).fitness


def test_a_run_s_tokens_count_every_sample_once(raced: RunResult) -> None:
    rows = journal_rows(raced.folder)
    by_kind: dict[object, int] = {}
    for row in rows[1:]:
        tokens = row.get("tokens", 0)
        assert isinstance(tokens, int)
        by_kind[row["kind"]] = by_kind.get(row["kind"], 0) + tokens
    assert by_kind["part"] == by_kind["candidate"]
    assert raced.tokens == by_kind["candidate"] + by_kind["rescored"] + by_kind["mean"]


def test_scoring_again_in_full_costs_nothing_and_does_not_change_the_search(
    whole_run: RunResult, config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    again = evolve(config.model_copy(update={"rescore": 2}), out=tmp_path / "run", evaluator=evaluator)
    rows = journal_rows(tmp_path / "run")
    assert [row for row in rows[1:] if row["kind"] != "rescored"] == journal_rows(whole_run.folder)[1:]
    assert [row["tokens"] for row in rows if row["kind"] == "rescored"] == [0, 0]
    mean = read_journal(tmp_path / "run/journal.jsonl").mean
    assert mean is not None
    assert again.fitness == max(whole_run.fitness, of(mean).fitness)
    assert again.tokens == whole_run.tokens


def test_one_that_fails_leaves_the_race_with_its_reason(
    races: EvolveConfig, racer: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate
    rows: list[object] = []
    failing: list[str] = []

    def second_block_fails(self: Evaluator, recipe: Recipe) -> Evaluation | Failure:
        if self.rows is not None and self.rows not in rows:
            rows.append(self.rows)
            if len(rows) == 2:
                failing.append(recipe.recipe_id)
                return Failure(kind="not_finite", reason="the logits are not finite")
        return evaluate(self, recipe)

    monkeypatch.setattr(Evaluator, "evaluate", second_block_fails)
    result = evolve(races, out=tmp_path / "run", evaluator=racer)
    assert result.failures == 1
    failed = [row for row in journal_rows(tmp_path / "run") if row.get("status") == "failed"]
    assert [(row["kind"], row["recipe_id"]) for row in failed] == [("part", failing[0]), ("candidate", failing[0])]


def test_a_generation_of_failures_is_raced_again_from_its_start(
    races: EvolveConfig, racer: Evaluator, raced: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Evaluator, "evaluate", lambda *_: Failure(kind="out_of_memory", reason="out of memory"))
        with pytest.raises(AllCandidatesFailed, match="out of memory"):
            evolve(races, out=tmp_path / "run", evaluator=racer)
    evolve(races, out=tmp_path / "run", resume=True, evaluator=racer)
    # All but the header, the failures (4 parts, 4 candidates) and the line that takes them back.
    assert journal_rows(tmp_path / "run")[10:] == journal_rows(raced.folder)[1:]


def part_of(candidate: Candidate, outcome: Evaluation | Failure) -> Entry:
    """Return the line of a journal that says what a candidate of the first generation scored on a block."""
    return Entry(
        kind="part",
        index=candidate.index,
        generation=0,
        genome=candidate.genome,
        recipe_id=candidate.recipe.recipe_id,
        outcome=outcome,
    )


def test_equal_recipes_are_scored_once_and_get_the_same_score(racer: Evaluator, races: EvolveConfig) -> None:

    space = races.space_for(racer.resident.blocks)
    genomes = [space.initial, space.initial * 0.5, space.initial, space.initial * 1.5]
    candidates = [
        Candidate(genome=genome, recipe=space.decode(genome), generation=0, index=index)
        for index, genome in enumerate(genomes)
    ]
    workers = InProcess(evaluator=racer)
    assert races.racing is not None
    own = Races(
        rules=races.racing,
        workers=workers,
        parts=SampleParts(sizes=workers.sizes, seed=3, batch=None, validation=None),
        objective=Objective(weights={TASK: 1.0}),
    )
    noted: list[tuple[int, int]] = []

    def note(candidate: Candidate, outcome: Evaluation | Failure) -> None:
        assert isinstance(outcome, Evaluation)
        noted.append((candidate.index, outcome.tokens))
        own.remember(part_of(candidate, outcome))

    first, _, third, _ = own.outcomes(candidates, note=note)
    assert isinstance(first, Evaluation)
    assert isinstance(third, Evaluation)
    assert (first.fitness, first.scores) == (third.fitness, third.scores)
    assert third.tokens == 0 < first.tokens
    assert [tokens for index, tokens in noted if index == 2] == [0] * len([each for each in noted if each[0] == 2])


class Scripted:
    """Workers whose candidates score what a table says: the recipe's id is its row."""

    warnings: tuple[str, ...] = ()
    blocks: Mapping[str, int] = {}

    def __init__(self, tables: Mapping[str, Mapping[str, Sequence[float]]], objective: Objective) -> None:
        self.tables, self.objective = tables, objective

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: len(values) for name, values in next(iter(self.tables.values())).items()}

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Evaluation | Failure]:
        for job in jobs:
            rows = job.rows
            assert rows is not None
            scores = {
                name: self.score(values, own)
                for (name, values), own in zip(self.tables[job.recipe.recipe_id].items(), rows, strict=True)
            }
            yield self.objective.evaluation(scores, seconds={}, tokens=sum(map(len, rows)))

    def score(self, values: Sequence[float], rows: Sequence[int]) -> TaskScore:
        own = tuple(values[row] for row in rows)
        mean = float(np.mean(own))
        return TaskScore(score=mean, ungated=mean, japanese=1.0, per_sample=own, n=len(own), rows=tuple(rows))

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Named:
    recipe_id: str


def run_race(
    tables: Mapping[str, Mapping[str, Sequence[float]]], *, objective: Objective, rules: RacingSection
) -> dict[str, Evaluation]:
    """Race what the tables say; the recipes are names."""

    workers = Scripted(tables, objective)
    own = Races(
        rules=rules,
        workers=workers,
        parts=SampleParts(sizes=workers.sizes, seed=0, batch=None, validation=None),
        objective=objective,
    )
    candidates = [
        Candidate(genome=np.zeros(1), recipe=Named(name), generation=0, index=index)  # type: ignore[arg-type]
        for index, name in enumerate(tables)
    ]

    def note(candidate: Candidate, outcome: Evaluation | Failure) -> None:
        own.remember(part_of(candidate, outcome))

    outcomes = own.outcomes(candidates, note=note)
    return {name: outcome for name, outcome in zip(tables, outcomes, strict=True) if isinstance(outcome, Evaluation)}


def test_clearly_worse_candidates_stop_early_and_get_low_fitness() -> None:
    draws = np.random.default_rng(0)
    hard = draws.random(200)
    tables = {
        f"c{n}": {"a": list((hard < share).astype(float))} for n, share in enumerate((0.6, 0.62, 0.58, 0.1, 0.05, 0.0))
    }
    found = run_race(tables, objective=Objective(weights={"a": 1.0}), rules=RacingSection(first=20, limit=1.0))
    seen = {name: each.scores["a"].n for name, each in found.items()}
    assert max(seen[name] for name in ("c3", "c4", "c5")) < seen["c0"] == 200
    for name in ("c3", "c4", "c5"):
        assert found[name].fitness == pytest.approx(np.mean(tables[name]["a"]), abs=0.15)
    assert min(found[name].fitness for name in ("c0", "c1", "c2")) > max(
        found[name].fitness for name in ("c3", "c4", "c5")
    )


def test_the_weights_of_tasks_decide_who_stops() -> None:
    good, bad = [1.0] * 100, [0.0] * 100
    tables = {f"c{n}": {"a": good if n < 2 else bad, "b": bad if n < 2 else good} for n in range(4)}
    rules = RacingSection(first=20, limit=1.0)
    for weights, winners in (({"a": 9.0, "b": 1.0}, ("c0", "c1")), ({"a": 1.0, "b": 9.0}, ("c2", "c3"))):
        found = run_race(tables, objective=Objective(weights=weights), rules=rules)
        assert {name for name, each in found.items() if each.scores["a"].n == 100} == set(winners)
        assert all(each.scores["a"].n == each.scores["b"].n for each in found.values())
        assert {name for name, each in found.items() if each.fitness > 0.5} == set(winners)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"racing": {"order": "best"}}, r"racing\.order.*unknown order"),
        ({"racing": {"limit": 0.0}}, r"racing\.limit"),
        ({"racing": {"limit": 1.5}}, r"racing\.limit"),
        ({"racing": {"growth": 1.0}}, r"racing\.growth"),
        ({"racing": {"first": 1}}, r"racing\.first"),
        ({"racing": {"error": 0.0}}, r"racing\.error"),
        ({"racing": {"blocks": 3}}, r"racing\.blocks"),
        ({"rescore": -1}, r"rescore"),
        ({"racing": {}, "rescore": 0}, r"(?s)winner.*different samples \(`racing`\)"),
        ({"batch": 2}, r"(?s)winner.*different samples \(`batch`\)"),
    ],
)
def test_rules_that_make_no_race_are_refused(
    changes: Mapping[str, object], words: str, write_config: WriteConfig
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(write_config(changes))


@pytest.mark.parametrize(
    ("changes", "rescored"),
    [({}, 0), ({"racing": {}}, 3), ({"racing": {}, "rescore": 1}, 1), ({"batch": 2, "rescore": 2}, 2)],
)
def test_after_races_three_are_scored_again_unless_said_otherwise(
    changes: Mapping[str, object], rescored: int, write_config: WriteConfig
) -> None:
    assert load_config(write_config(changes)).rescored == rescored
