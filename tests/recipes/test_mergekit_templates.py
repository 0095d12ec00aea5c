"""Chat templates in mergekit files: those that mergekit names, and written-out ones."""

from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evovlm.errors import ConfigError
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.mergekit.chat_templates import MERGEKIT_TEMPLATES
from evovlm.recipes.mergekit.writing import recipe_to_mergekit
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.writing import recipe_to_yaml

WRITTEN = "{% for turn in messages %}<|{{ turn.role }}|>: {{ turn.content }}\n{% endfor %}"
CHAT = [
    {"role": "system", "content": " be nice "},
    {"role": "user", "content": " a\n"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]
# What mergekit's own templates make of this chat (mergekit 0.1.5, rendered with the options of transformers).
PROMPTS = {
    "alpaca": "be nice\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc### Response:\n",
    "chatml": "<|im_start|>system\n be nice <|im_end|>\n<|im_start|>user\n a\n<|im_end|>\n"
    "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
    "exaone": "    [|system|] be nice \n        [|endofturn|]\n\n    [|user|] a\n\n        \n\n    [|assistant|]b\n"
    "        [|endofturn|]\n\n    [|user|]c\n        \n\n    [|assistant|]\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nbe nice<|eot_id|>\n"
    "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>\n<|start_header_id|>user<|end_header_id|>"
    "\n\nc<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\n",
}


def read(folder: Path, line: str) -> ParameterMerge:
    file = folder / "merge.yaml"
    models = "models: [{model: org/a}, {model: org/b}]\nmerge_method: linear\nparameters: {weight: 1}\n"
    file.write_text(f"{models}{line}\n")
    recipe = load_recipe(file)
    assert isinstance(recipe, ParameterMerge)
    return recipe


@pytest.mark.parametrize("name", MERGEKIT_TEMPLATES)
def test_a_named_template_makes_the_prompts_of_mergekits(name: str, tmp_path: Path) -> None:
    template = read(tmp_path, f"chat_template: {name}").chat_template
    assert template == MERGEKIT_TEMPLATES[name]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    given = {"messages": CHAT, "add_generation_prompt": True, "bos_token": "<s>"}
    found = environment.from_string(template).render(given)
    assert found == PROMPTS[name]


def test_a_written_template_is_read_and_written(tmp_path: Path) -> None:
    recipe = read(tmp_path, f"chat_template: {WRITTEN!r}".replace("'", '"'))
    assert recipe.chat_template == WRITTEN
    again = tmp_path / "again.yaml"
    again.write_text(recipe_to_yaml(recipe))
    assert load_recipe(again) == recipe
    again.write_text(recipe_to_mergekit(recipe, n_blocks=2))
    assert load_recipe(again).recipe_id == recipe.recipe_id


@pytest.mark.parametrize("line", ["chat_template: '{{ x }}'", "chat_template: a text without any braces in it"])
def test_what_mergekit_would_refuse_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a template; write auto, the text of a template, or one of alpaca"):
        read(tmp_path, line)


def test_slices_take_a_template_too(tmp_path: Path) -> None:
    file = tmp_path / "path.yaml"
    slices = "".join(f"  - sources: [{{model: org/{name}, layer_range: [0, 2]}}]\n" for name in "aba")
    file.write_text(f"merge_method: passthrough\nslices:\n{slices}chat_template: auto\n")
    recipe = load_recipe(file)
    assert isinstance(recipe, LayerPathMerge)
    assert (recipe.chat_template, recipe.speakers) == ("auto", ("a", "b"))
