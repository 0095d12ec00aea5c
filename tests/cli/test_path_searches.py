"""The commands on searches through layers: evolve, show, check, and the model that comes of it."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from evovlm.recipes.documents import load_recipe
from tests.cli.conftest import Command
from tests.marks import quick_and_slow
from tests.pico import pico_llm, pico_vlm
from tests.pico_zoo import picture_row, write_rows

CONFIGS = Path(__file__).parents[2] / "configs"


def path_search(models: Path, problems: Path) -> dict[str, object]:
    """Return a search of 2 generations of 4 candidates."""
    return {
        "format": 1,
        "kind": "evolve",
        "merge": {
            "kind": "layer_path",
            "host": str(models / "ja"),
            "sources": {"ja": str(models / "ja"), "math": str(models / "math")},
            "scale_target": "pending",
        },
        "space": {"repetitions": 2},
        "optimizer": {"kind": "catcma", "population": 4},
        "budget": {"candidates": 8},
        "tasks": [{"name": "word_problems_ja", "data": str(problems)}],
        "batch": 1,
        "validation": 1,
    }


def hybrid_search(models: Path, problems: Path) -> dict[str, object]:
    """Return a hybrid of 4 candidates in each stage."""
    path = path_search(models, problems)
    sources = {"ja": str(models / "ja")}
    return {
        "format": 1,
        "kind": "hybrid",
        "tasks": path["tasks"],
        "stages": {
            "ps": {
                "merge": {"base": str(models / "base"), "sources": sources, "method": "task_arithmetic"},
                "optimizer": {"population": 4},
                "budget": {"candidates": 4},
            },
            "path": {
                "merge": {"kind": "layer_path", "sources": sources, "scale_target": "pending"},
                "optimizer": {"population": 4},
                "budget": {"candidates": 4},
                "batch": 1,
                "validation": 1,
            },
        },
    }


def written(path: Path, document: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("search", [path_search, hybrid_search], ids=["path", "hybrid"])
def test_a_search_through_layers_ends_in_a_stock_model(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path, search: object
) -> None:
    config = written(tmp_path / "search.yaml", search(models, problems))  # type: ignore[operator]
    told = evovlm("evolve", config, "--out", tmp_path / "run", "--checkpoint", tmp_path / "model", "--json")
    assert told.code == 0, told
    result = json.loads(told.out)
    recipe = load_recipe(Path(result["recipe"]))
    assert f"the result: {len(recipe.path)} blocks, 0.0" in told.err
    assert (result["winner"], recipe.recipe_id) == ("snapshot", result["recipe_id"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert len(model.model.layers) == len(recipe.path)

    shown = evovlm("show", tmp_path / "run")
    assert shown.code == 0, shown
    assert f"the mean that did best on the validation samples: a path of {len(recipe.path)} hops" in shown.out
    assert "each generation on 1 new samples" in shown.out
    assert "  validation " in shown.out
    assert ("the second stage (path) of two; the first: evovlm show " in shown.out) == (search is hybrid_search)
    assert json.loads(evovlm("show", tmp_path / "run", "--json").out)["path"] == recipe.path.canonical()
    assert evovlm("show", result["recipe"], "--svg", tmp_path / "path.svg").code == 0
    assert evovlm("show", tmp_path / "run", "--svg", tmp_path / "of-run.svg").code == 0
    assert (tmp_path / "of-run.svg").read_bytes() == (tmp_path / "path.svg").read_bytes()
    again = evovlm("evolve", config, "--out", tmp_path / "run", "--resume")
    assert again.code == 0, again
    assert "fitness" in again.out


def written_samples(folder: Path) -> None:
    """Write as many problems as GSM8K-ja has for a search, and as many pictures as JA-VG-VQA has."""
    problem = {"question": "1と2で?", "number": 3, "tags": []}
    lines = [json.dumps({**problem, "id": f"p{n}"}, ensure_ascii=False) for n in range(1069)]
    (folder / "problems.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_rows(folder / "pictures.jsonl", [picture_row("search", number) for number in range(1000)])


@pytest.mark.parametrize("name", quick_and_slow([path.stem for path in sorted(CONFIGS.glob("paper-*.yaml"))], quick=3))
def test_the_paper_s_configs_hold_on_pico_models_of_their_architecture(
    evovlm: Command, tmp_path: Path, name: str
) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    base = pico_llm(tmp_path / "base", sliding_window=32)
    for model in ("mistralai/Mistral-7B-v0.1", "augmxnt/shisa-gamma-7b-v1", "WizardLMTeam/WizardMath-7B-V1.1"):
        text = text.replace(model, str(base))
    # As Abel has: more rows of vocabulary, which a path through its blocks never meets.
    abel = pico_llm(tmp_path / "abel", sliding_window=32, like=base, seed=1, vocab_rows=600)
    # As LLaVA-1.6-Mistral has: further rows, no window, and another rope_theta.
    llava = pico_vlm(tmp_path / "llava", family="llava_next", extra_rows=64, rope_theta=1e6)
    text = text.replace("GAIR/Abel-7B-002", str(abel)).replace("llava-hf/llava-v1.6-mistral-7b-hf", str(llava))
    text = text.replace("{name: gsm8k_ja,", "{name: word_problems_ja, data: problems.jsonl,")
    text = text.replace("{name: ja_vg_vqa}", "{name: emoji_ja, data: pictures.jsonl}")
    written_samples(tmp_path)
    config = tmp_path / f"{name}.yaml"
    config.write_text(text.replace("device: cuda", "device: cpu"), encoding="utf-8")
    told = evovlm("check", config, "--json")
    assert told.code == 0, told
    found = json.loads(told.out)
    assert found["ok"] is True
    assert {model["text"] for model in found["models"]} <= {str(folder) for folder in (base, abel, llava)}
    # 3 repetitions of 2 models of 2 blocks each.
    assert found["result"]["n_blocks"] == (2 if name in ("paper-evollm", "paper-evovlm") else 12)
    assert any("rope_theta" in warning for warning in found["warnings"]) == name.endswith("vlm")


def test_check_finds_what_does_not_fit_in_a_path_and_too_few_samples(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    document = path_search(models, problems)
    other = pico_llm(tmp_path / "qwen", family="qwen2", seed=9)
    document["merge"]["sources"]["math"] = str(other)  # type: ignore[index]
    document["validation"] = 3
    told = evovlm("check", written(tmp_path / "search.yaml", document), "--json")
    assert told.code == 2
    kinds = {error["kind"] for error in json.loads(told.out)["errors"]}
    assert kinds == {"IncompatibleModels", "ConfigError"}


def test_the_spaces_of_paths_are_listed(evovlm: Command) -> None:
    rows = {row["name"]: row for row in json.loads(evovlm("spaces", "--json").out)}
    assert rows["path, scales per_position"]["dim_for_two_sources_of_32_blocks"] == 382
    assert set(rows) >= {"model", "layer", "path, scales none", "path, scales pairwise", "path, scales network"}
