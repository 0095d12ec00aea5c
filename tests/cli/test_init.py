"""`evovlm init`: a commented config that passes `evovlm check`, from flags or from answers on a terminal."""

import json
import os
import pty
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from evovlm.runs.config.hybrid import load_search
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.task import Split
from evovlm.texts.languages import described
from tests.cli.conftest import Command, Outcome
from tests.marks import quick_and_slow
from tests.pico import pico_llm
from tests.tasks.test_own_folder import picture_folder

LLM = ("init", "llm", "--base", "zoo:base", "--source", "math=zoo:math-a", "--source", "zoo:ja")
JAPANESE = re.compile("[ぁ-ヿ一-鿿]")


def test_a_search_of_embedded_language_models_passes_check(evovlm: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    made = evovlm(*LLM, "--task", "word_problems_ja", "--budget", "50", "--out", out)
    assert made.code == 0, made
    assert made.out.startswith(f"{out}\n")
    checked = evovlm("check", out)
    assert checked.code == 0, checked
    config = yaml.safe_load(out.read_text())
    assert config["merge"]["sources"] == {"math": "zoo:math-a", "ja": "zoo:ja"}
    assert config["budget"] == {"candidates": 50}
    assert sum("#" in line for line in out.read_text().splitlines()) > 10


def test_a_budget_of_few_or_broken_generations_is_written_and_warned_about(evovlm: Command, tmp_path: Path) -> None:
    made = evovlm(*LLM, "--task", "word_problems_ja", "--budget", "25", "--out", tmp_path / "mine.yaml")
    assert made.code == 0, made
    assert "budget.candidates: 25 is rounded down to 22, whole generations of 11." in made.err
    assert "Set it to 55 (5 generations) or more." in made.err
    checked = evovlm("check", tmp_path / "mine.yaml")
    assert all(line.removeprefix("warning: ") in checked.out for line in made.err.splitlines())


def test_a_search_of_an_embedded_vlm_passes_check(evovlm: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    flags = ("--base", "zoo:base", "--host", "zoo:vlm", "--source", "zoo:ja", "--task", "emoji_ja")
    made = evovlm("init", "vlm", *flags, "--out", out, "--json")
    assert json.loads(made.out)["sources"] == {"vlm": "zoo:vlm", "ja": "zoo:ja"}
    assert evovlm("check", out).code == 0
    assert yaml.safe_load(out.read_text())["merge"]["host"] == "zoo:vlm"


@pytest.mark.parametrize("kind", ["llm", "vlm"])
def test_own_models_and_own_data_are_found_from_the_config_s_folder(
    evovlm: Command, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture_folder(tmp_path / "my photos", tables=("search.csv",))
    (tmp_path / "configs").mkdir()
    text = tmp_path / "sums.yaml"
    (tmp_path / "sums.csv").write_text("question,answer\n1+1?,2\n", encoding="utf-8")
    text.write_text("name: sums\nsplits: {search: sums.csv}\nmetric: accuracy\nprompt: '{input}'\n")
    task = "./my photos" if kind == "vlm" else "sums.yaml"
    vlm = shutil.copytree(models / "vlm", tmp_path / "vlm")
    (vlm / "chat_template.jinja").write_text("<image>{{ messages[0]['content'][-1]['text'] }}")
    host = ("--host", str(vlm)) if kind == "vlm" else ()
    flags = ("--base", str(models / "base"), "--source", str(models / "ja"), "--task", task, *host)
    made = evovlm("init", kind, *flags, "--out", "configs/mine.yaml")
    assert made.code == 0, made
    monkeypatch.chdir(tmp_path / "configs")
    config = load_search(Path("mine.yaml"))
    assert config.template(relative_to=Path()).sources["ja"].resolve().resolve() == (models / "ja").resolve()
    checked = evovlm("check", "mine.yaml")
    assert checked.code == 0, checked


def test_a_folder_beside_the_config_in_the_current_folder_is_found(
    evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture_folder(tmp_path / "photos", tables=("search.csv",))
    flags = ("--base", "zoo:base", "--host", "zoo:vlm", "--source", "zoo:ja", "--task", "./photos")
    assert evovlm("init", "vlm", *flags, "--out", "mine.yaml").code == 0
    config = load_search(Path("mine.yaml")).resolved(relative_to=Path())
    assert config.tasks[0].name == str(tmp_path / "photos")


def test_an_existing_file_is_never_overwritten(evovlm: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    made = evovlm(*LLM, "--task", "word_problems_ja", "--out", out)
    assert made.code == 2
    assert "exists already and is not overwritten" in made.err
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("init",), "llm or vlm, --base, --source, --task: missing, and there is no terminal"),
        (("init", "vlm", "--base", "zoo:base"), "--source, --task, --host: missing"),
        (("init", "mlp", "--base", "b", "--source", "c", "--task", "t"), "'mlp' is neither llm"),
        ((*LLM, "--task", "word_problem_ja"), "did you mean 'word_problems_ja'?"),
        ((*LLM, "--task", "mgsm_ja"), "has only a report split"),
        ((*LLM, "--task", "word_problems_ja", "--source", "math=zoo:math-b"), "two sources would be called 'math'"),
        ((*LLM, "--task", "word_problems_ja", "--source", "zoo:maths"), "no such model"),
        ((*LLM, "--task", "word_problems_ja", "--budget", "2"), "budget.candidates is 2"),
        ((*LLM, "--task", "./nothing"), "nothing"),
    ],
)
def test_a_problem_is_reported_and_nothing_written(
    evovlm: Command, tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    made = evovlm(*flags, "--out", tmp_path / "mine.yaml")
    assert made.code == 2, made
    assert made.err.startswith("error: ")
    assert says in made.err
    assert ".partial" not in made.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_reported(evovlm: Command, tmp_path: Path) -> None:
    made = evovlm(*LLM, "--task", "word_problems_ja", "--out", tmp_path / "none" / "mine.yaml")
    assert (made.code, "cannot be written" in made.err) == (2, True)


@pytest.fixture
def answered(evovlm: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run init in a folder, with a terminal on which the answers are typed."""
    main, terminal = pty.openpty()
    with os.fdopen(terminal, encoding="utf-8") as stdin:

        def run(folder: Path, answers: str, *flags: str) -> Outcome:
            monkeypatch.chdir(folder)
            monkeypatch.setattr(sys, "stdin", stdin)
            # A question too many finds the end of the input, instead of waiting for ever.
            os.write(main, f"{answers}\x04".encode())
            return evovlm("init", "--out", "mine.yaml", *flags)

        yield run
    os.close(main)


def test_a_terminal_is_asked_for_what_the_flags_leave_open(answered: Command, tmp_path: Path) -> None:
    # Kind, base, a source and nothing more, host, task, generations, device.
    code, out, err = answered(tmp_path, "llm\n\nzoo:ja\n\n\n\n5\n\n")
    assert code == 0, err
    assert out.startswith("mine.yaml")
    assert "zoo:base  (no chat template, stops at </s>, 512 tokens)" in err
    assert "how many generations, each of 9 candidates [10]" in err
    config = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert config["merge"]["sources"] == {"ja": "zoo:ja"}
    assert config["tasks"] == [{"name": "word_problems_ja"}]
    assert config["budget"] == {"candidates": 45}
    assert "host" not in config["merge"]


def test_questions_and_comments_are_japanese_where_the_language_is(answered: Command, tmp_path: Path) -> None:
    code, out, err = answered(tmp_path, "llm\n\nzoo:ja\n\n\n\n5\n\n", "--lang", "ja")
    assert code == 0, err
    assert "次のステップ：\n  evovlm check mine.yaml" in out
    assert "zoo:base  (チャットテンプレートなし、停止トークン </s>、最大 512 トークン)" in err
    assert "1  word_problems_ja  (日本語の文章題（1〜3 段階の計算）)" in err
    questions = [line for line in err.splitlines() if "]: " in line]
    assert questions
    assert all(JAPANESE.search(line) for line in questions)


def test_each_task_that_a_search_can_use_is_described_in_japanese() -> None:
    tasks = [task for task in TASKS.values() if Split.SEARCH in task.splits]
    assert [task.name for task in tasks if not JAPANESE.search(described(task.name, "none", language="ja"))] == []
    assert described("theirs", "a task of a package", language="ja") == "a task of a package"


def test_the_environment_gives_the_language_of_the_config_and_the_values_stay(
    evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    made = {}
    for locale in ("C.UTF-8", "ja_JP.UTF-8"):
        monkeypatch.setenv("LANG", locale)
        out = tmp_path / f"{locale}.yaml"
        assert evovlm(*LLM, "--task", "word_problems_ja", "--out", out).code == 0
        made[locale] = out.read_text(encoding="utf-8")
    english, japanese = made.values()
    assert yaml.safe_load(english) == yaml.safe_load(japanese)
    assert "# シードが同じなら、得られるレシピも同じ" in japanese
    assert not JAPANESE.search(english)


def test_a_typo_is_asked_again_and_nothing_else_is_lost(answered: Command, tmp_path: Path) -> None:
    typed = "lllm\n1\nzoo:bas\nzoo:base\nzoo:maths\nm=zoo:math-a\n\n\nword_problem_ja\n1\n\nmany\n5\ncuda:9\ncpu\n"
    code, _, err = answered(tmp_path, typed)
    assert code == 0, err
    for said in ("'lllm' is neither", "no such model", "did you mean 'word_problems_ja'?", "'many' is not a number"):
        assert said in err
    config = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert config["merge"]["sources"] == {"m": "zoo:math-a"}
    assert config["device"] == "cpu"


def test_an_end_keeps_what_was_typed(answered: Command, tmp_path: Path) -> None:
    code, _, err = answered(tmp_path, "llm\nzoo:base\nj=zoo:ja\n\n\n\x04")
    assert code != 0
    assert "evovlm init llm --base zoo:base --method dare_ties --out mine.yaml --source j=zoo:ja" in err
    assert not (tmp_path / "mine.yaml").exists()


def test_own_models_and_tables_nearby_are_offered_and_a_host_without_a_template_takes_a_source_s(
    answered: Command, models: Path, tmp_path: Path
) -> None:
    for name in ("base", "math", "ja"):
        shutil.copytree(models / name, tmp_path / "models" / name)
    settings = tmp_path / "models" / "ja" / "tokenizer_config.json"
    document = {**json.loads(settings.read_text()), "chat_template": "{{ messages[0]['content'] }}"}
    settings.write_text(json.dumps(document))
    (tmp_path / "data" / "sums").mkdir(parents=True)
    (tmp_path / "data" / "sums" / "search.csv").write_text("question,answer\n1+1?,2\n", encoding="utf-8")
    # Base, sources ja and math, host, task, prompt (that of the source's template), generations, device.
    # The base is written in another form than it is offered in.
    code, _, err = answered(tmp_path, "llm\nmodels/base\n./models/ja\n./models/math\n\n\n1\n\n\n\ncpu\n")
    assert code == 0, err
    assert "./models/ja  (a chat template" in err
    assert "./data/sums  (yours)" in err
    assert "[./models/ja ./models/math]" in err
    assert "with the chat template of ja" in err
    config = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert config["merge"]["chat_template"] == "ja"
    assert config["tasks"] == [{"name": "./data/sums"}]


def evolved(evovlm: Command, config: Path, run: Path, **asked: object) -> str:
    """Check and evolve the config with one small generation, and return what is said; `asked` changes its tasks."""
    checked = evovlm("check", config)
    assert checked.code == 0, checked
    document = yaml.safe_load(config.read_text())
    tasks = [{**task, "limit": 1, **asked} for task in document["tasks"]]
    small = {**document, "budget": {"candidates": 4}, "optimizer": {"kind": "cma", "population": 4}, "tasks": tasks}
    config.with_name("small.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    run_it = evovlm("evolve", config.with_name("small.yaml"), "--out", run)
    assert run_it.code == 0, run_it
    return run_it.out


OWN = {
    "llm": (),
    "llm with a source that chats": ("chat",),
    "llm with a host that chats": ("chat",),
    "llm with a prompt": (),
    "vlm": (),
}


@pytest.mark.parametrize("name", quick_and_slow(OWN, quick=1))
def test_a_config_from_flags_runs_with_own_models_and_own_data(
    evovlm: Command, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models, tmp_path / "models")
    settings = shutil.copytree(models / "ja", tmp_path / "models" / "chat") / "tokenizer_config.json"
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": template}))
    picture_folder(tmp_path / "photos", tables=("search.csv",))
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "search.csv").write_text("question,answer\n1+1?,2\n", encoding="utf-8")
    kind = name.split()[0]
    task = "./photos" if kind == "vlm" else "./sums"
    flags = ["init", kind, "--base", "./models/base", "--source", "./models/math", "--task", task, "--generations", "5"]
    flags += [part for source in OWN[name] for part in ("--source", f"./models/{source}")]
    flags += ["--host", "./models/vlm"] if kind == "vlm" else []
    flags += ["--host", "./models/chat"] if "host" in name else []
    flags += ["--prompt", "{input}="] if "prompt" in name else []
    made = evovlm(*flags)
    assert made.code == 0, made
    written = yaml.safe_load(Path("search.yaml").read_text())
    (section,) = written["tasks"]
    if name in ("llm", "vlm"):
        assert "{input}" in section["prompt"]
        assert "cannot be asked" in made.err
    if "source" in name:
        assert written["merge"]["chat_template"] == "chat"
    if "host" in name:
        assert written["merge"]["host"] == "./models/chat"
    evolved(evovlm, tmp_path / "search.yaml", tmp_path / "run", decoding={"max_new_tokens": 4})


def sums(table: Path, *, n: int = 8) -> Path:
    table.parent.mkdir(exist_ok=True)
    rows = "".join(f"{k}+1は?,{k + 1}個\n" for k in range(n))
    table.write_text(f"問題,解答\n{rows}", encoding="utf-8")
    return table


@pytest.mark.parametrize("task", quick_and_slow(["data/sums.csv", "./data"], quick=1))
def test_one_table_is_split_by_a_task_file_that_init_writes_and_the_config_runs(
    evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sums(tmp_path / "data" / "sums.csv")
    (tmp_path / "out").mkdir()
    made = evovlm(*LLM, "--task", task, "--generations", "5", "--out", "out/mine.yaml")
    assert made.code == 0, made
    file = Path("out/sums-split.yaml")
    assert yaml.safe_load(file.read_text()) == {
        "name": "sums",
        "data": "../data",
        "table": "sums.csv",
        "split": {"search": 0.5, "seed": 0},
    }
    assert "note: out/sums-split.yaml splits data/sums.csv for the search" in made.err
    assert "split by shares (seed 0) of 8 samples: search 4 (rows " in made.err
    (named,) = yaml.safe_load(Path("out/mine.yaml").read_text())["tasks"]
    assert named["name"] == "./sums-split.yaml"
    parts = {split: [each.id for each in get_task(str(file)).samples(split)] for split in Split}
    assert sorted(parts[Split.SEARCH] + parts[Split.REPORT]) == [f"{n:04d}" for n in range(1, 9)]
    # The same again takes the file that is there.
    again = evovlm(*LLM, "--task", task, "--out", "out/again.yaml")
    assert again.code == 0, again
    said = evolved(evovlm, tmp_path / "out" / "mine.yaml", tmp_path / "run")
    # A command in one line, which means the prompt of two lines.
    assert "--task ./out/sums-split.yaml --prompt '質問: {input}\\n答え:'\n" in said
    typed = evovlm(*LLM, "--task", file, "--prompt", "質問: {input}\\n答え:", "--out", "out/typed.yaml")
    assert typed.code == 0, typed
    assert yaml.safe_load(Path("out/typed.yaml").read_text())["tasks"] == [named]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--source", "zoo:maths"), "no such model"),
        (("--budget", "2"), "budget.candidates is 2"),
        (("--task", "one.csv"), "cannot be split"),
        (("--task", "none.csv"), "none.csv"),
    ],
)
def test_a_refused_search_leaves_no_task_file(
    evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sums(tmp_path / "sums.csv")
    sums(tmp_path / "one.csv", n=1)
    made = evovlm(*LLM, "--task", "sums.csv", *flags, "--out", "mine.yaml")
    assert (made.code, says in made.err) == (2, True), made
    assert "Traceback" not in made.err
    assert {path.name for path in tmp_path.iterdir()} == {"one.csv", "sums.csv"}


def test_another_file_of_the_task_file_s_name_stays(
    evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sums(tmp_path / "sums.csv")
    Path("sums-split.yaml").write_text("mine")
    made = evovlm(*LLM, "--task", "sums.csv", "--out", "mine.yaml")
    assert (made.code, "splits sums.csv in another way or is something else" in made.err) == (2, True), made
    assert Path("sums-split.yaml").read_text() == "mine"
    assert not Path("mine.yaml").exists()


def test_a_table_nearby_is_offered_and_its_share_asked(answered: Command, tmp_path: Path) -> None:
    sums(tmp_path / "問題.csv")
    # Kind, base, source, no more, host, task, no more, share (asked again), prompt, generations, device.
    typed = "llm\n\nzoo:ja\n\n\n./問題.csv\n\n2\n0.25\n\n\n\n"
    code, _, err = answered(tmp_path, typed)
    assert code == 0, err
    assert "1  ./問題.csv  (yours)" in err
    assert "2 is not between 0 and 1" in err
    assert "search 2 (rows " in err
    assert yaml.safe_load((tmp_path / "問題-split.yaml").read_text())["split"] == {"search": 0.25, "seed": 0}
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["tasks"][0]["name"] == "./問題-split.yaml"


def test_models_that_do_not_fit_are_found_and_nothing_is_written(evovlm: Command, models: Path, tmp_path: Path) -> None:
    deeper = pico_llm(tmp_path / "deeper", n_blocks=3)
    flags = ("--base", str(models / "base"), "--source", str(deeper), "--task", "word_problems_ja")
    made = evovlm("init", "llm", *flags, "--out", tmp_path / "mine.yaml")
    assert made.code == 2
    assert "has 3 blocks" in made.err
    assert not (tmp_path / "mine.yaml").exists()
