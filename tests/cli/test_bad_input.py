"""What a user gets wrong: exit code 2, one message that says where and what to do, never a traceback."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Command, Outcome, write_config


def refused(outcome: Outcome, *parts: str) -> None:
    """Check that a command was refused as errors of the user are, with these words in its message."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert "error: " in outcome.err
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"tasks": [{"name": "word_problem_ja"}]}, ("tasks[0].name", "did you mean 'word_problems_ja'?")),
        ({"tasks": [{"name": "word_problems_ja", "split": "report"}]}, ("tasks[0].split: unknown key",)),
        ({"tasks": [{"name": "mgsm_ja"}]}, ("tasks[0].name", "report split")),
        ({"tasks": []}, ("tasks",)),
        ({"optimiser": {"kind": "cma"}}, ("optimiser: unknown key", "did you mean 'optimizer'?")),
        ({"optimizer": {"kind": "cmaes"}}, ("optimizer.kind", "did you mean 'cma'?")),
        ({"optimizer": {"kind": "cma", "population": 3}}, ("optimizer.population", "4 or more", "found 3")),
        ({"budget": {"candidates": "many"}}, ("budget.candidates", "integer", "found 'many'")),
        ({"space": {"kind": "layers"}}, ("space.kind", "did you mean 'layer'?")),
        ({"space": {"density": [0, 2]}}, ("space.density", "[0, 1]")),
        ({"space": {"weight": [1, 0]}}, ("space.weight", "the first number must be the smaller")),
        ({"winner": "last"}, ("winner", "'best', 'mean' or 'snapshot'")),
        ({"kind": "merge"}, ("kind", "'evolve'")),
        ({"seed": 1.5}, ("seed", "integer")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, Mapping) else "",
)
def test_a_wrong_key_or_value_is_named_with_its_line(
    changes: dict[str, object],
    parts: tuple[str, ...],
    evovlm: Command,
    models: Path,
    problems: Path,
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "wrong.yaml", models=models, problems=problems, **changes)
    refused(evovlm("evolve", config, "--out", tmp_path / "run"), f"{config}:", *parts)
    assert not (tmp_path / "run").exists()


def test_all_problems_of_a_file_come_at_once(evovlm: Command, models: Path, problems: Path, tmp_path: Path) -> None:
    wrong = {
        "merge": {"base": str(models / "base"), "sources": {"ja": str(models / "ja")}, "method": "dare_tie"},
        "optimizer": {"population": 2},
        "budget": {"candidate": 100},
        "tasks": [{"name": "emoji", "limit": 0}],
    }
    config = write_config(tmp_path / "wrong.yaml", models=models, problems=problems, **wrong)
    outcome = evovlm("evolve", config, "--out", tmp_path / "run")
    refused(
        outcome,
        "did you mean 'dare_ties'?",
        "optimizer.population",
        "budget.candidate: unknown key; did you mean 'candidates'?",
        "tasks[0].name",
        "tasks[0].limit",
    )
    assert f"{config} has 5 problems:" in outcome.err
    lines = config.read_text().splitlines()
    for line in outcome.err.splitlines()[1:]:
        number = int(line.removeprefix(f"    {config}:").split(":")[0])
        assert 1 <= number <= len(lines)


def test_a_missing_config_is_named(evovlm: Command, tmp_path: Path) -> None:
    refused(evovlm("evolve", tmp_path / "none.yaml", "--out", tmp_path / "run"), "none.yaml")


def test_missing_models_and_files_in_a_config_are_named(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    merge = {"base": "./no-base", "sources": {"ja": str(models / "ja")}, "method": "ties"}
    config = write_config(tmp_path / "wrong.yaml", models=models, problems=problems, merge=merge)
    refused(evovlm("evolve", config, "--out", tmp_path / "run"), "./no-base")
    tasks = [{"name": "word_problems_ja", "data": "no-such.jsonl"}]
    config = write_config(tmp_path / "wrong.yaml", models=models, problems=problems, tasks=tasks)
    refused(evovlm("evolve", config, "--out", tmp_path / "run"), "no-such.jsonl")


def test_a_budget_under_one_generation_is_refused(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "wrong.yaml", models=models, problems=problems, budget={"candidates": 3})
    refused(evovlm("evolve", config, "--out", tmp_path / "run"), "3", "one generation", "4 candidates", "Raise the")


def test_an_existing_folder_is_refused_and_not_changed(evovlm: Command, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    refused(evovlm("evolve", config, "--out", run), str(run), "another folder")
    refused(evovlm("evolve", config, "--out", run, "--resume"), "journal.jsonl")
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_a_run_that_exists_is_refused_and_resuming_is_offered(evovlm: Command, config: Path, finished: Path) -> None:
    refused(evovlm("evolve", config, "--out", finished), "--resume")


def test_resuming_with_a_changed_config_says_what_changed(
    evovlm: Command, models: Path, problems: Path, finished: Path, tmp_path: Path
) -> None:
    journal = (finished / "journal.jsonl").read_bytes()
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, seed=8, space={"kind": "layer"})
    outcome = evovlm("evolve", config, "--out", finished, "--resume")
    refused(outcome, "seed: 7 -> 8", "space.kind: model -> layer")
    assert "budget" not in outcome.err
    assert (finished / "journal.jsonl").read_bytes() == journal


def test_a_model_without_a_tokenizer_is_refused(evovlm: Command, models: Path, problems: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(models / "base", tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    merge = {"base": str(bare), "sources": {"ja": str(models / "ja")}, "method": "ties"}
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, merge=merge)
    refused(evovlm("evolve", config, "--out", tmp_path / "run"), str(bare), "tokenizer")


def test_pickled_weights_are_refused(evovlm: Command, models: Path, problems: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(models / "ja", tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, pickled / "pytorch_model.bin")
    merge = {"base": str(models / "base"), "sources": {"ja": str(pickled)}, "method": "ties"}
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, merge=merge)
    refused(evovlm("evolve", config, "--out", tmp_path / "run"), str(pickled), "safetensors")


def test_show_refuses_a_folder_that_is_not_a_run(evovlm: Command, tmp_path: Path) -> None:
    refused(evovlm("show", tmp_path), str(tmp_path), "journal.jsonl")
    refused(evovlm("show", tmp_path / "none"), "none")


def test_a_journal_that_was_changed_is_refused(evovlm: Command, config: Path, finished: Path) -> None:
    lines = (finished / "journal.jsonl").read_text().splitlines(keepends=True)
    row = json.loads(lines[2])
    row["genome"][0] = 0.123
    changed = [*lines[:2], json.dumps(row) + "\n", *lines[3:-1]]
    (finished / "journal.jsonl").write_text("".join(changed))
    refused(evovlm("evolve", config, "--out", finished, "--resume"), "candidate 1", "changed")


def test_a_missing_file_and_a_search_in_place_of_a_recipe_are_explained(evovlm: Command, tmp_path: Path) -> None:
    missing = evovlm("check", tmp_path / "none.yaml")
    assert (missing.code, "none.yaml: this file does not exist." in missing.err) == (2, True)
    (tmp_path / "search.yaml").write_text("format: 1\nkind: evolve\n")
    refused = evovlm("merge", tmp_path / "search.yaml", "--out", tmp_path / "out")
    assert (refused.code, "`evovlm evolve` runs it" in refused.err) == (2, True)
