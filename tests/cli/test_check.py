"""`evovlm check`: the problems of a merge or a search."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.recipes.writing import recipe_to_yaml
from tests.cli.conftest import Command, write_config
from tests.pico import pico_llm
from tests.pico_clip import pico_clip


def write_recipe(folder: Path, *, base: Path, source: Path) -> Path:
    recipe = ParameterMerge(
        base=ModelRef(text=str(base)),
        host=ModelRef(text=str(base)),
        sources={"other": ModelRef(text=str(source))},
        method="ties",
        parameters={"other": SourceParameters(weight=0.5)},
    )
    path = folder / "recipe.yaml"
    path.write_text(recipe_to_yaml(recipe))
    return path


def test_a_recipe_that_works_is_described(evovlm: Command, models: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, base=models / "base", source=models / "math")
    shown = evovlm("check", recipe, "--out", tmp_path / "out")
    assert shown.code == 0, shown
    for part in ("sources.other", "mistral", "2 x 32", "F32", "the result:", "names no licence", "no problems found"):
        assert part in shown.out
    told = json.loads(evovlm("check", recipe, "--json").out)
    assert told["ok"] is True
    assert [model["name"] for model in told["models"]] == ["base", "host", "sources.other"]
    assert told["licence"] is None


def test_every_problem_is_shown_and_the_exit_code_says_so(evovlm: Command, models: Path, tmp_path: Path) -> None:
    deeper = pico_llm(tmp_path / "deeper", n_blocks=3)
    recipe = write_recipe(tmp_path, base=models / "base", source=deeper)
    (tmp_path / "out").mkdir()
    shown = evovlm("check", recipe, "--out", tmp_path / "out")
    assert shown.code == 2
    assert "error: sources.other" in shown.out
    assert "exists already" in shown.out
    told = evovlm("check", recipe, "--out", tmp_path / "out", "--json")
    assert told.code == 2
    assert [error["kind"] for error in json.loads(told.out)["errors"]] == ["IncompatibleModels", "OutputExists"]
    merged = evovlm("merge", recipe, "--out", tmp_path / "out")
    assert merged.code == 2
    assert "has 3 blocks" in merged.err
    assert "exists already" in merged.err


def test_a_search_is_checked_with_its_device_and_budget(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems)
    shown = evovlm("check", config)
    assert shown.code == 0
    assert "the search: 4 genes, 4 candidates a generation, 2 generations in the budget" in shown.out
    layers = {"space": {"kind": "layer"}, "optimizer": {"kind": "cma"}, "budget": {"candidates": 10}}
    deeper = pico_llm(tmp_path / "deeper", n_blocks=3)
    merge = {"base": str(models / "base"), "sources": {"other": str(deeper)}, "method": "ties"}
    config = write_config(
        tmp_path / "wrong.yaml", models=models, problems=problems, merge=merge, device="cuda:99", **layers
    )
    told = json.loads(evovlm("check", config, "--json").out)
    kinds = [error["kind"] for error in told["errors"]]
    assert kinds[0] == "IncompatibleModels"
    assert kinds[1:] == ["ConfigError"] * (len(kinds) - 1)
    assert "'cuda:99' was not found" in told["errors"][1]["message"]
    refused = evovlm("evolve", config, "--out", tmp_path / "run")
    assert refused.code == 2
    assert "has 3 blocks" in refused.err
    assert "cuda:99" in refused.err


@pytest.mark.parametrize("device", ["mps", *(pytest.param(each, marks=pytest.mark.slow) for each in ("xpu", "xpu:0"))])
def test_a_search_on_another_kind_of_gpu_is_checked(
    device: str, evovlm: Command, models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, device=device)
    refused = evovlm("check", config)
    assert refused.code == 2
    assert f"device: '{device}' was not found; torch finds 0 {device[:3].upper()} (" in refused.out
    assert evovlm("evolve", config, "--out", tmp_path / "run").code == 2
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.xpu.device_count", lambda: 1)
    shown = evovlm("check", config)
    assert shown.code == 0, shown


def test_a_search_with_choices_and_a_start_says_how_large_it_is_and_how_far_its_start_lies(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "search.yaml",
        models=models,
        problems=problems,
        space={"kind": "component", "choices": {"method": ["dare_ties", "ties"], "config_from": ["host", "math"]}},
        start={"equal": 1.25},
        optimizer={"kind": "cma"},
        budget={"candidates": 20},
    )
    shown = evovlm("check", config)
    assert shown.code == 0, shown
    # Weight and density of four components of two sources, and the choices: 4 + floor(3 ln 18) candidates.
    assert (
        "the search: 18 genes (2 of them choose among options), 12 candidates a generation, 1 generation in the budget"
        in shown.out
    )
    assert "warning: start: this space holds the recipe to within 0.25" in shown.out
    told = json.loads(evovlm("check", config, "--json").out)
    assert told["search"] == {"genes": 18, "categorical": 2, "population": 12, "generations": 1}
    few = write_config(
        tmp_path / "few.yaml", models=models, problems=problems, space={"kind": "interpolated", "knots": 3}
    )
    refused = evovlm("check", few)
    assert refused.code == 2
    assert "error: knots: 3 is more than the models have blocks (2)" in refused.out


def test_what_is_not_a_recipe_is_still_refused(evovlm: Command, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("kind: something\n")
    shown = evovlm("check", tmp_path / "wrong.yaml")
    assert shown.code == 2
    assert "kind" in shown.err


def test_near_pictures_of_a_search_are_reported_on_request(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    for name in ("train", "test"):
        colour = (200, 0, 0) if name == "train" else (202, 0, 0)
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
        row = {"question": "何色?", "answer": "赤", "image": f"{name}.png"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    (tmp_path / "seen.yaml").write_text(
        "name: seen\nsplits: {search: train, report: test}\ncolumns: {image: image}\nprompt: ja-shisa-vqa\n"
        "metric: exact_match\n"
    )
    clip = pico_clip(tmp_path / "clip")
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems)
    document = yaml.safe_load(config.read_text())
    merge = {**document["merge"], "host": str(models / "vlm"), "sources": {"vlm": str(models / "vlm")}}
    config.write_text(yaml.safe_dump({**document, "merge": merge, "tasks": [{"name": "seen.yaml"}]}))
    assert "look like" not in evovlm("check", config).out
    shown = evovlm("check", config, "--near-pictures", clip, "--near-threshold", 0.99)
    assert shown.code == 0, shown
    assert "a search on seen sees pictures similar to those of 1 of the report samples" in shown.out
    alone = evovlm("check", config, "--near-threshold", 0.99)
    assert alone.code == 2
    assert "needs a model" in alone.err
    recipe = write_recipe(tmp_path, base=models / "base", source=models / "math")
    refused = evovlm("check", recipe, "--near-pictures", clip)
    assert refused.code == 2
    assert "is not the config of a search" in refused.err


def test_memory_is_counted_for_a_gpu_that_this_machine_does_not_have(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems)
    shown = evovlm("check", config, "--gpu", "24")
    assert shown.code == 0, shown
    assert "a GPU of 24.0 GB (23.4 GB free):\n  the model: " in shown.out
    assert " at once\n" in shown.out
    recipe = write_recipe(tmp_path, base=models / "base", source=models / "math")
    refused = evovlm("check", recipe, "--gpu", "24")
    assert (refused.code, "Leave out --gpu" in refused.err) == (2, True)
