"""A stranger's folder full of traps: files that leave a mark when they are run. No command runs one of them."""

import io
import itertools
import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import torch
import yaml

from evovlm.runs.folder.journal import config_hash
from tests.cli.conftest import TASK, Command, commands, write_config

SECONDS = 20
"""No command takes longer over these small models; `watch` goes on until it is interrupted."""
WATCHED_SECONDS = 1
# What asks for more than looking (a browser), and the permission itself.
NOT_TRIED = {"--allow-code", "--open", "--help", "--install-completion", "--show-completion"}
WITHOUT_FILES = {"demo", "zoo build"}
"""Commands that read no file of anybody's, and run for minutes."""

METRIC = """
import datasets
import evaluate

class Shared(evaluate.Metric):
    '''{note}'''

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({{"predictions": text, "references": text}}),
        )

    def _compute(self, predictions, references):
        return {{"value": 0.5}}
"""


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


class Folder(NamedTuple):
    """A folder of traps, the folder of their marks, and what a command can be given."""

    path: Path
    marks: Path
    targets: dict[str, Path]
    tasks: list[str]

    @property
    def fired(self) -> list[str]:
        return sorted(mark.name for mark in self.marks.iterdir())


def code(marks: Path, name: str) -> str:
    """Return Python that leaves a mark."""
    return f"import pathlib\npathlib.Path({str(marks / name)!r}).touch()\n"


def template(marks: Path, name: str) -> str:
    """Return a jinja template that leaves a mark where it is not sandboxed."""
    return "{{ cycler.__init__.__globals__.os.system('touch " + str(marks / name) + "') }}"


@pytest.fixture
def traps(finished_once: Path, models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A stranger's folder, which is the current one."""
    folder, marks = tmp_path / "stranger", tmp_path / "marks"
    marks.mkdir()
    folder.mkdir()
    (folder / "metric.py").write_text(code(marks, "metric") + METRIC.format(note=folder), encoding="utf-8")
    for name in ("sitecustomize", "usercustomize", "conftest", "evaluate", "lm_eval", "backend", "rouge_score"):
        (folder / f"{name}.py").write_text(code(marks, name), encoding="utf-8")
    (folder / "evil.pth").write_text(f"import pathlib; pathlib.Path({str(marks / 'pth')!r}).touch()\n")
    (folder / "matplotlibrc").write_text("backend: module://backend\ntext.usetex: True\n", encoding="utf-8")
    entry_points = folder / "evil-1.dist-info"
    entry_points.mkdir()
    (entry_points / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n", encoding="utf-8")
    (entry_points / "entry_points.txt").write_text("[evovlm.metrics]\nfound = backend:ROW\n", encoding="utf-8")
    tasks = [_task(folder, "metric_task", "evaluate:./metric.py"), _harness_task(folder, marks)]
    model, pickled = _model(models / "math", folder / "model", marks), folder / "pickled"
    shutil.copytree(model, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "linked.py").symlink_to("metric.py")
    searched = [{"name": name} for name in tasks]
    for name, wanted in (("search", searched[:1]), ("harness-search", searched[1:])):
        merge = {"base": str(models / "base"), "sources": {"math": "model", "ja": str(models / "ja")}}
        changes = {"tasks": wanted, "report": wanted, "merge": {**merge, "method": "dare_ties"}}
        write_config(folder / f"{name}.yaml", models=models, problems=problems, **changes)
    recipe = {
        "format": 1,
        "kind": "parameter_merge",
        "method": "linear",
        "base": str(models / "base"),
        "sources": {"math": "model"},
    }
    parameters = {"parameters": {"math": {"weight": 1.0}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **parameters}), encoding="utf-8")
    row = {"text": "1", "answer": "1", "metric": "evaluate:./metric.py", "task": tasks[0]}
    (folder / "answers.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    _own_folder(folder / "questions")
    targets = {
        name: folder / name
        for name in (
            *("model", "pickled", "questions", "search.yaml", "harness-search.yaml", "recipe.yaml", "answers.jsonl"),
            *("metric.py", "metric_task.yaml"),
        )
    }
    for name, task, called in (("run", tasks[0], "metric_task"), ("harness-run", tasks[1], tasks[1])):
        targets[name] = _run(finished_once / "run", folder / name, task=task, name=called)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Folder(
        path=folder, marks=marks, targets=targets, tasks=[*tasks, _task(folder, "plain", "exact_match"), "./questions"]
    )


def _task(folder: Path, name: str, metric: str) -> str:
    rows = [{"question": f"{number}?", "answer": str(number)} for number in range(3)]
    for part in ("train", "test"):
        lines = (json.dumps({**row, "question": part + row["question"]}) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    document = {"name": name, "splits": {"search": "train.jsonl", "report": "test.jsonl"}, "metric": metric}
    more = {"prompt": "{input}", "decoding": {"max_new_tokens": 2}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**document, **more}), encoding="utf-8")
    return str(folder / f"{name}.yaml")


def _harness_task(folder: Path, marks: Path) -> str:
    (folder / "functions.py").write_text(code(marks, "harness function") + "def text(doc): return 'x'\n")
    text = f"""
        task: local
        dataset_path: json
        dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}}}
        training_split: train
        test_split: test
        doc_to_text: !function functions.text
        doc_to_target: "{template(marks, "harness template")}"
        output_type: generate_until
        metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
    """
    (folder / "harness_task.yaml").write_text(text, encoding="utf-8")
    return f"lm_eval:{folder}/harness_task.yaml"


def _model(like: Path, folder: Path, marks: Path) -> Path:
    """Copy a model and add all that could run when somebody loads it."""
    shutil.copytree(like, folder)
    for name in ("configuration", "modeling", "tokenization", "processing"):
        (folder / f"{name}_trap.py").write_text(code(marks, name), encoding="utf-8")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code(marks, "generate"), encoding="utf-8")
    for file, auto_map in (
        ("config.json", {"AutoConfig": "configuration_trap.C", "AutoModelForCausalLM": "modeling_trap.M"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_trap.T", "tokenization_trap.T"]}),
        ("generation_config.json", {"AutoConfig": "configuration_trap.C"}),
    ):
        path = folder / file
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**document, "auto_map": auto_map, "custom_generate": str(folder)}))
    (folder / "chat_template.jinja").write_text(template(marks, "chat template"), encoding="utf-8")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps({"w": torch.zeros(1), "x": Evil(marks / name)}))
    return folder


def _own_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "report.csv").write_text("question,answer\n1と1で?,2\n", encoding="utf-8")


def _run(like: Path, folder: Path, *, task: str, name: str) -> Path:
    """Copy a finished run and have it name a trap, which is called `name` in results, as its task and its report's."""
    shutil.copytree(like, folder)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in lines:
        if "config" in row:
            row["config"] |= {"tasks": [{"name": task}], "report": [{"name": task}]}
            row["config_hash"] = config_hash(row["config"])
        if "scores" in row:
            row["scores"] = {name: row["scores"][TASK]}
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(lines[0]["config"]), encoding="utf-8")
    (folder / "evil.pkl").write_bytes(pickle.dumps(Evil(folder.parent.parent / "marks" / "pickle in a run")))
    return folder


def _calls(command: click.Command, traps: Folder, fresh: Iterator[int]) -> Iterator[list[str]]:
    """Yield arguments: each target in place of the command's arguments, with each of its flags and kinds of task."""
    options = [each for each in command.params if each.param_type_name == "option"]
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    tried = [each.opts[0] for each in options if getattr(each, "is_flag", False) and each.opts[0] not in NOT_TRIED]
    flags = [[], *([name] for name in tried)]
    takes_tasks = any("--task" in each.opts for each in options)
    for target, flag, task in itertools.product(
        traps.targets.values() if arguments else [traps.path], flags, traps.tasks if takes_tasks else [None]
    ):
        given = [str(target) for _ in arguments]
        for option in options:
            if option.required or "--out" in option.opts:
                new = str(traps.path.parent / f"out-{next(fresh)}")
                given += [option.opts[0], str(task) if "--task" in option.opts else new]
        yield [*given, *flag]


@contextmanager
def _interrupting() -> Iterator[Callable[[float], None]]:
    """Yield what interrupts the main thread after a number of seconds, and never for 0.

    It does so again each second: an exception is lost where Python ignores it, in a destructor for example.
    """
    wanted = False

    def interrupt(*_: object) -> None:
        if wanted:
            raise KeyboardInterrupt

    def interrupt_after(seconds: float) -> None:
        nonlocal wanted
        wanted = seconds > 0
        signal.setitimer(signal.ITIMER_REAL, seconds, 1 if wanted else 0)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield interrupt_after
    finally:
        interrupt_after(0)
        signal.signal(signal.SIGALRM, before)


TRIED = [words for words, each in commands().items() if not hasattr(each, "commands") and words not in WITHOUT_FILES]


@pytest.mark.slow
@pytest.mark.parametrize("words", TRIED)
def test_no_command_runs_a_trap(evovlm: Command, traps: Folder, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with _interrupting() as interrupt_after:
        for arguments in _calls(commands()[words], traps, itertools.count()):
            monkeypatch.setattr(sys, "stdin", io.StringIO(""))
            interrupt_after(WATCHED_SECONDS if words == "watch" else SECONDS)
            done = evovlm(*words.split(), *arguments)
            interrupt_after(0)
            assert traps.fired == [], (words, arguments)
            assert "Usage:" not in done.err, (words, arguments, done)
            assert done.code in (0, 2), (words, arguments, done)


@pytest.mark.parametrize("run", ["run", "harness-run"])
@pytest.mark.parametrize("words", ["show", "report", "watch", "export --pick best"])
def test_looking_at_a_run_runs_nothing(evovlm: Command, traps: Folder, words: str, run: str) -> None:
    done = evovlm(*words.split(), traps.targets[run])
    assert done.code == 0, done
    assert traps.fired == []


@pytest.mark.slow
@pytest.mark.parametrize("words", ["report --figures figures", "export --format optuna --out study.log"])
def test_looking_closer_runs_nothing(evovlm: Command, traps: Folder, words: str) -> None:
    test_looking_at_a_run_runs_nothing(evovlm, traps, words, "run")


def test_the_traps_fire_where_the_user_allows_it(evovlm: Command, traps: Folder) -> None:
    refused = evovlm("score", "model", "--task", traps.tasks[0])
    assert (refused.code, refused.out) == (2, "")
    assert f"{traps.path}/metric.py (the metric evaluate:" in refused.err
    assert "--allow-code" in refused.err
    assert traps.fired == []
    done = evovlm("score", "model", "--task", traps.tasks[0], "--allow-code")
    assert done.code == 0, done
    assert f"running code: {traps.path}/metric.py" in done.err
    assert traps.fired == ["metric"]


@pytest.mark.slow
def test_a_report_of_saved_scores_runs_nothing(evovlm: Command, traps: Folder) -> None:
    done = evovlm("report", "run", "--score", "--allow-code")
    assert done.code == 0, done
    assert f"running code: {traps.path}/metric.py" in done.err
    assert traps.fired == ["metric"]
    (traps.marks / "metric").unlink()
    for flags in ([], ["--json"]):
        again = evovlm("report", "run", *flags)
        assert again.code == 0, again
        assert "not yet scored" not in again.err
    assert traps.fired == []
    assert "50.0" in Path("run/report.html").read_text(encoding="utf-8")


def test_check_says_which_code_a_search_runs(evovlm: Command, traps: Folder) -> None:
    done = evovlm("check", "search.yaml")
    assert done.code == 0, done
    assert f"this search runs code: {traps.path}/metric.py" in done.out
    assert "--allow-code" in done.out
    assert "harness_task.yaml" in evovlm("check", "harness-search.yaml").out
    assert traps.fired == []


@pytest.mark.slow
def test_workers_run_a_metric_only_if_the_command_allows_it(evovlm: Command, traps: Folder) -> None:
    refused = evovlm("evolve", "search.yaml", "--out", "new", "--workers", "2")
    assert refused.code == 2
    assert "metric.py" in refused.err
    assert traps.fired == []
    assert not Path("new").exists() or not (Path("new") / "journal.jsonl").exists()
    done = evovlm("evolve", "search.yaml", "--out", "new", "--workers", "2", "--allow-code", "--json")
    assert done.code == 0, done
    assert json.loads(done.out)["search_scores"]["metric_task"]["score"] == 0.5
    assert traps.fired == ["metric"]
    again = evovlm("evolve", "search.yaml", "--out", "new", "--resume", "--json")
    assert json.loads(again.out) == json.loads(done.out)


def test_a_dry_run_times_a_search_without_its_metric(evovlm: Command, traps: Folder) -> None:
    for more in ((), ("--allow-code",)):
        done = evovlm("evolve", "search.yaml", "--out", "new", "--dry-run", *more)
        assert done.code == 0, done
        assert f"scoring by {traps.path}/metric.py is not counted" in done.out
    refused = evovlm("evolve", "harness-search.yaml", "--out", "new", "--dry-run")
    assert refused.code == 2
    assert "a dry run runs no code" in refused.err
    assert traps.fired == []


STARTS = {
    "python -m": [sys.executable, "-m", "evovlm"],
    "the command": [sys.executable, "-c", "import sys; del sys.path[0]; from evovlm.cli.app import main; main()"],
}


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("words", [["show", "run"], ["report", "run"], ["methods"], ["check", "search.yaml"]])
def test_no_module_of_the_current_folder_is_imported(traps: Folder, start: str, words: list[str]) -> None:
    done = subprocess.run([*STARTS[start], *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert traps.fired == []


def test_settings_of_numba_in_the_current_folder_are_refused(evovlm: Command, traps: Folder) -> None:
    (traps.path / ".numba_config.yaml").write_text("cache_dir: compiled\n", encoding="utf-8")
    done = evovlm("show", "run")
    assert (done.code, done.out) == (2, "")
    assert ".numba_config.yaml: numba reads its settings from this file" in done.err
    assert not (traps.path / "compiled").exists()
