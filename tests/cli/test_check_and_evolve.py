"""What `check` approves, `evolve` runs; what `check` refuses, `evolve` refuses for the same reasons."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Command
from tests.marks import quick_and_slow
from tests.pico import pico_llm
from tests.tasks.test_own_folder import picture_folder

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
VLM_TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A folder of models and own data: what a user's folder may hold."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(models, folder / "models")
    for name, template in (("chat", TEMPLATE), ("broken-chat", "{{ 1 // 0 }}")):
        made = shutil.copytree(folder / "models" / "ja", folder / "models" / name)
        config = json.loads((made / "tokenizer_config.json").read_text())
        (made / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    chat = shutil.copytree(folder / "models" / "vlm", folder / "models" / "vlm-chat")
    (chat / "chat_template.jinja").write_text(VLM_TEMPLATE)
    pico_llm(folder / "models" / "deeper", n_blocks=3)
    pico_llm(folder / "models" / "unrelated", seed=9)
    write_sums(folder / "sums", "3+4は?", "5+5は?")
    write_sums(folder / "long", "あ" * 600, "い" * 700)
    write_sums(folder / "partly-long", "あ" * 600, "5+5は?")
    picture_folder(folder / "photos", tables=("search.csv",))
    broken = picture_folder(folder / "no-photo", tables=("search.csv",))
    (broken / "a.png").unlink()
    return folder


def write_sums(folder: Path, *questions: str) -> None:
    folder.mkdir()
    rows = "".join(f"{question},{number}\n" for number, question in enumerate(questions))
    (folder / "search.csv").write_text(f"question,answer\n{rows}", encoding="utf-8")
    text = f"name: {folder.name.replace('-', '_')}\nsplits: {{search: search.csv}}\nmetric: accuracy\n"
    (folder / "task.yaml").write_text(text, encoding="utf-8")


def merge(
    base: str = "base", *, sources: tuple[str, ...] = ("math", "ja"), host: str | None = None
) -> dict[str, object]:
    found: dict[str, object] = {
        "base": "./models/base",
        "sources": {name: f"./models/{name}" for name in sources},
        "method": "dare_ties",
    }
    return found if host is None else {**found, "host": f"./models/{host}"}


def tasks(name: str, **changes: object) -> dict[str, object]:
    path = f"./{name}" if name in ("photos", "no-photo") else f"./{name}/task.yaml"
    return {"tasks": [{"name": path, "decoding": {"max_new_tokens": 4}, **changes}]}


PLAIN = {"prompt": "{input}\n"}
CASES: Mapping[str, tuple[bool, Mapping[str, object]]] = {
    "a written prompt": (True, tasks("sums", **PLAIN)),
    "a chat with a base that has no template": (False, tasks("sums")),
    "a chat with a host that has a template": (
        True,
        {**tasks("sums"), "merge": merge(sources=("math", "chat"), host="chat")},
    ),
    "the chat template of a source": (
        True,
        {**tasks("sums"), "merge": {**merge(sources=("math", "chat")), "chat_template": "chat"}},
    ),
    "the chat template of a source that fails": (
        False,
        {**tasks("sums"), "merge": {**merge(sources=("math", "broken-chat")), "chat_template": "broken-chat"}},
    ),
    "a template that fails": (False, {**tasks("sums"), "merge": merge(sources=("broken-chat",), host="broken-chat")}),
    "pictures for a text model": (False, tasks("photos", prompt="<image>\n{input}")),
    "pictures for a VLM": (
        True,
        {**tasks("photos", prompt="<image>\n{input}"), "merge": merge(sources=("vlm", "ja"), host="vlm")},
    ),
    "a prompt without a place for pictures": (
        False,
        {**tasks("photos", prompt="{input}"), "merge": merge(sources=("vlm", "ja"), host="vlm")},
    ),
    "a chat about pictures": (True, {**tasks("photos"), "merge": merge(sources=("vlm-chat", "ja"), host="vlm-chat")}),
    "a chat template without places for pictures": (
        False,
        {**tasks("photos"), "merge": merge(sources=("vlm", "ja"), host="vlm")},
    ),
    "a picture that is missing": (
        False,
        {**tasks("no-photo", prompt="<image>\n{input}"), "merge": merge(sources=("vlm", "ja"), host="vlm")},
    ),
    "questions longer than the context": (False, tasks("long", **PLAIN)),
    "one question longer than the context": (True, tasks("partly-long", **PLAIN)),
    "a task that is missing": (False, tasks("nothing")),
    "another number of blocks": (False, {**tasks("sums", **PLAIN), "merge": merge(sources=("math", "deeper"))}),
    "a source of another ancestor": (True, {**tasks("sums", **PLAIN), "merge": merge(sources=("math", "unrelated"))}),
    "a device that does not exist": (False, {**tasks("sums", **PLAIN), "device": "cuda:99"}),
    "a budget below a generation": (False, {**tasks("sums", **PLAIN), "budget": {"candidates": 3}}),
    "more knots than blocks": (False, {**tasks("sums", **PLAIN), "space": {"kind": "interpolated", "knots": 3}}),
    "more validation samples than samples": (
        False,
        {**tasks("sums", **PLAIN), "validation": 5, "winner": "snapshot"},
    ),
    "an embedded task": (True, tasks("sums", **PLAIN) | {"tasks": [{"name": "word_problems_ja", "limit": 2}]}),
}


@pytest.fixture
def write(place: Path, tmp_path: Path) -> Callable[[Mapping[str, object]], Path]:
    def written(changes: Mapping[str, object]) -> Path:
        document = {
            "format": 1,
            "kind": "evolve",
            "merge": merge(),
            "optimizer": {"kind": "cma", "population": 4},
            "budget": {"candidates": 4},
            "device": "cpu",
        }
        path = place / f"{tmp_path.name}.yaml"
        path.write_text(yaml.safe_dump({**document, **changes}), encoding="utf-8")
        return path

    return written


@pytest.mark.parametrize("name", quick_and_slow(CASES, quick=10))
def test_check_and_evolve_agree(
    evovlm: Command, write: Callable[[Mapping[str, object]], Path], tmp_path: Path, name: str
) -> None:
    runs, changes = CASES[name]
    config = write(changes)
    checked = evovlm("check", config, "--json")
    evolved = evovlm("evolve", config, "--out", tmp_path / "run")
    assert (checked.code, evolved.code) == ((0, 0) if runs else (2, 2)), (checked, evolved)
    if not runs and checked.out:
        # Every reason, line by line: several are printed as a list.
        for error in json.loads(checked.out)["errors"]:
            for line in error["message"].splitlines():
                assert line.strip() in evolved.err


def test_what_check_says_about_an_own_task_without_a_template_helps(
    evovlm: Command, write: Callable[[Mapping[str, object]], Path]
) -> None:
    shown = evovlm("check", write({**tasks("sums"), "merge": merge(sources=("math", "chat"))}))
    assert shown.code == 2
    text = re.sub(r"\s+", " ", shown.out)
    assert "models/base: has no chat template, which the prompt `chat` needs." in text
    assert "Sources that have one: chat. `chat_template: chat` under `merge:` takes it" in text


def test_a_path_takes_the_template_that_check_proposes(
    evovlm: Command, write: Callable[[Mapping[str, object]], Path]
) -> None:
    found = merge(sources=("base", "chat"))
    path = {"kind": "layer_path", "host": found["base"], "sources": found["sources"], "scale_target": "pending"}
    whole = {**tasks("sums"), "batch": None, "validation": None, "winner": "best", "optimizer": {"population": 4}}
    shown = evovlm("check", write({**whole, "merge": path}))
    assert shown.code == 2
    assert "Sources that have one: chat. `chat_template: chat` under `merge:` takes it" in re.sub(
        r"\s+", " ", shown.out
    )
    assert evovlm("check", write({**whole, "merge": {**path, "chat_template": "chat"}})).code == 0
