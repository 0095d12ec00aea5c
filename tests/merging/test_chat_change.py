"""A merged model chats and stops like the model that its recipe names; a merge says what its host lacks for that."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from evovlm.errors import ConfigError, IncompatibleModels
from evovlm.evaluation.resident import load_merged
from evovlm.merging.before.preflight import preflight
from evovlm.merging.merge import Merger
from evovlm.merging.writer import write_checkpoint
from evovlm.models.decoding.generation import generate
from evovlm.models.prompt import prepare_prompts
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.tasks.prompts import Question
from evovlm.tasks.task import Decoding
from tests.merging.chatting import ANSWER, END, ROWS, START, TEMPLATE, change_json, chatting_models, speak
from tests.merging.recipes import make_recipe, merge_all, same_bytes

QUESTION = Question(text="何", chat=True)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chatting_models(tmp_path_factory.mktemp("talking"))


@pytest.fixture
def own(talking: Path, tmp_path: Path) -> Path:
    """The models as a copy that a test may change."""
    return Path(shutil.copytree(talking, tmp_path / "own"))


def recipe(models: Path, **fields: Any) -> ParameterMerge:
    return replace(make_recipe(models, {"math": (0.5, 1.0), "chat": (0.5, 1.0)}, method="linear"), **fields)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("README.md", "recipe.yaml")}


@pytest.mark.parametrize("choice", ["auto", "chat"])
def test_the_result_has_template_tokens_and_stop_of_the_source_and_stops(
    talking: Path, tmp_path: Path, choice: str
) -> None:
    merge = recipe(talking, chat_template=choice)
    written = write_checkpoint(merge, tmp_path / "out")
    assert [w for w in written.warnings if "row" in w] == [
        f"2 added tokens ('{END}', '{START}') take the rows {ROWS} to {ROWS + 1}; vocab_size grows from {ROWS} to "
        f"{ROWS + 2}."
    ]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.chat_template, tokenizer.eos_token) == (TEMPLATE, END)
    assert tokenizer.convert_tokens_to_ids([START, END]) == [ROWS, ROWS + 1]
    chat = [{"role": "user", "content": "何"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == f"{START}user\n何{END}\n{START}assistant\n"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    stops = model.generation_config.eos_token_id
    assert stops == ([ROWS + 1] if choice == "chat" else ROWS + 1 if isinstance(stops, int) else [ROWS + 1])
    (answer,) = model.generate(ids, do_sample=False, max_new_tokens=9)[:, ids.shape[1] :]
    assert tokenizer.decode(answer) == f"{ANSWER}{END}"
    loaded = load_merged(merge)
    found = generate(loaded, prepare_prompts(loaded, [QUESTION]), decoding=Decoding(max_new_tokens=9))
    assert (found.texts, found.tokens) == ((ANSWER,), 1)


def test_without_a_choice_every_file_and_byte_is_the_hosts(talking: Path, tmp_path: Path) -> None:
    written = write_checkpoint(recipe(talking), tmp_path / "out")
    host, result = files(talking / "base"), files(tmp_path / "out")
    assert {name: data for name, data in result.items() if name in host and name != "model.safetensors"} == {
        name: data for name, data in host.items() if name != "model.safetensors"
    }
    assert set(result) == set(host)
    assert written.warnings == (
        f"sources.chat and sources.math share a chat template, the stop token '{END}' and the added tokens '{END}', "
        f"'{START}', which host ('base') lacks: the result would not chat or stop as they do. Write "
        "`chat_template: auto` in the recipe to take them.",
    )
    assert preflight(recipe(talking)).warnings == written.warnings


def test_the_weights_are_the_same_with_a_template(talking: Path) -> None:
    plain, chatting = merge_all(recipe(talking)), merge_all(recipe(talking, chat_template="auto"))
    cut = {name: tensor[:ROWS] if len(tensor) == ROWS + 2 else tensor for name, tensor in chatting.items()}
    assert same_bytes(plain, cut)
    rows = [load_file(talking / name / "model.safetensors")["lm_head.weight"][ROWS:] for name in ("math", "chat")]
    assert torch.equal(chatting["lm_head.weight"][ROWS:], (rows[0] + rows[1]) / 2)


def test_the_parts_can_be_chosen_apart(talking: Path, tmp_path: Path) -> None:
    write_checkpoint(recipe(talking, generation="math"), tmp_path / "stops")
    assert not (tmp_path / "stops" / "chat_template.jinja").exists()
    stops = GenerationConfig.from_pretrained(tmp_path / "stops")
    assert (stops.eos_token_id, stops.temperature) == ([ROWS], 0.5)
    assert AutoTokenizer.from_pretrained(tmp_path / "stops").convert_tokens_to_ids(END) == ROWS
    write_checkpoint(recipe(talking, chat_template="math", generation="host"), tmp_path / "template")
    assert (tmp_path / "template" / "chat_template.jinja").read_text() == TEMPLATE
    host = (talking / "base" / "generation_config.json").read_bytes()
    assert (tmp_path / "template" / "generation_config.json").read_bytes() == host


def test_templates_in_any_file_are_read_and_none_of_the_hosts_stays(own: Path, tmp_path: Path) -> None:
    (own / "math" / "chat_template.jinja").unlink()
    listed = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "tools"}]
    change_json(own / "math" / "tokenizer_config.json", chat_template=listed)
    change_json(own / "base" / "tokenizer_config.json", chat_template="the host's")
    change_json(own / "base" / "chat_template.json", chat_template="the host's")
    write_checkpoint(recipe(own, chat_template="math"), tmp_path / "out")
    assert not (tmp_path / "out" / "chat_template.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == {"default": TEMPLATE, "tool_use": "tools"}


def test_auto_refuses_templates_that_differ_and_abstains_without_one(own: Path) -> None:
    speak(own / "math", "another {{ messages[0]['content'] }}")
    with pytest.raises(ConfigError, match="those of chat and math differ") as error:
        Merger.open(recipe(own, chat_template="auto"))
    assert "`chat_template: chat`" in str(error.value)
    (warning,) = Merger.open(recipe(own)).warnings
    assert "sources.chat and sources.math have different chat templates, the stop token" in warning
    assert "`chat_template: chat` in the recipe to take them, or name another model." in warning
    (own / "math" / "chat_template.jinja").unlink()
    result = Merger.open(recipe(own, chat_template="auto")).result
    assert result.chat is not None
    assert result.chat.template == TEMPLATE
    (own / "chat" / "chat_template.jinja").unlink()
    assert "chat_template: auto: no source has a chat template; the result keeps that of the host." in (
        Merger.open(recipe(own, chat_template="auto")).warnings
    )


def test_what_cannot_be_taken_is_refused_with_what_to_do(own: Path) -> None:
    with pytest.raises(ConfigError, match="'nobody' is not one of auto, host, base, chat, math"):
        recipe(own, chat_template="nobody")
    with pytest.raises(ConfigError, match="does not have a chat template"):
        Merger.open(recipe(own, chat_template="base"))
    with pytest.raises(IncompatibleModels, match="`vocabulary: base_rows` adds no rows"):
        Merger.open(recipe(own, chat_template="math", vocabulary="base_rows"))
    change_json(own / "math" / "generation_config.json", eos_token_id=ROWS + 9)
    with pytest.raises(ConfigError, match="does not name"):
        Merger.open(recipe(own, chat_template="math"))


def test_rows_of_generation_settings_are_the_hosts_own(own: Path) -> None:
    tokenizer = json.loads((own / "base" / "tokenizer.json").read_text())
    known = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    change_json(own / "math" / "generation_config.json", eos_token_id=[ROWS + 1, known["</s>"]], pad_token_id=ROWS + 9)
    merger = Merger.open(recipe(own, generation="math"))
    assert merger.result.chat is not None
    written = merger.result.chat.generation_config(merger.token_rows())
    assert written is not None
    assert written["eos_token_id"] == [ROWS, known["</s>"]]
    assert "pad_token_id" not in written
    assert "generation: pad_token_id is left out: it names a row that is not a token's." in merger.warnings


def test_a_recipe_with_a_template_is_read_back_and_its_id_counts_it(talking: Path, tmp_path: Path) -> None:
    merge = recipe(talking, chat_template="auto", generation="host")
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(merge, folder=tmp_path))
    assert load_recipe(tmp_path / "recipe.yaml").recipe_id == merge.recipe_id != recipe(talking).recipe_id
    assert recipe(talking, chat_template="host", generation="host").recipe_id == recipe(talking).recipe_id
    assert recipe(talking, chat_template="auto", generation="auto") == recipe(talking, chat_template="auto")


def test_different_positions_are_reported(own: Path) -> None:
    change_json(own / "math" / "config.json", max_position_embeddings=64)
    assert any(
        "max_position_embeddings is 512 in" in each or "max_position" in each
        for each in Merger.open(recipe(own)).warnings
    )


@pytest.mark.parametrize("key", ["(_token", "(a+)+b_token", "[_token"])
def test_names_of_special_tokens_are_texts_not_patterns(own: Path, tmp_path: Path, key: str) -> None:
    change_json(own / "chat" / "tokenizer_config.json", **{key: END})
    (own / "chat" / "chat_template.jinja").write_text("a" * 60 + TEMPLATE)
    write_checkpoint(recipe(own, chat_template="chat"), tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "a" * 60 + TEMPLATE


def test_a_long_list_of_rows_is_read_soon(own: Path, tmp_path: Path) -> None:
    rows = list(range(ROWS)) * 500
    change_json(own / "chat" / "generation_config.json", suppress_tokens=rows)
    write_checkpoint(recipe(own, generation="chat"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["suppress_tokens"] == rows
