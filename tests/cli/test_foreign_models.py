"""Models of strangers: whatever their files hold, a command ends with 0 or with 2 and one message, soon."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import TASK, Command, Outcome

Damage = Callable[[Path], object]


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A folder with a recipe that merges math and ja into a host to damage."""
    shutil.copytree(models / "base", tmp_path / "host")
    recipe = {
        "format": 1,
        "kind": "parameter_merge",
        "base": "./host",
        "sources": {"math": str(models / "math"), "ja": str(models / "ja")},
        "method": "dare_ties",
        "parameters": {"math": {"weight": 0.7}, "ja": {"weight": 0.3}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


def changed(name: str, **changes: Any) -> Damage:
    """Return what replaces keys of a JSON file."""

    def damage(model: Path) -> None:
        document = json.loads((model / name).read_text(encoding="utf-8"))
        (model / name).write_text(json.dumps({**document, **changes}), encoding="utf-8")

    return damage


def refused(outcome: Outcome, *parts: str) -> None:
    text = outcome.err + outcome.out
    assert outcome.code == 2, outcome
    assert "Traceback" not in text
    for part in parts:
        assert part in text


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("n_blocks", [7, 1])
def test_a_host_whose_config_contradicts_its_blocks_is_refused(evovlm: Command, folder: Path, n_blocks: int) -> None:
    changed("config.json", num_hidden_layers=n_blocks)(folder / "host")
    before = everything(folder)
    says = ("host/config.json: contradicts", f"num_hidden_layers is {n_blocks}, but the weights have 2 blocks")
    refused(evovlm("check", folder / "recipe.yaml"), *says)
    refused(evovlm("merge", folder / "recipe.yaml", "--out", folder / "out"), *says)
    assert everything(folder) == before


def test_a_result_that_does_not_load_is_not_left(evovlm: Command, folder: Path) -> None:
    changed("config.json", hidden_act="gleu")(folder / "host")
    before = everything(folder)
    outcome = evovlm("merge", folder / "recipe.yaml", "--out", folder / "out")
    refused(outcome, f"{folder / 'out'}: the result does not load", f"host {folder / 'host'}", "gleu")
    assert everything(folder) == before


@pytest.mark.parametrize("command", ["ask", "score"])
@pytest.mark.parametrize(
    "template",
    [
        "{{ 1/0 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ messages.nothing.at_all }}",
        "{% for",
    ],
)
def test_a_chat_template_ends_in_bounded_time(
    evovlm: Command, folder: Path, problems: Path, command: str, template: str
) -> None:
    (folder / "host" / "chat_template.jinja").write_text(template, encoding="utf-8")
    arguments: list[Path | str]
    arguments = ["1と2で?"] if command == "ask" else ["--task", problems.with_name(f"{TASK}.yaml"), "--prompt", "chat"]
    outcome = evovlm(command, folder / "host", *arguments, "--device", "cpu")
    refused(outcome, "its chat template does not take the question")


@pytest.mark.parametrize(
    "damage",
    [
        changed("config.json", hidden_act="gleu"),
        changed("config.json", vocab_size=10**8),
        changed("config.json", intermediate_size=10**8),
        changed("config.json", rope_parameters={"rope_type": "nothing"}),
        changed("config.json", rope_scaling={"rope_type": "yarn", "factor": "x"}),
        changed("config.json", sliding_window=0),
        changed("config.json", layer_types=["full_attention"]),
        changed("config.json", dtype=[]),
        changed("generation_config.json", eos_token_id={}),
        changed("tokenizer.json", model=None),
        changed("tokenizer.json", added_tokens=[{"id": -1, "content": 3}]),
        changed("tokenizer.json", decoder={"type": "nothing"}),
        changed("tokenizer_config.json", added_tokens_decoder={"x": 1}),
        changed("tokenizer_config.json", eos_token=[1]),
        lambda model: (model / "tokenizer.json").write_bytes(b"\xff\xfe"),
        lambda model: (model / "generation_config.json").write_text("[" * 100_000),
        lambda model: (model / "model.safetensors").write_bytes(b"\xff" * 64),
        lambda model: ((model / "tokenizer.json").unlink(), os.mkfifo(model / "tokenizer.json")),
        lambda model: ((model / "config.json").unlink(), os.mkfifo(model / "config.json")),
        lambda model: (
            (model / "model.safetensors").unlink(),
            (model / "model.safetensors").symlink_to("/dev/zero"),
        ),
    ],
)
def test_a_broken_model_is_refused_with_its_folder(evovlm: Command, folder: Path, damage: Damage) -> None:
    damage(folder / "host")
    outcome = evovlm("ask", folder / "host", "1と2で?", "--max-new-tokens", 2, "--device", "cpu")
    refused(outcome, f"error: {folder / 'host'}")
    assert evovlm("check", folder / "recipe.yaml").code in (0, 2)
