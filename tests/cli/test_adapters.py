"""Commands with LoRA adapters in the place of models."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.cli.conftest import Command, short_task, write_config
from tests.merging.adapters import merged_by_peft, pico_adapter


@pytest.fixture(scope="module")
def adapters(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two adapters, math and ja, of the model `base`."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("math", "ja")):
        pico_adapter(folder / name, models / "base", seed=seed)
        (folder / name / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    return folder


def recipe(path: Path, models: Path, adapters: Path) -> Path:
    document = {
        "format": 1,
        "kind": "parameter_merge",
        "base": str(models / "base"),
        # One with its model, one alone.
        "sources": {"math": f"{models / 'base'}+{adapters / 'math'}", "ja": str(adapters / "ja")},
        "method": "dare_ties",
        "parameters": {"math": {"weight": 0.6, "density": 0.7}, "ja": {"weight": 0.4, "density": 1.0}},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_recipe_of_adapters_is_checked_and_merged(
    evovlm: Command, models: Path, adapters: Path, tmp_path: Path
) -> None:
    file = recipe(tmp_path / "recipe.yaml", models, adapters)
    checked = evovlm("check", file, "--json")
    assert checked.code == 0, checked
    found = json.loads(checked.out)
    licences = {model["name"]: model["licence"] for model in found["models"]}
    assert "cc-by-nc-4.0" in licences["sources.ja"]
    assert found["licence"] == "cc-by-nc-4.0"
    merged = evovlm("merge", file, "--out", tmp_path / "out")
    assert merged.code == 0, merged
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its adapter" in card
    # The recipe beside the result makes the same bytes again.
    again = evovlm("merge", tmp_path / "out" / "recipe.yaml", "--out", tmp_path / "again")
    assert again.code == 0, again
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights
    refused = evovlm("merge", file, "--out", adapters / "ja", "--overwrite")
    assert refused.code == 2
    assert (adapters / "ja" / "adapter_config.json").is_file()


def test_one_adapter_of_weight_1_is_what_peft_merges(
    evovlm: Command, models: Path, adapters: Path, tmp_path: Path
) -> None:
    document = yaml.safe_load(recipe(tmp_path / "recipe.yaml", models, adapters).read_text())
    document |= {
        "sources": {"ja": str(adapters / "ja")},
        "method": "task_arithmetic",
        "parameters": {"ja": {"weight": 1}},
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(document))
    assert evovlm("merge", tmp_path / "one.yaml", "--out", tmp_path / "out").code == 0
    wanted = merged_by_peft(models / "base", adapters / "ja").state_dict()
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert (tensor - wanted[name]).abs().max() <= 1e-6, name


def test_a_search_over_adapters_of_one_model_runs_and_its_winner_is_scored(
    evovlm: Command, models: Path, adapters: Path, problems: Path, tmp_path: Path
) -> None:
    merge = {
        "base": str(models / "base"),
        "sources": {name: f"{models / 'base'}+{adapters / name}" for name in ("math", "ja")},
        "method": "dare_ties",
        "settings": {"rescale": "l1"},
    }
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, merge=merge)
    assert evovlm("check", config).code == 0
    run = evovlm("evolve", config, "--out", tmp_path / "run", "--checkpoint", tmp_path / "model")
    assert run.code == 0, run
    best = yaml.safe_load((tmp_path / "run" / "best.yaml").read_text())
    assert set(best["sources"]) == {"math", "ja"}
    assert all("+" in text for text in best["sources"].values())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert loaded.config.model_type == "mistral"
    task = short_task(problems)["name"]
    scored = evovlm(
        "score",
        f"{models / 'base'}+{adapters / 'ja'}",
        adapters / "math",
        tmp_path / "run" / "best.yaml",
        "--task",
        str(task),
        "--device",
        "cpu",
        "--save",
        tmp_path / "saved",
    )
    assert scored.code == 0, scored
    export = ("export", tmp_path / "run", "--pick", "best", "--out")
    for command in (
        ("show", tmp_path / "run"),
        ("report", tmp_path / "run"),
        (*export, tmp_path / "picked.yaml"),
        (*export, tmp_path / "mergekit.yaml", "--format", "mergekit"),
    ):
        shown = evovlm(*command)
        assert shown.code == 0, shown
    # mergekit names adapters in the same way.
    back = evovlm("merge", tmp_path / "mergekit.yaml", "--out", tmp_path / "back")
    assert back.code == 0, back
    assert f'model: "{models / "base"}+{adapters / "ja"}"' in (tmp_path / "mergekit.yaml").read_text()


def test_init_writes_a_search_over_adapters(evovlm: Command, models: Path, adapters: Path, tmp_path: Path) -> None:
    made = evovlm(
        "init",
        "llm",
        "--base",
        models / "base",
        "--source",
        f"math={models / 'base'}+{adapters / 'math'}",
        "--source",
        f"{models / 'base'}+{adapters / 'ja'}",
        "--task",
        "word_problems_ja",
        "--out",
        tmp_path / "mine.yaml",
    )
    assert made.code == 0, made
    sources = yaml.safe_load((tmp_path / "mine.yaml").read_text())["merge"]["sources"]
    assert set(sources) == {"math", "ja"}
    checked = evovlm("check", tmp_path / "mine.yaml")
    assert checked.code == 0, checked


@pytest.mark.parametrize("command", ["check", "merge"])
def test_a_broken_adapter_is_one_clear_problem(
    evovlm: Command, models: Path, adapters: Path, tmp_path: Path, command: str
) -> None:
    file = recipe(tmp_path / "recipe.yaml", models, adapters)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text((adapters / "ja" / "adapter_config.json").read_text())
    file.write_text(file.read_text().replace(str(adapters / "ja"), str(broken)))
    out = ("--out", tmp_path / "out") if command == "merge" else ()
    told = evovlm(command, file, *out)
    assert told.code == 2
    assert "adapter_model.safetensors, are missing" in (told.out + told.err).replace("\n", " ")
    assert not (tmp_path / "out").exists()
