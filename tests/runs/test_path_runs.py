"""Searches through layers, on pico models: batches, validation, snapshots, and how they go on after a stop."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from evovlm.errors import AllCandidatesFailed, ConfigError, OutputExists, RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation, Failure, TaskScore
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.runs.config.kinds import config_from_mapping, load_config
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.run import Run
from evovlm.runs.samples import SampleParts
from evovlm.runs.searching.evolve import RunResult, evolve, open_evaluator
from tests.marks import quick_and_slow
from tests.runs.conftest import TASK, WriteConfig, journal_rows, search_document, task_section
from tests.runs.path_searches import StopAt, path_document, write_problems


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("problems"))


@pytest.fixture(scope="module")
def config(models: Path, problems: Path) -> PathConfig:
    found = config_from_mapping(path_document(models, problems)).resolved(relative_to=None)
    assert isinstance(found, PathConfig)
    return found


@pytest.fixture(scope="module")
def stack(config: PathConfig) -> Evaluator:
    return open_evaluator(config)


@pytest.fixture(scope="module")
def whole(config: PathConfig, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return evolve(config, out=tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_looks_at_the_mean_before_each_generation_and_at_the_end(whole: RunResult) -> None:
    rows = journal_rows(whole.folder)
    generation = ["snapshot", *["candidate"] * 4]
    assert [row["kind"] for row in rows] == ["header", *generation * 3, "snapshot", "stop", "mean"]
    assert rows[0]["blocks"] == {"base": 2, "math": 2, "ja": 2}
    entries = [row for row in rows[1:] if row["kind"] != "stop"]
    assert [row["generation"] for row in entries] == [*[0] * 5, *[1] * 5, *[2] * 5, 3, 3]
    assert [row["index"] for row in entries] == [0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 12]
    samples = {row["kind"]: row["scores"][TASK]["n"] for row in entries}
    assert samples == {"candidate": 3, "snapshot": 4, "mean": 4}


def test_the_winner_is_the_snapshot_that_did_best_on_the_validation_samples(whole: RunResult, stack: Evaluator) -> None:
    snapshots = read_journal(whole.folder / "journal.jsonl").snapshots
    fitnesses = [entry.outcome.fitness for entry in snapshots if isinstance(entry.outcome, Evaluation)]
    recipe = load_recipe(whole.folder / "best.yaml")
    assert isinstance(recipe, LayerPathMerge)
    assert recipe.recipe_id == whole.recipe.recipe_id == snapshots[int(np.argmax(fitnesses))].recipe_id
    assert (whole.winner, whole.fitness) == ("snapshot", max(fitnesses))
    # On the last four problems, and nothing else.
    again = stack.part([tuple(range(6, 10))]).evaluate(recipe)
    assert isinstance(again, Evaluation)
    assert again.fitness == whole.fitness


def test_the_first_snapshot_is_the_unchanged_host(whole: RunResult, config: PathConfig) -> None:
    journal = read_journal(whole.folder / "journal.jsonl")
    space = config.space_for(journal.blocks)
    recipe = space.decode(journal.snapshots[0].genome)
    assert isinstance(recipe, LayerPathMerge)
    assert recipe.path.canonical() == [["base", 0, 1.0], ["base", 1, 1.0]]


def test_dtype_and_stops_of_a_search_are_those_of_its_winner(models: Path, problems: Path, tmp_path: Path) -> None:
    document = path_document(models, problems)
    plain = config_from_mapping(document).resolved(relative_to=None)
    document["merge"] = {**plain.merge.model_dump(mode="json"), "dtype": "float16", "generation": "math"}
    document["budget"] = {"candidates": 4}
    config = config_from_mapping(document).resolved(relative_to=None)
    assert {"dtype", "generation"} <= dict(config.as_mapping())["merge"].keys()  # type: ignore[attr-defined]
    assert not {"dtype", "generation", "backbone"} & dict(plain.as_mapping())["merge"].keys()  # type: ignore[attr-defined]
    found = evolve(config, out=tmp_path / "run")
    recipe = load_recipe(found.folder / "best.yaml")
    assert isinstance(recipe, LayerPathMerge)
    assert (recipe.dtype, recipe.generation, recipe.recipe_id) == ("float16", "math", found.recipe.recipe_id)
    assert Run.open(found.folder).winner is not None


def test_a_generation_shares_its_batch_and_the_next_has_another() -> None:
    parts = SampleParts(sizes={"a": 1069, "b": 500}, seed=1, batch=200, validation=200)
    first, second = parts.of_candidates(0), parts.of_candidates(1)
    assert first == SampleParts(sizes={"a": 1069, "b": 500}, seed=1, batch=200, validation=200).of_candidates(0)
    assert first is not None
    assert first != second
    assert first != SampleParts(sizes={"a": 1069, "b": 500}, seed=2, batch=200, validation=200).of_candidates(0)
    for rows, left in zip(first, (869, 300), strict=True):
        assert len(set(rows)) == 200
        assert rows == tuple(sorted(rows))
        assert rows[-1] < left
    assert parts.of_means() == (tuple(range(869, 1069)), tuple(range(300, 500)))


def test_without_a_batch_candidates_see_all_that_is_not_kept() -> None:
    assert SampleParts(sizes={"a": 9}, seed=1, batch=None, validation=None).of_candidates(3) is None
    assert SampleParts(sizes={"a": 9}, seed=1, batch=None, validation=None).of_means() is None
    kept = SampleParts(sizes={"a": 9}, seed=1, batch=None, validation=4)
    assert kept.of_candidates(3) == (tuple(range(5)),)
    assert kept.of_means() == (tuple(range(5, 9)),)


@pytest.mark.parametrize(("batch", "validation"), [(6, 4), (None, 9), (1, 9), (10, None)])
def test_more_samples_asked_for_than_there_are_is_refused(batch: int | None, validation: int | None) -> None:
    with pytest.raises(ConfigError, match=r"task a: of its 9 samples, \d are kept"):
        SampleParts(sizes={"a": 9}, seed=1, batch=batch, validation=validation)


@pytest.mark.parametrize("kind", quick_and_slow(["cma", "cma_margin", "catcma", "random_nearby"], quick=2))
@pytest.mark.parametrize("stop", quick_and_slow([5, 0, 11], quick=1))
def test_a_run_interrupted_and_resumed_ends_with_the_journal_of_one_that_was_not(
    kind: str, stop: int, config: PathConfig, stack: Evaluator, tmp_path: Path
) -> None:
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"kind": kind})})
    evolve(config, out=tmp_path / "one-go", evaluator=stack)
    with pytest.raises(KeyboardInterrupt):
        evolve(config, out=tmp_path / "stopped", evaluator=stack, observer=StopAt(stop))
    evolve(config, out=tmp_path / "stopped", resume=True, evaluator=stack)
    assert journal_rows(tmp_path / "stopped") == journal_rows(tmp_path / "one-go")
    for name in ("config.yaml", "best.yaml", "mean.yaml"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "one-go" / name).read_text()


@pytest.mark.slow
def test_a_run_cut_at_any_line_and_resumed_ends_with_the_same_journal(
    whole: RunResult, config: PathConfig, stack: Evaluator, tmp_path: Path
) -> None:
    lines = (whole.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines)):
        run = tmp_path / f"cut-{count}"
        run.mkdir()
        (run / "journal.jsonl").write_bytes(b"".join(lines[:count]) + lines[count][:40])
        evolve(config, out=run, resume=True, evaluator=stack)
        assert journal_rows(run) == journal_rows(whole.folder)


def test_a_snapshot_that_another_search_would_not_look_at_is_refused(
    whole: RunResult, config: PathConfig, stack: Evaluator, tmp_path: Path
) -> None:
    lines = (whole.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[6])
    assert row["kind"] == "snapshot"
    row["genome"][0] += 1e-12
    (tmp_path / "run").mkdir()
    content = "\n".join([*lines[:6], json.dumps(row), *lines[7:9]]) + "\n"
    (tmp_path / "run/journal.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(RunMismatch, match=r"snapshot 4 is not what .* now: genome\[0\] is 0\.\d+, but"):
        evolve(config, out=tmp_path / "run", resume=True, evaluator=stack)


def test_a_failed_candidate_and_a_failed_mean_are_recorded_and_the_run_continues(
    config: PathConfig, stack: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Recipe] = []

    def evaluate(_self: Evaluator, recipe: Recipe) -> Evaluation | Failure:
        calls.append(recipe)
        if len(calls) in (1, 3):
            return Failure(kind="not_finite", reason="the logits are not finite")
        score = TaskScore(score=0.5, ungated=0.5, japanese=1.0, per_sample=(0.5,), n=1)
        return Evaluation(scores={stack.tasks[0].name: score}, fitness=0.5, seconds={}, tokens=1)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    result = evolve(config, out=tmp_path / "run", evaluator=stack)
    rows = journal_rows(tmp_path / "run")
    assert [row["status"] for row in rows[1:4]] == ["failed", "evaluated", "failed"]
    assert (result.failures, result.fitness) == (1, 0.5)


def test_a_path_through_values_that_overflow_is_a_failed_candidate(config: PathConfig, tmp_path: Path) -> None:
    changes = {
        "merge": config.merge.model_copy(update={"scale_target": "stream"}),
        "space": config.space.model_copy(update={"scale": [0.0, 3e38]}),
        "budget": config.budget.model_copy(update={"candidates": 4}),
    }
    result = evolve(config.model_copy(update=changes), out=tmp_path / "run")
    journal = read_journal(tmp_path / "run/journal.jsonl")
    failed = [entry.outcome for entry in journal.candidates if isinstance(entry.outcome, Failure)]
    assert result.failures == len(failed) > 0
    assert {failure.kind for failure in failed} == {"not_finite"}


def test_a_finished_run_returns_its_result_and_its_path_without_a_model(
    whole: RunResult, config: PathConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> Evaluator:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(Evaluator, "open", opened)
    again = evolve(config, out=whole.folder, resume=True)
    assert again.as_json() == whole.as_json()
    run = Run.open(whole.folder)
    assert run.winner_kind == "snapshot"
    assert isinstance(whole.recipe, LayerPathMerge)
    assert run.description.path == whole.recipe.path


def test_models_that_have_other_numbers_of_blocks_by_now_are_refused(
    whole: RunResult, config: PathConfig, stack: Evaluator, tmp_path: Path
) -> None:
    text = (whole.folder / "journal.jsonl").read_text(encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/journal.jsonl").write_text(text.replace('"ja": 2}', '"ja": 3}').rsplit("\n", 3)[0] + "\n")
    with pytest.raises(RunMismatch, match="numbers of blocks have changed"):
        evolve(config, out=tmp_path / "run", resume=True, evaluator=stack)


def test_a_candidate_moves_no_weights(config: PathConfig, stack: Evaluator) -> None:
    space = config.space_for(stack.resident.blocks)
    stack.resident.merge(space.decode(np.where(space.levels == 2, 1.0, 0.2)))
    before = {id(tensor): tensor.data_ptr() for tensor in stack.loaded.model.parameters()}
    # Every hop of a repeated block is the one set of parameters: 3 sources of 2 blocks, and the host's other tensors.
    stack.resident.merge(space.decode(np.where(space.levels == 2, 1.0, 0.9)))
    assert {id(tensor): tensor.data_ptr() for tensor in stack.loaded.model.parameters()} == before
    assert len(stack.loaded.model.model.layers) == 12


def test_a_recipe_of_another_search_is_not_a_candidate(config: PathConfig, stack: Evaluator) -> None:
    template = config.template(relative_to=None)
    other = template.first_recipe()
    assert isinstance(other, LayerPathMerge)
    parameters = ParameterMerge(
        host=other.host, sources={"a": other.host}, method="linear", parameters={"a": SourceParameters()}
    )
    for stranger in (replace(other, scale_target="stream"), parameters):
        with pytest.raises(ConfigError, match="not a path through the models of this search"):
            stack.evaluate(stranger)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"winner": "best"}, "winner: candidates of two generations are scored on different samples"),
        ({"validation": None}, "winner: is the mean that did best on the validation samples; set"),
        ({"space": {"kind": "layer"}}, "space.kind"),
        ({"space": {"scales": "per_pair"}}, "space.scales: unknown scales; did you mean 'per_position'"),
        ({"space": {"scale": [1.5, 2.0]}}, r"space.scale: should be \[low, high\] with 1 between"),
        ({"space": {"repetitions": 0}}, "space.repetitions: .*greater than or equal to 1"),
        ({"optimizer": {"population": 3}}, "optimizer.population: .*4 or more"),
        ({"batch": 0}, "batch: .*greater than or equal to 1"),
        ({"budget": {"candidates": 3}}, "budget.candidates is 3"),
    ],
)
def test_a_config_that_cannot_be_run_says_so(
    models: Path, problems: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**path_document(models, problems), **changes}), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_config(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": None}, "merge: host: missing"),
        ({"host": "zoo:base"}, "merge: host: 'zoo:base' is not among the sources"),
        ({"scale_target": "branch"}, "merge.scale_target: .*'pending' or 'stream'"),
        ({"sources": {"ps": "zoo:ja"}, "host": "zoo:ja"}, "merge.sources: 'ps' is the first stage's result"),
        ({"method": "dare_ties"}, "merge.method: unknown key"),
    ],
)
def test_a_merge_that_has_no_paths_says_so(
    models: Path, problems: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    document = path_document(models, problems)
    merge = {**document["merge"], **changes}  # type: ignore[dict-item]
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**document, "merge": merge}), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_config(path)


def test_too_few_samples_are_found_before_a_model_is_loaded(
    config: PathConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "open", None)
    with pytest.raises(ConfigError, match="of its 10 samples, 4 are kept for validation"):
        evolve(config.model_copy(update={"batch": 7}), out=tmp_path / "run")
    assert not (tmp_path / "run/journal.jsonl").exists()


def test_the_defaults_are_the_paper_s_but_for_the_optimizer(models: Path, problems: Path) -> None:
    document = path_document(models, problems)
    bare = config_from_mapping({key: document[key] for key in ("format", "kind", "merge", "tasks")})
    assert (bare.optimizer.sigma, bare.optimizer.population, bare.budget.candidates) == (0.1, 128, 12800)
    assert (bare.batch, bare.validation, bare.winner, bare.optimizer.kind) == (200, 200, "snapshot", "catcma")
    assert isinstance(bare, PathConfig)
    assert (bare.space.repetitions, bare.space.host_start, bare.space.rest_start) == (3, 2.0, -2.0)


def test_a_search_of_parameters_may_have_batches_and_snapshots_too(
    models: Path, problems: Path, tmp_path: Path
) -> None:
    document = {**search_document(models), "batch": 3, "validation": 4, "winner": "snapshot"}
    document["tasks"] = [task_section(problems.parent, data=problems.name)]
    result = evolve(config_from_mapping(document), out=tmp_path / "run")
    rows = journal_rows(tmp_path / "run")
    assert [row["kind"] for row in rows[1:]] == [*["snapshot", *["candidate"] * 4] * 3, "snapshot", "stop", "mean"]
    assert len(set(rows[0]["blocks"].values())) == 1
    assert result.winner == "snapshot"


def test_a_run_is_not_overwritten_and_other_settings_are_refused(
    whole: RunResult, config: PathConfig, stack: Evaluator
) -> None:
    with pytest.raises(OutputExists, match="--resume"):
        evolve(config, out=whole.folder, evaluator=stack)
    with pytest.raises(RunMismatch, match="batch: 3 -> 2"):
        evolve(config.model_copy(update={"batch": 2}), out=whole.folder, resume=True, evaluator=stack)


def test_a_journal_older_than_a_setting_resumes_with_its_default(
    whole_run: RunResult, write_config: WriteConfig, tmp_path: Path
) -> None:
    from evovlm.runs.folder.journal import config_hash

    lines = (whole_run.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    header = json.loads(lines[0])
    for key in ("batch", "validation"):
        assert header["config"].pop(key) is None
    header["config_hash"] = config_hash(header["config"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/journal.jsonl").write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n", encoding="utf-8")
    again = evolve(load_config(write_config()), out=tmp_path / "run", resume=True)
    assert again.recipe.recipe_id == whole_run.recipe.recipe_id


def test_a_generation_that_failed_as_a_whole_is_tried_again_with_its_snapshot(
    config: PathConfig, stack: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, calls = Evaluator.evaluate, [0]

    def out_of_memory_after_a_generation(self: Evaluator, recipe: Recipe) -> Evaluation | Failure:
        calls[0] += 1
        if calls[0] > 6:
            return Failure(kind="out_of_memory", reason="out of memory")
        return evaluate(self, recipe)

    evolve(config, out=tmp_path / "one-go", evaluator=stack)
    monkeypatch.setattr(Evaluator, "evaluate", out_of_memory_after_a_generation)
    with pytest.raises(AllCandidatesFailed, match="generation 1"):
        evolve(config, out=tmp_path / "run", evaluator=stack)
    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    evolve(config, out=tmp_path / "run", resume=True, evaluator=stack)
    kept = read_journal(tmp_path / "run/journal.jsonl").entries
    wanted = read_journal(tmp_path / "one-go/journal.jsonl").entries
    assert [entry.recipe_id for entry in kept] == [entry.recipe_id for entry in wanted]
    assert [entry.kind for entry in kept] == [entry.kind for entry in wanted]
