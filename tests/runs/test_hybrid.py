"""A hybrid on pico models: two searches in one folder, for language models and for one that sees."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml

from evovlm.errors import ConfigError, IncompatibleModels, OutputExists, RunMismatch
from evovlm.evaluation.resident import load_recipe_model
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import HybridMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.runs.config.hybrid import PATH, HybridConfig, load_search
from evovlm.runs.config.kinds import load_config
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.optuna_export import export_to_optuna
from evovlm.runs.run import Run
from evovlm.runs.searching.evolve import RunResult, run_search
from evovlm.seeding import generator
from tests.marks import quick_and_slow
from tests.pico import pico_llm
from tests.pico_zoo import picture_row, write_rows
from tests.runs.conftest import journal_rows
from tests.runs.path_searches import StopAt, hybrid_document, write_problems


def loaded(path: Path, document: dict[str, object]) -> HybridConfig:
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    found = load_search(path)
    assert isinstance(found, HybridConfig)
    return found


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("problems"))


@pytest.fixture(scope="module")
def config(models: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> HybridConfig:
    return loaded(tmp_path_factory.mktemp("configs") / "hybrid.yaml", hybrid_document(models, problems))


@pytest.fixture(scope="module")
def whole(config: HybridConfig, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_search(config, out=tmp_path_factory.mktemp("runs") / "whole")


def test_a_winner_with_a_tiny_number_is_what_the_second_stage_begins_with(config: HybridConfig) -> None:
    template = config.ps.template(relative_to=None)
    # YAML 1.1 takes 1e-05 for text.
    winner = template.recipe({name: SourceParameters(weight=1e-05) for name in template.sources})
    second = config.stage(PATH, after=winner).template(relative_to=None)
    assert second.ps is not None
    assert second.ps.parameters == winner.parameters


def test_the_winner_is_a_hybrid_whose_first_stage_won_the_first_search(whole: RunResult) -> None:
    recipe = load_recipe(whole.folder / "best.yaml")
    first = load_recipe(whole.folder / "ps/best.yaml")
    assert isinstance(recipe, HybridMerge)
    assert recipe.recipe_id == whole.recipe.recipe_id
    assert recipe.ps.recipe_id == first.recipe_id
    assert recipe.host is None
    assert recipe.path.steps[0].source == recipe.path.steps[-1].source == "ps"
    assert recipe.recipe_id == load_recipe(whole.folder / "path/best.yaml").recipe_id
    # It makes a model.
    assert len(load_recipe_model(recipe, device="cpu").model.model.layers) == len(recipe.path)


def test_both_stages_are_studies_in_one_file(whole: RunResult, tmp_path: Path) -> None:
    out = tmp_path / "study.db"
    studies = export_to_optuna(whole.folder, out=out)
    assert [(study.name, study.trials) for study in studies] == [("whole-ps", 8), ("whole-path", 8)]
    paths = optuna.load_study(study_name="whole-path", storage=f"sqlite:///{out}").trials
    for trial, entry in zip(paths, read_journal(whole.folder / "path/journal.jsonl").candidates, strict=True):
        assert len(trial.params) == len(entry.genome)
        switches = {name: value for name, value in trial.params.items() if not name.startswith("scale.")}
        assert list(switches.values()) == (entry.genome[: len(switches)] > 0.5).astype(int).tolist()
        scales = [value for name, value in trial.params.items() if name.startswith("scale.")]
        assert scales == pytest.approx(0.5 + entry.genome[len(switches) :])
    assert {"ja.block1.2", "scale.ja.block1.2"} <= set(paths[0].params)


def test_both_stages_are_runs_and_the_whole_reports_both(whole: RunResult) -> None:
    for stage in ("ps", "path"):
        assert {"journal.jsonl", "config.yaml", "best.yaml", "result.json"} <= {
            file.name for file in (whole.folder / stage).iterdir()
        }
        load_config(whole.folder / stage / "config.yaml")
    told = json.loads((whole.folder / "result.json").read_text(encoding="utf-8"))
    assert told["candidates"] == whole.candidates == 16
    assert told["recipe"] == str(whole.folder / "best.yaml")
    assert [told["stages"][stage]["candidates"] for stage in ("ps", "path")] == [8, 8]
    run = Run.open(whole.folder)
    assert isinstance(whole.recipe, HybridMerge)
    assert (len(run.candidates), run.description.path) == (8, whole.recipe.path)
    assert (run.stage_name, run.config.batch, run.finished) == ("path", 3, True)
    # Before each of the two generations, and after.
    assert len(run.snapshots) == 3
    assert max(run.snapshots.values()) == whole.fitness
    assert run.description.is_host == (whole.recipe.path.canonical() == [["ps", layer, 1.0] for layer in range(2)])
    assert Run.open(whole.folder / "ps").stage_name is None


def test_the_config_in_the_folder_reads_back_the_same(whole: RunResult, config: HybridConfig) -> None:
    again = load_search(whole.folder / "config.yaml")
    assert isinstance(again, HybridConfig)
    assert again.as_mapping() == config.resolved(relative_to=None).as_mapping()


@pytest.mark.parametrize(("stage", "stop"), quick_and_slow([("ps", 2), ("path", 0), ("ps", 7), ("path", 6)], quick=2))
def test_a_hybrid_interrupted_in_either_stage_and_resumed_ends_with_the_same_journals(
    stage: str, stop: int, config: HybridConfig, whole: RunResult, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_search(config, out=out, observe=lambda name: StopAt(stop) if name == stage else None)
    assert (out / "path/journal.jsonl").exists() == (stage == "path")
    run = Run.open(out)
    assert (run.stage_name, run.finished, len(run.candidates)) == (stage, False, stop + 1)
    run_search(config, out=out, resume=True)
    for name in ("ps", "path"):
        assert journal_rows(out / name) == journal_rows(whole.folder / name)
    assert (out / "best.yaml").read_text() == (whole.folder / "best.yaml").read_text()


def test_resuming_a_finished_hybrid_returns_its_result(config: HybridConfig, whole: RunResult) -> None:
    assert run_search(config, out=whole.folder, resume=True).as_json() == whole.as_json()


def with_budgets(models: Path, problems: Path, path: Path, *, ps: int, second: int) -> HybridConfig:
    document = hybrid_document(models, problems)
    document["stages"]["ps"]["budget"] = {"candidates": ps}  # type: ignore[index]
    document["stages"]["path"]["budget"] = {"candidates": second}  # type: ignore[index]
    return loaded(path, document)


def recipe_ids(folder: Path) -> list[str]:
    return [entry.recipe_id for entry in read_journal(folder / "journal.jsonl").candidates]


def test_before_the_second_stage_both_budgets_may_be_raised_and_the_run_ends_as_if_they_had_always_been(
    models: Path, problems: Path, config: HybridConfig, tmp_path: Path
) -> None:
    out, raised = tmp_path / "run", with_budgets(models, problems, tmp_path / "raised.yaml", ps=12, second=12)
    with pytest.raises(KeyboardInterrupt):
        run_search(config, out=out, observe=lambda name: StopAt(6) if name == "ps" else None)
    run_search(raised, out=out, resume=True)
    fresh = run_search(raised, out=tmp_path / "fresh")
    for stage in ("ps", "path"):
        assert len(recipe_ids(out / stage)) == 12
        assert recipe_ids(out / stage) == recipe_ids(fresh.folder / stage)
    assert (out / "config.yaml").read_text() == (fresh.folder / "config.yaml").read_text()


def test_of_a_finished_hybrid_the_second_stage_goes_further_and_the_first_does_not(
    models: Path, problems: Path, whole: RunResult, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole.folder, out)
    with pytest.raises(RunMismatch, match=r"(?s)stages\.ps\.budget\.candidates: 8 -> 12.*until the second begins"):
        run_search(with_budgets(models, problems, tmp_path / "first.yaml", ps=12, second=12), out=out, resume=True)
    with pytest.raises(RunMismatch, match=r"(?s)stages\.path\.budget\.candidates: 8 -> 4.*may only be raised"):
        run_search(with_budgets(models, problems, tmp_path / "less.yaml", ps=8, second=4), out=out, resume=True)
    assert recipe_ids(out / "path") == recipe_ids(whole.folder / "path")
    result = run_search(with_budgets(models, problems, tmp_path / "second.yaml", ps=8, second=12), out=out, resume=True)
    assert result.candidates == 20
    assert recipe_ids(out / "path")[:8] == recipe_ids(whole.folder / "path")
    assert journal_rows(out / "ps") == journal_rows(whole.folder / "ps")


def test_an_existing_hybrid_is_not_overwritten_and_another_config_does_not_resume_it(
    models: Path, problems: Path, config: HybridConfig, whole: RunResult, tmp_path: Path
) -> None:
    with pytest.raises(OutputExists, match="--resume"):
        run_search(config, out=whole.folder)
    document = hybrid_document(models, problems)
    document["stages"]["path"]["batch"] = 2  # type: ignore[index]
    with pytest.raises(RunMismatch, match=r"stages\.path\.batch: 3 -> 2"):
        run_search(loaded(tmp_path / "other.yaml", document), out=whole.folder, resume=True)


def test_what_does_not_fit_in_the_second_stage_is_found_before_the_first(
    models: Path, problems: Path, tmp_path: Path
) -> None:
    other = pico_llm(tmp_path / "qwen", family="qwen2", seed=9)
    document = hybrid_document(models, problems)
    document["stages"]["path"]["merge"]["sources"] = {"ja": str(other)}  # type: ignore[index]
    with pytest.raises(IncompatibleModels):
        run_search(loaded(tmp_path / "hybrid.yaml", document), out=tmp_path / "run")
    assert not (tmp_path / "run/ps").exists()


def test_the_first_stage_s_result_may_be_no_host(models: Path, problems: Path, tmp_path: Path) -> None:
    document = hybrid_document(models, problems)
    document["stages"]["path"]["merge"]["host"] = str(models / "ja")  # type: ignore[index]
    result = run_search(loaded(tmp_path / "hybrid.yaml", document), out=tmp_path / "run")
    assert isinstance(result.recipe, HybridMerge)
    assert result.recipe.path.steps[0].source == "ja"


def test_every_problem_of_both_stages_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(
        "format: 1\n"
        "kind: hybrid\n"
        "seed: seven\n"
        "tasks:\n"
        "  - {name: word_problem_ja}\n"
        "stages:\n"
        "  ps:\n"
        "    merge: {base: 'zoo:base', sources: {ja: 'zoo:ja'}, method: dare_tise}\n"
        "    budget: {candidates: 0}\n"
        "    device: cpu\n"
        "  path:\n"
        "    merge: {kind: layer_path, sources: {ja: 'zoo:nobody'}, ps: best.yaml, scale_target: stream}\n"
        "    space: {kind: path, scales: all}\n"
        "    colour: blue\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load_search(path)
    message = str(caught.value)
    for line, words in (
        (3, "seed: .*integer"),
        (5, r"tasks\[0\].name: .*did you mean 'word_problems_ja'"),
        (8, "stages.ps.merge.method: .*did you mean 'dare_ties'"),
        (9, "stages.ps.budget.candidates: .*greater than or equal to 1"),
        (10, "stages.ps.device: belongs outside of the stages"),
        (12, "stages.path.merge.sources.ja: no such model"),
        (12, "stages.path.merge.ps: is the first stage's winner"),
        (13, "stages.path.space.scales: unknown scales"),
        (14, "stages.path.colour: unknown key"),
    ):
        assert re.search(rf"^\s+{re.escape(str(path))}:{line}: {words}", message, re.MULTILINE), (words, message)
    assert "9 problems" in message


def test_a_hybrid_without_stages_or_with_too_small_a_budget_says_so(
    models: Path, problems: Path, tmp_path: Path
) -> None:
    document = hybrid_document(models, problems)
    document["stages"]["path"]["budget"] = {"candidates": 3}  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"stages\.path\.budget\.candidates is 3"):
        loaded(tmp_path / "small.yaml", document)
    del document["stages"]
    with pytest.raises(ConfigError, match="stages: missing"):
        loaded(tmp_path / "none.yaml", document)


def test_a_hybrid_of_a_model_that_sees(models: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures.jsonl"
    write_rows(pictures, [picture_row("search", number) for number in range(4)])
    document = hybrid_document(models, tmp_path)
    document["tasks"] = [{"name": "emoji_ja", "data": str(pictures)}]
    ps, path = document["stages"]["ps"], document["stages"]["path"]  # type: ignore[index]
    ps["merge"] |= {
        "host": str(models / "vlm"),
        "sources": {"vlm": str(models / "vlm"), "ja": str(models / "ja")},
        "vocabulary": "host",
    }
    ps["budget"] = path["budget"] = {"candidates": 4}
    path |= {"batch": 2, "validation": 2}
    result = run_search(loaded(tmp_path / "seeing.yaml", document), out=tmp_path / "run")
    assert isinstance(result.recipe, HybridMerge)
    assert load_recipe_model(result.recipe, device="cpu").sees


def start(config: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "evovlm", "evolve", str(config), "--out", str(run), "--resume"]
    # One thread, as in the run that it is compared with: sums over several come in another order.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def n_lines(run: Path) -> int:
    journals = (run / stage / "journal.jsonl" for stage in ("ps", "path"))
    return sum(journal.read_bytes().count(b"\n") for journal in journals if journal.exists())


@pytest.mark.slow
def test_a_hybrid_killed_at_random_moments_ends_with_the_journals_of_one_that_was_not(
    models: Path, problems: Path, whole: RunResult, tmp_path: Path
) -> None:
    config, run = tmp_path / "hybrid.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(hybrid_document(models, problems), sort_keys=False), encoding="utf-8")
    moments = generator("moments of death", 2)
    for kill in range(6):
        # Some in the first stage, some in the second, one on the way between them.
        wanted = 0 if kill == 0 else n_lines(run) + int(moments.integers(2, 5))
        with start(config, run) as process:
            while process.poll() is None and n_lines(run) < wanted:
                time.sleep(0.001)
            time.sleep(moments.uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert (run / "path/journal.jsonl").exists()
    with start(config, run) as process:
        assert process.wait() == 0
    for stage in ("ps", "path"):
        assert journal_rows(run / stage) == journal_rows(whole.folder / stage)
    assert (run / "best.yaml").read_bytes() == (whole.folder / "best.yaml").read_bytes()
