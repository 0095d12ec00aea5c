"""Runs with bounds and with several goals: parents, infeasible candidates, the front, and what is picked from it."""

import sys
from pathlib import Path

import pytest

from evovlm.errors import ConfigError, RunError, RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.recipe import MergeTemplate
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.run import Run
from evovlm.runs.searching.evolve import RunResult, evolve, open_evaluator
from evovlm.runs.searching.search import Observer
from evovlm.search.loop import Generation
from tests.runs.conftest import TASK, WriteConfig, journal_rows, search_document, task_section


class StopsAt(Observer):
    """Behaves like Ctrl-C at the candidate of an index."""

    def __init__(self, index: int) -> None:
        self.index = index

    def started(self, *, candidates: int | None, generations: int | None, done: int, warnings: tuple[str, ...]) -> None:
        return

    def evaluated(self, entry: Entry) -> None:
        if entry.index == self.index:
            raise KeyboardInterrupt

    def generation_ended(self, generation: Generation) -> None:
        return


def config_of(path: Path) -> EvolveConfig:
    config = load_config(path)
    assert isinstance(config, EvolveConfig)
    return config


def bounded(write_config: WriteConfig, **constraint: object) -> EvolveConfig:
    return config_of(write_config({"objective": {"constraints": [{"task": TASK, **constraint}]}}))


def test_a_parent_is_scored_once_as_the_source_alone_and_bounds_every_candidate(
    write_config: WriteConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    config = bounded(write_config, not_below="math", by=0.1)
    evolve(config, out=tmp_path / "whole", evaluator=evaluator)
    journal = read_journal(tmp_path / "whole/journal.jsonl")
    assert [row["kind"] for row in journal_rows(tmp_path / "whole")[:3]] == ["header", "parent", "candidate"]
    template = config.template(relative_to=None)
    assert isinstance(template, MergeTemplate)
    # What the source scores in the host's place, by another method's weights.
    scored = evaluator.evaluate(template.recipe(config.source_alone("math").parameters))
    assert isinstance(scored, Evaluation)
    assert journal.parents["math"].scores == scored.scores
    bound = scored.scores[TASK].score - 0.1
    for entry in journal.candidates:
        assert isinstance(entry.outcome, Evaluation)
        score = entry.outcome.scores[TASK].score
        assert entry.outcome.fitness == pytest.approx(score if score >= bound - 1e-9 else score - bound)

    with pytest.raises(KeyboardInterrupt):
        evolve(config, out=tmp_path / "run", evaluator=evaluator, observer=StopsAt(5))
    evolve(config, out=tmp_path / "run", resume=True, evaluator=evaluator)
    assert journal_rows(tmp_path / "run") == journal_rows(tmp_path / "whole")

    lines = (tmp_path / "run/journal.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "run/journal.jsonl").write_text("\n".join([lines[0], *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(RunMismatch, match=r"journal.jsonl:2: the line of kind parent .* of math is missing"):
        evolve(config, out=tmp_path / "run", resume=True, evaluator=evaluator)


def test_what_breaks_a_bound_is_reported_and_never_wins_over_what_keeps_it(
    write_config: WriteConfig, models: Path, racer: Evaluator, tmp_path: Path
) -> None:
    # No pico model gets all twelve right.
    constraint = {"task": TASK, "measure": "ungated", "at_least": 1.0}
    config = write_config(
        {"tasks": [task_section(models, data="sums.jsonl")], "objective": {"constraints": [constraint]}}
    )
    result = evolve(config_of(config), out=tmp_path / "run", evaluator=racer)
    assert result.fitness == pytest.approx(result.evaluation.scores[TASK].ungated - 1.0)
    assert result.fitness < 0
    run = Run.open(tmp_path / "run")
    assert run.objective is not None
    assert [str(each) for each in run.objective.constraints] == [f"{TASK} (ungated) at least 1"]
    assert len(run.ranked) == 12
    assert all(run.violated(entry) == run.objective.constraints for entry in run.ranked)
    with pytest.raises(RunError, match=r"every candidate of .* violates a constraint"):
        run.pick(f"task={TASK}")


def test_a_vlm_s_parent_is_scored_in_the_vlm(write_config: WriteConfig, models: Path, tmp_path: Path) -> None:
    config = config_of(
        write_config(
            {
                "merge": {
                    "base": str(models / "base"),
                    "host": str(models / "vlm"),
                    "sources": {"vlm": str(models / "vlm"), "ja": str(models / "ja")},
                    "method": "ties",
                    "vocabulary": "host",
                },
                "budget": {"candidates": 4},
                "objective": {"constraints": [{"task": TASK, "not_below": "ja"}]},
            }
        )
    )
    evolve(config, out=tmp_path / "run")
    parent = read_journal(tmp_path / "run/journal.jsonl").parents["ja"]
    assert parent.tokens > 0
    assert parent.scores[TASK].n == 4
    objective = Run.open(tmp_path / "run").objective
    assert objective is not None
    assert [str(each) for each in objective.constraints] == [f"{TASK} not below ja by more than 0"]


@pytest.fixture(scope="module")
def traded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run that trades two tasks of four problems each."""

    document = search_document(models) | {
        "optimizer": {"kind": "random", "population": 8},
        "budget": {"candidates": 24},
        "objective": {"pareto": True},
        "tasks": [
            task_section(models),
            task_section(models, name=str(models / f"{TASK}_ja.yaml"), weight=2),
        ],
    }
    config = EvolveConfig.model_validate(document).resolved(relative_to=None)
    evaluator = open_evaluator(config)
    return evolve(config, out=tmp_path_factory.mktemp("traded") / "run", evaluator=evaluator)


def goals_of(entry: Entry) -> tuple[float, ...]:
    assert isinstance(entry.outcome, Evaluation)
    return entry.outcome.goals


def test_the_front_is_in_the_result_and_in_the_run(traded: RunResult) -> None:
    journal = read_journal(traded.folder / "journal.jsonl")
    for entry in journal.candidates:
        assert isinstance(entry.outcome, Evaluation)
        scores = entry.outcome.scores
        assert entry.outcome.goals == (scores[TASK].score, scores[f"{TASK}_ja"].score)
        assert entry.outcome.fitness == pytest.approx((entry.outcome.goals[0] + 2 * entry.outcome.goals[1]) / 3)
    chosen = [point.entry.index for point in traded.front]
    assert chosen
    for entry in journal.candidates:
        beaten = [
            other
            for other in journal.candidates
            if goals_of(other) != goals_of(entry)
            and all(a >= b for a, b in zip(goals_of(other), goals_of(entry), strict=True))
        ]
        assert (entry.index in chosen) is not bool(beaten)
    run = Run.open(traded.folder)
    assert run.goals == (TASK, f"{TASK}_ja")
    assert [point.as_json() for point in run.front()] == traded.as_json()["front"]
    firsts = [point.goals[TASK] for point in run.front()]
    assert firsts == sorted(firsts, reverse=True)


def test_a_candidate_is_picked_by_what_it_is_good_at(traded: RunResult) -> None:
    candidates = read_journal(traded.folder / "journal.jsonl").candidates
    assert Run.open(traded.folder).pick("best").recipe.recipe_id == load_recipe(traded.folder / "best.yaml").recipe_id
    for number, name in enumerate((TASK, f"{TASK}_ja")):
        found = Run.open(traded.folder).pick(f"task={name}")
        assert goals_of(found.entry)[number] == max(goals_of(entry)[number] for entry in candidates)
    assert Run.open(traded.folder).pick("knee").entry.index in {point.entry.index for point in traded.front}
    for index in (0, 23):
        found = Run.open(traded.folder).pick(str(index))
        assert found.recipe.recipe_id == candidates[index].recipe_id


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("24", "has 24 candidates"),
        ("-1", "'-1' is unknown. Write best, knee, rated, task=NAME"),
        ("worst", "'worst' is unknown. Write best"),
        ("task=sum_ja", "does not score this task; did you mean 'sums_ja'"),
    ],
)
def test_what_is_not_there_cannot_be_picked(traded: RunResult, wanted: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Run.open(traded.folder).pick(wanted)


class Warned(StopsAt):
    """Keeps what a run warns of."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.warnings: tuple[str, ...] = ()

    def started(self, *, candidates: int | None, generations: int | None, done: int, warnings: tuple[str, ...]) -> None:
        self.warnings = warnings


def two_goals(write_config: WriteConfig, models: Path, kind: str, *, pareto: bool) -> EvolveConfig:
    tasks = [task_section(models, name=str(models / f"{name}.yaml"), limit=2) for name in (TASK, f"{TASK}_ja")]
    changes = {"tasks": tasks, "objective": {"pareto": pareto}, "optimizer": {"kind": kind, "population": 4}}
    return config_of(write_config(changes)).resolved(relative_to=None)


@pytest.mark.parametrize("pareto", [True, False])
def test_nsga2_resumes_where_it_was_cut_with_several_goals_and_with_one(
    pareto: bool, write_config: WriteConfig, models: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pymoo", reason='needs the extra: pip install "evovlm[pareto]"')
    config = two_goals(write_config, models, "nsga2", pareto=pareto)
    evaluator = open_evaluator(config)
    watch = Warned()
    result = evolve(config, out=tmp_path / "whole", evaluator=evaluator, observer=watch)
    assert not any("objective.pareto" in each for each in watch.warnings)
    assert (result.candidates, bool(result.front)) == (12, pareto)
    assert all(len(goals_of(entry)) == 2 * pareto for entry in read_journal(result.folder / "journal.jsonl").candidates)
    with pytest.raises(KeyboardInterrupt):
        evolve(config, out=tmp_path / "run", evaluator=evaluator, observer=StopsAt(6))
    evolve(config, out=tmp_path / "run", resume=True, evaluator=evaluator)
    assert journal_rows(tmp_path / "run") == journal_rows(tmp_path / "whole")


def test_a_run_warns_at_its_start_of_a_front_that_it_does_not_seek(
    write_config: WriteConfig, models: Path, tmp_path: Path
) -> None:
    config = two_goals(write_config, models, "random", pareto=True)
    evaluator = open_evaluator(config)
    watch = Warned()
    assert evolve(config, out=tmp_path / "run", evaluator=evaluator, observer=watch).front
    (note,) = (each for each in watch.warnings if "random uses only the fitness" in each)
    assert note in preflight_search(config).warnings


def test_without_pymoo_the_extra_is_named_before_a_model_is_loaded(
    write_config: WriteConfig, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "pymoo"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "pymoo", None)
    config = two_goals(write_config, models, "nsga2", pareto=True)
    monkeypatch.setattr("evovlm.runs.searching.evolve.open_workers", None)
    with pytest.raises(ConfigError, match=r'(?s)nsga2 needs pymoo.*pip install "evovlm\[pareto\]"'):
        evolve(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_one_goal_has_no_knee(whole_run: RunResult) -> None:
    assert whole_run.front == ()
    assert Run.open(whole_run.folder).pick("best").entry.recipe_id == whole_run.recipe.recipe_id
    with pytest.raises(RunError, match="no Pareto front"):
        Run.open(whole_run.folder).pick("knee")
