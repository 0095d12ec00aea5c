"""A search with its folder, on pico models: what it writes, how it resumes after a stop, what it refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evovlm.errors import AllCandidatesFailed, ConfigError, OutputExists, RunError, RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.recipe import ParameterMerge
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.run import PEAK_MEMORY
from evovlm.runs.searching.evolve import RunResult, evolve
from evovlm.search.loop import Generation
from tests.runs.conftest import TASK, WriteConfig, journal_rows, search_document, task_section


class Watcher:
    """Counts what happens; at the candidate of index `stop` it behaves like Ctrl-C."""

    def __init__(self, *, stop: int | None = None) -> None:
        self.stop = stop
        self.done: int | None = None
        self.seen: list[int] = []
        self.generations: list[int] = []

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        self.done = done

    def evaluated(self, entry: Entry) -> None:
        self.seen.append(entry.index)
        if entry.index == self.stop:
            raise KeyboardInterrupt

    def generation_ended(self, generation: Generation) -> None:
        self.generations.append(generation.number)


@pytest.fixture
def finished(whole_run: RunResult, tmp_path: Path) -> RunResult:
    """The small search, run through, in a folder of the test's own."""
    shutil.copytree(whole_run.folder, tmp_path / "whole")
    return replace(whole_run, folder=tmp_path / "whole")


def replaced(monkeypatch: pytest.MonkeyPatch, evaluate: Callable[[ParameterMerge], Evaluation | Failure]) -> None:
    """Have every candidate evaluated by `evaluate`."""
    monkeypatch.setattr(Evaluator, "evaluate", lambda _self, recipe: evaluate(recipe))


def test_a_run_s_folder_holds_config_journal_recipes_and_result(whole_run: RunResult, config: EvolveConfig) -> None:
    folder = whole_run.folder
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "journal.jsonl",
        "best.yaml",
        "mean.yaml",
        "result.json",
    }
    assert load_config(folder / "config.yaml").as_mapping() == config.resolved(relative_to=None).as_mapping()
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == whole_run.as_json()
    rows = journal_rows(folder)
    assert [row["kind"] for row in rows] == ["header", *["candidate"] * 12, "stop", "mean"]
    assert (rows[-2]["reason"], whole_run.stopped_by) == ("candidates", "candidates")
    entries = [*rows[1:-2], rows[-1]]
    assert [row["index"] for row in entries] == list(range(13))
    assert {row["fitness"] for row in entries} > {0.0}


def test_the_winner_is_the_best_candidate_and_its_recipe_resolves_from_the_run_s_folder(
    finished: RunResult, evaluator: Evaluator
) -> None:
    candidates = read_journal(finished.folder / "journal.jsonl").candidates
    fitnesses = [entry.outcome.fitness for entry in candidates if isinstance(entry.outcome, Evaluation)]
    assert finished.fitness == max(fitnesses)
    recipe = load_recipe(finished.folder / "best.yaml", methods=METHODS)
    assert recipe.recipe_id == finished.recipe.recipe_id == candidates[int(np.argmax(fitnesses))].recipe_id
    assert all(ref.resolve().is_dir() for ref in recipe.sources.values())
    scored = evaluator.evaluate(finished.recipe)
    assert isinstance(scored, Evaluation)
    assert scored.fitness == finished.fitness


def test_the_mean_can_be_the_winner_and_is_recorded_as_such(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    result = evolve(config.model_copy(update={"winner": "mean"}), out=tmp_path / "run", evaluator=evaluator)
    mean = read_journal(tmp_path / "run/journal.jsonl").mean
    assert mean is not None
    assert result.winner == "mean"
    assert result.recipe.recipe_id == mean.recipe_id == load_recipe(tmp_path / "run/mean.yaml").recipe_id
    assert isinstance(mean.outcome, Evaluation)
    assert result.fitness == mean.outcome.fitness


@pytest.mark.parametrize(("kind", "stop"), [("cma", 5), ("cma", 11), ("random", 0)])
def test_a_run_interrupted_and_resumed_ends_with_the_journal_of_one_that_was_not(
    kind: str, stop: int, config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"kind": kind})})
    evolve(config, out=tmp_path / "one-go", evaluator=evaluator)
    with pytest.raises(KeyboardInterrupt):
        evolve(config, out=tmp_path / "stopped", evaluator=evaluator, observer=Watcher(stop=stop))
    assert len(journal_rows(tmp_path / "stopped")) == stop + 2

    watcher = Watcher()
    evolve(config, out=tmp_path / "stopped", resume=True, evaluator=evaluator, observer=watcher)
    assert watcher.done == stop + 1
    assert watcher.seen == list(range(12))
    assert watcher.generations == [0, 1, 2]
    assert journal_rows(tmp_path / "stopped") == journal_rows(tmp_path / "one-go")
    for name in ("config.yaml", "best.yaml", "mean.yaml"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "one-go" / name).read_text()


def test_a_run_cut_at_any_byte_and_resumed_ends_with_the_same_journal(
    finished: RunResult, config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    content = (finished.folder / "journal.jsonl").read_bytes()
    ends = [position for position, byte in enumerate(content) if byte == ord("\n")]
    cuts = [ends[0] + 1, ends[7] + 40, ends[-2] + 1, len(content)]
    for cut in cuts:
        run = tmp_path / f"cut-{cut}"
        run.mkdir()
        (run / "journal.jsonl").write_bytes(content[:cut])
        evolve(config, out=run, resume=True, evaluator=evaluator)
        assert journal_rows(run) == journal_rows(finished.folder)


@pytest.mark.parametrize(
    ("left", "resume"), [(["config.yaml"], True), ([".lock", "config.yaml", "journal.jsonl.partial"], False)]
)
def test_a_run_killed_before_its_journal_began_may_start_again(
    left: list[str], resume: bool, config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("half of", encoding="utf-8")
    config = config.model_copy(update={"budget": config.budget.model_copy(update={"candidates": 4})})
    assert evolve(config, out=tmp_path / "run", resume=resume, evaluator=evaluator).candidates == 4


def test_resuming_a_finished_run_returns_its_result_without_opening_a_model(
    finished: RunResult, config: EvolveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> Evaluator:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(Evaluator, "open", opened)
    before = (finished.folder / "journal.jsonl").read_bytes()
    assert evolve(config, out=finished.folder, resume=True).as_json() == finished.as_json()
    (finished.folder / "result.json").unlink()
    again = evolve(config, out=finished.folder, resume=True)
    # What it took of memory stood there alone.
    assert again.as_json() == {key: value for key, value in finished.as_json().items() if key != PEAK_MEMORY}
    assert again.recipe == finished.recipe
    assert (finished.folder / "result.json").is_file()
    assert (finished.folder / "journal.jsonl").read_bytes() == before


def test_an_existing_run_is_not_overwritten(finished: RunResult, config: EvolveConfig) -> None:
    with pytest.raises(OutputExists, match="--resume"):
        evolve(config, out=finished.folder)


def test_resuming_with_a_changed_config_names_every_change(
    finished: RunResult, write_config: WriteConfig, models: Path
) -> None:
    shutil.copytree(models / "math", finished.folder.parent / "other")
    document = search_document(models)
    changes = {
        "seed": 4,
        "merge": {**document["merge"], "sources": {"math": "./other", "ja": str(models / "ja")}},  # type: ignore[dict-item]
        "budget": {"candidates": 20},
    }
    path = write_config(changes, name="changed.yaml")
    with pytest.raises(RunMismatch) as caught:
        evolve(load_config(path), out=finished.folder, relative_to=path.parent, resume=True)
    for change in (
        "seed: 3 -> 4",
        f"merge.sources.math: {models / 'math'} -> {path.parent / 'other'}",
        "budget.candidates: 12 -> 20",
    ):
        assert change in str(caught.value)
    assert "optimizer" not in str(caught.value)


def test_a_journal_whose_genomes_are_others_is_refused(
    finished: RunResult, config: EvolveConfig, evaluator: Evaluator
) -> None:
    path = finished.folder / "journal.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[2])
    row["genome"][0] += 1e-12
    path.write_text("\n".join([*lines[:2], json.dumps(row), *lines[3:9]]) + "\n", encoding="utf-8")
    with pytest.raises(RunMismatch, match="candidate 1 is not what"):
        evolve(config, out=finished.folder, resume=True, evaluator=evaluator)


def test_only_one_process_may_run_a_search_in_a_folder(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    class Second(Watcher):
        def evaluated(self, entry: Entry) -> None:
            if entry.index == 1:
                torn = (tmp_path / "run/journal.jsonl").read_bytes()
                with pytest.raises(RunError, match="another process"):
                    evolve(config, out=tmp_path / "run", resume=True, evaluator=evaluator)
                assert (tmp_path / "run/journal.jsonl").read_bytes() == torn

    assert evolve(config, out=tmp_path / "run", evaluator=evaluator, observer=Second()).candidates == 12


def test_a_candidate_asked_for_twice_is_evaluated_once(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random search's mean is its best candidate, which is known by then.
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"kind": "random"})})
    calls: list[str] = []
    evaluate = Evaluator.evaluate

    def counted(self: Evaluator, recipe: ParameterMerge) -> Evaluation | Failure:
        calls.append(recipe.recipe_id)
        return evaluate(self, recipe)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    result = evolve(config, out=tmp_path / "run", evaluator=evaluator)
    assert len(calls) == len(set(calls)) == 12
    mean = read_journal(tmp_path / "run/journal.jsonl").mean
    assert mean is not None
    assert isinstance(mean.outcome, Evaluation)
    assert mean.outcome.fitness == result.fitness
    assert (mean.outcome.tokens, mean.outcome.seconds) == (0, {})


def test_a_failed_candidate_is_recorded_and_the_run_continues(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def evaluate(recipe: ParameterMerge) -> Evaluation | Failure:
        seen.append(recipe.recipe_id)
        if len(seen) % 4 == 2:
            return Failure(kind="not_finite", reason="the logits are not finite")
        return Evaluation(scores={}, fitness=len(seen) / 100, seconds={}, tokens=1)

    replaced(monkeypatch, evaluate)
    result = evolve(config, out=tmp_path / "run", evaluator=evaluator)
    rows = [row for row in journal_rows(tmp_path / "run") if row.get("status") == "failed"]
    assert result.failures == len(rows) == 3
    assert result.fitness == 0.12
    assert rows[0]["failure"] == {"kind": "not_finite", "reason": "the logits are not finite"}


def test_a_generation_of_failures_stops_the_run_and_resuming_tries_it_again(
    finished: RunResult,
    config: EvolveConfig,
    evaluator: Evaluator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluate = Evaluator.evaluate
    left = 4

    def out_of_memory_after_a_generation(self: Evaluator, recipe: ParameterMerge) -> Evaluation | Failure:
        nonlocal left
        left -= 1
        return evaluate(self, recipe) if left >= 0 else Failure(kind="out_of_memory", reason="out of memory")

    monkeypatch.setattr(Evaluator, "evaluate", out_of_memory_after_a_generation)
    for resume in (False, True):
        with pytest.raises(AllCandidatesFailed, match=r"(?s)generation 1.*out of memory.*--resume"):
            evolve(config, out=tmp_path / "run", resume=resume, evaluator=evaluator)
    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    evolve(config, out=tmp_path / "run", resume=True, evaluator=evaluator)

    kept = Journal.open(tmp_path / "run/journal.jsonl").entries
    whole = Journal.open(finished.folder / "journal.jsonl").entries
    assert [entry.recipe_id for entry in kept] == [entry.recipe_id for entry in whole]
    assert [row["generation"] for row in journal_rows(tmp_path / "run") if row["kind"] == "retry"] == [1, 1]


def test_a_mean_that_cannot_be_evaluated_leaves_the_best_candidate(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def evaluate(recipe: ParameterMerge) -> Evaluation | Failure:
        seen.append(recipe.recipe_id)
        return (
            Evaluation(scores={}, fitness=0.5, seconds={}, tokens=0)
            if len(seen) <= 12
            else Failure(kind="not_finite", reason="the logits are not finite")
        )

    replaced(monkeypatch, evaluate)
    with pytest.raises(RunError, match=r"(?s)mean.*not finite.*best\.yaml"):
        evolve(config.model_copy(update={"winner": "mean"}), out=tmp_path / "run", evaluator=evaluator)
    assert load_recipe(tmp_path / "run/best.yaml").recipe_id == seen[0]


def test_a_budget_under_one_generation_of_the_models_layers_is_refused(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    changes = {"space": {"kind": "layer"}, "optimizer": {"kind": "cma"}, "budget": {"candidates": 11}}
    config = load_config(write_config(changes))
    with pytest.raises(ConfigError, match=r"16 genes\) has 12 candidates.*\n.*Raise the budget"):
        evolve(config, out=tmp_path / "run")
    assert not (tmp_path / "run/journal.jsonl").exists()


def test_one_run_scores_a_merged_vlm_on_pictures_and_on_problems(
    write_config: WriteConfig, models: Path, tmp_path: Path
) -> None:
    picture = {
        "artist": "openmoji",
        "background": ["#2068e6"],
        "objects": [{"emoji": "🗻", "x": 32, "y": 32, "size": 48, "rotation": 0}],
    }
    row = {"id": "e0", "question": "何の絵ですか?", "answer": "富士山", "picture": picture, "tags": ["culture"]}
    (tmp_path / "pictures.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    path = write_config(
        {
            "merge": {
                "base": str(models / "base"),
                "host": str(models / "vlm"),
                "sources": {"vlm": str(models / "vlm"), "ja": str(models / "ja")},
                "method": "ties",
                "vocabulary": "host",
            },
            "space": {"kind": "layer", "fixed": {"density": 0.8}},
            "optimizer": {"kind": "cma", "population": 4},
            "budget": {"candidates": 9},
            "tasks": [
                {"name": "emoji_ja", "weight": 3.0, "data": "pictures.jsonl"},
                task_section(models, weight=1.0, limit=2),
            ],
        }
    )
    result = evolve(load_config(path), out=tmp_path / "run", relative_to=tmp_path)
    assert result.candidates == 8
    scores = result.evaluation.scores
    assert {name: score.n for name, score in scores.items()} == {"emoji_ja": 1, TASK: 2}
    assert result.fitness == pytest.approx((3 * scores["emoji_ja"].score + scores[TASK].score) / 4)
    assert result.recipe.parameters["ja"].density == 0.8
    assert result.recipe.unit_lengths() == {4}
