"""Options that say how tasks are asked, decoded and scored, from the command line and back."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evovlm.cli.app import app
from evovlm.cli.task_options import arguments_of, chat_settings, decoding_changes, described, reasoning_setting
from evovlm.errors import ConfigError, EvovlmError, TaskError
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.prompts import ChatSettings
from evovlm.tasks.task import TaskSettings

SETTINGS = TaskSettings(
    prompt="chat",
    chat=ChatSettings(system="短く。", template={"enable_thinking": False, "effort": "low"}),
    decoding=DecodingChanges(like="search", temperature=0.6, stop=["\n"], repeats=3),
    reasoning=("<a, b>", "</a>"),
)


def test_values_of_a_chat_template_are_read_as_pairs_or_as_json() -> None:
    expected = ChatSettings(template={"enable_thinking": False, "effort": "low", "budget": 3, "note": None})
    pairs = ["enable_thinking=False,effort=low", "budget=3", "note=null"]
    assert chat_settings(None, pairs) == expected
    assert chat_settings(None, ['{"enable_thinking": false, "effort": "low", "budget": 3, "note": null}']) == expected
    assert chat_settings(None, None) is None
    assert chat_settings("", None) == ChatSettings(system="")


@pytest.mark.parametrize("text", ["enable_thinking", "=1", "{", "{}x", "a=1,b"])
def test_unreadable_values_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--chat-template-args"):
        chat_settings(None, [text])


def test_a_decoding_is_a_name_or_an_object_and_options_come_on_top() -> None:
    assert decoding_changes(None, seed=None) is None
    assert decoding_changes("search", temperature=1.0) == DecodingChanges(like="search", temperature=1.0)
    found = decoding_changes('{"beams": 2, "top_k": 5}', top_k=3)
    assert found == DecodingChanges(beams=2, top_k=3)
    with pytest.raises(ConfigError, match=r"decoding: top_q: unknown key; did you mean 'top_p'"):
        decoding_changes('{"top_q": 1}')


def test_the_arguments_mean_the_settings() -> None:
    words = iter(arguments_of(SETTINGS))
    given = dict(zip(words, words, strict=True))
    assert chat_settings(given["--system"], [given["--chat-template-args"]]) == SETTINGS["chat"]
    assert decoding_changes(given["--decoding"]) == SETTINGS["decoding"]
    assert reasoning_setting(given["--reasoning"], None) == SETTINGS["reasoning"]
    assert given["--prompt"] == "chat"
    assert arguments_of(TaskSettings()) == []


def test_settings_are_described_in_a_few_words() -> None:
    assert described(SETTINGS) == (
        ", search decoding, stop ['\\n'], temperature 0.6, 3 repeats, prompt chat, a system message, "
        'enable_thinking=false, effort="low"'
    )
    assert described(TaskSettings()) == ""


def test_a_thought_is_ended_by_one_setting() -> None:
    assert reasoning_setting(None, "</t>") == ("", "</t>")
    with pytest.raises(ConfigError, match="both say"):
        reasoning_setting("think", "</t>")
    with pytest.raises(TaskError, match="'thnk' is unknown"):
        reasoning_setting("thnk", None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--apply-chat-template --prompt abel", "--apply-chat-template asks by the prompt `chat`"),
        ("--top-p 0.5", "top_p has no effect"),
        ("--repeats 2", "repeats has no effect"),
        ("--chat-template-args tokenize=1", "'tokenize' cannot be set"),
        ("--think-end-token x --reasoning none", "both say"),
        ("--decoding fast", "has no decoding 'fast'"),
        ("--system a --prompt abel", "the prompt is 'abel'"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(tmp_path: Path, options: str, words: str) -> None:
    command = ["score", str(tmp_path / "nowhere"), "--task", "word_problems_en", *shlex.split(options)]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, EvovlmError)
    assert words in str(result.exception)
