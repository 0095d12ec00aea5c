"""A path chats and stops like the source that its recipe names: written, in memory, and in a hybrid."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evovlm.errors import ConfigError
from evovlm.evaluation.loadable import check_loads
from evovlm.evaluation.resident import load_recipe_model
from evovlm.merging.before.preflight import preflight_recipe
from evovlm.merging.writer import write_checkpoint
from evovlm.models.decoding.generation import generate
from evovlm.models.prompt import prepare_prompts
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import HybridMerge, PathTemplate, Recipe
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.tasks.prompts import Question
from evovlm.tasks.task import Decoding
from tests.merging.chatting import ANSWER, END, ROWS, START, TEMPLATE, chatting_models
from tests.merging.recipes import make_recipe

QUESTION = Question(text="何", chat=True)
PATH = LayerPath(steps=(LayerStep(source="base", layer=0), LayerStep(source="chat", layer=1)))
TEXT = TEMPLATE.replace("{{ eos_token }}", END)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chatting_models(tmp_path_factory.mktemp("talking"))


def path_merge(models: Path, **fields: Any) -> LayerPathMerge:
    refs = {name: ModelRef(text=str(models / name)) for name in ("base", "math", "chat")}
    given = {"host": refs["base"], "sources": refs, "path": PATH, "scale_target": "stream", **fields}
    return LayerPathMerge(**given)


def check_chats(recipe: Recipe, out: Path) -> None:
    """Check that the written model and the one in memory answer the same in a chat, and stop."""
    write_checkpoint(recipe, out, check=check_loads)
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    chat = [{"role": "user", "content": "何"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == f"{START}user\n何{END}\n{START}assistant\n"
    (answer,) = model.generate(ids, do_sample=False, max_new_tokens=9)[:, ids.shape[1] :]
    assert tokenizer.decode(answer) == f"{ANSWER}{END}"
    loaded = load_recipe_model(recipe, device="cpu")
    found = generate(loaded, prepare_prompts(loaded, [QUESTION]), decoding=Decoding(max_new_tokens=9))
    assert (found.texts, found.tokens) == ((ANSWER,), 1)
    with torch.inference_mode():
        assert torch.equal(model.eval()(ids).logits, loaded.model(ids).logits)


@pytest.mark.parametrize(
    "choices",
    [{"chat_template": "auto"}, {"chat_template": "chat"}, {"chat_template": TEXT, "generation": "math"}],
    ids=["auto", "a source", "a text"],
)
def test_a_path_has_template_tokens_and_stop_of_a_source(
    talking: Path, tmp_path: Path, choices: dict[str, str]
) -> None:
    recipe = path_merge(talking, **choices)
    check_chats(recipe, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids([START, END]) == [ROWS, ROWS + 1]
    written = load_file(tmp_path / "out" / "model.safetensors")
    rows = {name: load_file(talking / name / "model.safetensors")["lm_head.weight"][ROWS:] for name in ("math", "chat")}
    named = rows["chat"] if choices["chat_template"] == "chat" else (rows["math"] + rows["chat"]) / 2
    assert torch.equal(written["lm_head.weight"][ROWS:], named)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == ROWS + 2
    assert preflight_recipe(recipe).problems == ()


def test_a_path_without_a_choice_says_what_its_host_lacks(talking: Path, tmp_path: Path) -> None:
    written = write_checkpoint(path_merge(talking), tmp_path / "out")
    assert [warning for warning in written.warnings if "template" in warning] == [
        f"sources.chat has a chat template and the stop token '{END}', which host ('{talking / 'base'}') lacks: the "
        "result would not chat or stop as it does. Write `chat_template: auto` in the recipe to take them."
    ]
    assert not (tmp_path / "out" / "chat_template.jinja").exists()


def test_the_first_stage_of_a_hybrid_gives_the_path_its_chat(talking: Path, tmp_path: Path) -> None:
    first = make_recipe(talking, {"math": (0.5, 1.0), "chat": (0.5, 1.0)}, method="linear")
    path = LayerPath(steps=(LayerStep(source="ps", layer=0), LayerStep(source="base", layer=1)))
    sources = {"base": ModelRef(text=str(talking / "base"))}
    hybrid = HybridMerge(ps=replace(first, chat_template="auto"), sources=sources, path=path, scale_target="pending")
    check_chats(hybrid, tmp_path / "out")
    found = preflight_recipe(hybrid)
    assert found.chat is not None
    assert found.chat.template == TEMPLATE


def test_the_choices_are_read_written_and_part_of_the_id(talking: Path, tmp_path: Path) -> None:
    plain = path_merge(talking)
    for choices in ({"chat_template": TEXT}, {"generation": "chat"}, {"chat_template": "auto", "generation": "host"}):
        recipe = path_merge(talking, **choices)
        assert recipe.recipe_id != plain.recipe_id
        (tmp_path / "path.yaml").write_text(recipe_to_yaml(recipe))
        assert load_recipe(tmp_path / "path.yaml").recipe_id == recipe.recipe_id
    assert path_merge(talking, chat_template="host", generation="host") == plain
    template = PathTemplate(host=plain.host, sources=plain.sources, scale_target="stream", chat_template="chat")
    assert template.recipe(PATH) == path_merge(talking, chat_template="chat")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"chat_template": "nobody"}, r"chat_template: 'nobody' is not one of auto, host, base, chat, math"),
        ({"generation": "nobody"}, r"generation: 'nobody' is not one of auto, host"),
    ],
)
def test_a_source_that_does_not_exist_is_refused(talking: Path, choices: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        path_merge(talking, **choices)


def test_a_giver_need_not_be_on_the_path_and_needs_a_template(talking: Path, tmp_path: Path) -> None:
    recipe = path_merge(talking, chat_template="math")
    assert "sources.math" in recipe.models()
    check_chats(recipe, tmp_path / "out")
    copy = Path(shutil.copytree(talking, tmp_path / "own"))
    (copy / "math" / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"chat_template: sources.math .* does not have a chat template"):
        write_checkpoint(path_merge(copy, chat_template="math"), tmp_path / "none")
