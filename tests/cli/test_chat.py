"""Merging chat models on a base without a template: what check says, and that the result answers and stops."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.merging.chatting import ANSWER, chatting_models

RECIPE = """\
format: 1
kind: parameter_merge
base: base
sources: {math: math, chat: chat}
method: linear
parameters: {math: {weight: 0.5}, chat: {weight: 0.5}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return chatting_models(tmp_path)


def test_the_result_of_two_chat_models_answers_and_stops(evovlm: Command, folder: Path) -> None:
    (folder / "plain.yaml").write_text(RECIPE)
    checked = evovlm("check", folder / "plain.yaml")
    assert checked.code == 0
    assert "Write `chat_template: auto` in the recipe to take them." in " ".join(checked.out.split())
    (folder / "auto.yaml").write_text(RECIPE + "chat_template: auto\n")
    assert "share a chat template" not in " ".join(evovlm("check", folder / "auto.yaml").out.split())
    assert evovlm("merge", folder / "auto.yaml", "--out", folder / "out").code == 0
    for model in (folder / "out", folder / "auto.yaml"):
        asked = evovlm("ask", model, "何", "--device", "cpu", "--json")
        assert asked.code == 0, asked.err
        assert (json.loads(asked.out)["answer"], json.loads(asked.out)["tokens"]) == (ANSWER, 1)
        assert "no chat template" not in asked.err


def test_a_search_takes_the_template_too(evovlm: Command, folder: Path) -> None:
    search = (
        "format: 1\nkind: evolve\n"
        "merge: {base: base, sources: {math: math, chat: chat}, method: linear, chat_template: auto}\n"
        "space: {kind: model}\nbudget: {candidates: 6}\ntasks: [{name: word_problems_ja, prompt: chat, limit: 2}]\n"
        "device: cpu\n"
    )
    (folder / "search.yaml").write_text(search)
    assert evovlm("evolve", folder / "search.yaml", "--out", folder / "run").code == 0
    assert "chat_template: auto" in (folder / "run" / "best.yaml").read_text()
