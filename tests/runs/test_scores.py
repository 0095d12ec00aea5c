"""Scoring with every answer saved: a killed process resumes to the result of one that was not killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evovlm.errors import ConfigError, ModelError, OutputExists, RunError, RunMismatch
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.batches import AnswerProgress
from evovlm.runs.folder.layout import locked
from evovlm.runs.scores.saved import _plain, read_saved, saving
from evovlm.runs.scores.score_models import ScoreRequest, Scores, score_models
from evovlm.seeding import generator
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.task import Split
from tests.pico import pico_llm

SAMPLES = 660
BATCHES = 3
TOKENS = 8
TASK = "word_problems_ja"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pico models of one ancestor, and enough word problems for several batches."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("scores")
    base = pico_llm(folder / "base")
    pico_llm(folder / "math", like=base, seed=1, drift=0.1)
    rows = [
        {"id": f"p{n}", "question": f"{n}と2で{'?' * (n % 7)}", "number": n + 2, "tags": [f"t{n % 2}"]}
        for n in range(SAMPLES)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "problems.jsonl").write_text(text, encoding="utf-8")
    return folder


def request(folder: Path, *names: str, limit: int | None = None, split: Split = Split.REPORT) -> ScoreRequest:
    short = DecodingChanges(max_new_tokens=TOKENS)
    choice = TaskChoice(name=TASK, data=folder / "problems.jsonl", decoding=short, limit=limit)
    return ScoreRequest(models=tuple(str(folder / name) for name in names), tasks=(choice,), split=split, device="cpu")


def contents(saved: Path) -> dict[str, object]:
    """Return the content of a folder without measured times."""
    found: dict[str, object] = {}
    for path in sorted(saved.iterdir()):
        text = path.read_text(encoding="utf-8")
        found[path.name] = without_seconds(json.loads(text)) if path.name == "summary.json" else text
    return found


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_seconds(inner) for key, inner in value.items() if key != "seconds"}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def figures(scores: Scores) -> object:
    return without_seconds(scores.as_json())


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A scoring of both models without interruption."""
    score_models(request(folder, "base", "math"), save=folder / "whole")
    return folder / "whole"


def n_batches(saved: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in saved.glob("*.batches.jsonl")) if saved.exists() else 0


def start(folder: Path, saved: Path) -> "subprocess.Popen[bytes]":
    arguments = [str(folder / "base"), str(folder / "math"), "--task", TASK, "--device", "cpu", "--resume"]
    arguments += ["--data", f"{TASK}={folder / 'problems.jsonl'}", "--save", str(saved)]
    arguments += ["--max-new-tokens", str(TOKENS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evovlm", "score", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_scoring_killed_at_random_moments_ends_as_one_that_was_not(folder: Path, whole: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    moments = generator("moments of death while scoring", 2)
    seen = 0
    for _ in range(4):
        before = n_batches(saved)
        with start(folder, saved) as process:
            while process.poll() is None and n_batches(saved) <= before:
                time.sleep(0.001)
            time.sleep(moments.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.wait()
        seen = max(seen, n_batches(saved))
    assert seen > 1
    with start(folder, saved) as process:
        assert process.wait() == 0
    assert contents(saved) == contents(whole)


@pytest.mark.slow
def test_answers_that_are_there_are_not_asked_for_again(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved"
    stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        score_models(request(folder, "base", "math"), save=saved)
    assert n_batches(saved) == 1
    (unfinished,) = saved.glob("*.batches.jsonl")
    with unfinished.open("ab") as file:
        file.write(b'{"rows": [1, 2, 3], "answ')
    monkeypatch.undo()
    asked = count_prompts(monkeypatch)
    score_models(request(folder, "base", "math"), save=saved, resume=True)
    assert sum(asked) == 2 * SAMPLES - SAMPLES // BATCHES
    assert contents(saved) == contents(whole)


def test_kept_answers_say_what_was_sent_and_how_long_they_are(folder: Path, whole: Path) -> None:
    saved = read_saved(whole)
    assert saved is not None
    found = saved.finished(0, 0)
    assert found is not None
    for each in found.answers:
        assert each.sent is not None
        assert each.sample.question in each.sent.prompt
        assert (each.sent.tokens == 0) == (each.text == "")
    assert len({each.sent for each in found.answers}) > 1


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt generation after this number of batches."""
    from evovlm.models.decoding import generation

    generate, calls = generation.generate, []

    def interrupted(*arguments: object, **settings: object) -> object:
        calls.append(1)
        if len(calls) > batches:
            raise KeyboardInterrupt
        return generate(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(generation, "generate", interrupted)


def count_prompts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from evovlm.models.decoding import generation

    generate, asked = generation.generate, list[int]()

    def counted(loaded: object, prompts: list[object], **settings: object) -> object:
        asked.append(len(prompts))
        return generate(loaded, prompts, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(generation, "generate", counted)
    return asked


def test_a_finished_scoring_is_read_back_without_a_model(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count_prompts(monkeypatch)
    before = contents(whole)
    again = score_models(request(folder, "base", "math"), save=whole, resume=True)
    assert asked == []
    assert contents(whole) == before
    assert set(again.models[0].tasks[0].tags) == {"t0", "t1"}
    assert figures(again) == json.loads(json.dumps(without_seconds(before["summary.json"])))["scores"]


def test_rows_and_summary_say_what_was_asked_and_scored(folder: Path, whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert {"evovlm", "torch", "transformers"} <= set(summary["versions"])
    assert summary["settings"]["split"] == "report"
    (first,) = whole.glob("1-*.jsonl")
    rows = [json.loads(line) for line in first.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [f"p{n}" for n in range(SAMPLES)]
    keys = "task id question references tags choices text extracted gate score ungated japanese unscored sent"
    assert list(rows[0]) == keys.split()
    assert (rows[0]["task"], rows[0]["gate"]) == (TASK, "script")
    figures = summary["scores"]["models"][str(folder / "base")][TASK]
    assert figures["unscored"] == sum(row["unscored"] is not None for row in rows)
    (comparison,) = summary["scores"]["comparisons"]
    assert comparison["n"] == comparison["wins"] + comparison["losses"] + comparison["ties"] == SAMPLES


def test_what_was_kept_with_without_and_after_a_change_is_refused(folder: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match="--resume"):
        score_models(request(folder, "base", "math"), save=whole)
    with pytest.raises(RunMismatch, match=r"models: .*fingerprint|models"):
        score_models(request(folder, "base"), save=whole, resume=True)
    with pytest.raises(RunMismatch, match=r"limit: none -> 5"):
        score_models(request(folder, "base", "math", limit=5), save=whole, resume=True)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("mine")
    with pytest.raises(RunMismatch, match=r"holds no summary\.json"):
        score_models(request(folder, "base"), save=stranger, resume=True)
    with locked(tmp_path / "busy"), pytest.raises(RunError, match="another process"):
        score_models(request(folder, "base"), save=tmp_path / "busy", resume=True)


def test_other_samples_or_weights_are_noticed(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    pico_llm(mine / "base")
    problems = (folder / "problems.jsonl").read_text(encoding="utf-8")
    (mine / "problems.jsonl").write_text(problems, encoding="utf-8")
    score_models(request(mine, "base", limit=3), save=mine / "saved")
    (mine / "problems.jsonl").write_text(problems.replace("1と2", "1と3"), encoding="utf-8")
    with pytest.raises(RunMismatch, match="fingerprint"):
        score_models(request(mine, "base", limit=3), save=mine / "saved", resume=True)
    (mine / "problems.jsonl").write_text(problems, encoding="utf-8")
    os.utime(mine / "base" / "model.safetensors", (1, 1))
    with pytest.raises(RunMismatch, match="identity"):
        score_models(request(mine, "base", limit=3), save=mine / "saved", resume=True)


def test_a_scoring_that_is_made_anew_forgets_other_settings_but_replaces_nothing_else(tmp_path: Path) -> None:
    def settings(identity: str) -> dict[str, object]:
        return {"split": "report", "models": [{"model": "m", "identity": identity}], "tasks": [{"task": "t"}]}

    saved = tmp_path / "saved"
    with saving(saved, settings=settings("old")):
        pass
    with pytest.raises(RunMismatch, match="remove this folder to score again"), saving(saved, settings=settings("new")):
        pass
    with saving(saved, settings=settings("new"), anew=True):
        pass
    assert json.loads((saved / "summary.json").read_text())["settings"] == settings("new")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(RunMismatch, match="holds no summary"), saving(other, settings=settings("new"), anew=True):
        pass


def test_predictions_that_were_changed_are_refused(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    score_models(request(folder, "base", limit=3), save=saved)
    (file,) = saved.glob("1-*.jsonl")
    text = file.read_text(encoding="utf-8")
    for changed, message in [
        ("".join(text.splitlines(True)[:2]), "2 predictions of 3"),
        ("{}\n" * 3, "is not a prediction"),
    ]:
        file.write_text(changed, encoding="utf-8")
        with pytest.raises(RunMismatch, match=message):
            score_models(request(folder, "base", limit=3), save=saved, resume=True)


def test_no_name_leads_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "..." / "a b"
    models.mkdir(parents=True)
    model = pico_llm(models / "模型; rm")
    choice = TaskChoice(name=TASK, data=folder / "problems.jsonl", limit=1)
    wanted = ScoreRequest(models=(f"{model}/../{model.name}",), tasks=(choice,), split=Split.REPORT, device="cpu")
    score_models(wanted, save=tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert len(names) == 3
    assert all(name == ".lock" or name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in names)


@pytest.mark.parametrize(
    ("task", "named"),
    [("算数", "算数"), ("が", "が"), ("文章題-split", "文章題-split"), ("😀", "x"), ("あ" * 99, "あ" * 30)],
)
def test_files_of_answers_have_readable_names_of_any_script(tmp_path: Path, task: str, named: str) -> None:
    tasks = [{"task": task}, {"task": f"{task}!"}]
    settings = {"split": "report", "models": [{"model": "模型/数学 v2"}], "tasks": tasks}
    with saving(tmp_path / "saved", settings=settings) as saved:
        names = [saved.log(0, number).path.name for number in range(2)]
    assert names == [f"1-模型-数学-v2.{number}-{named}.batches.jsonl" for number in (1, 2)]


@given(st.text(), st.text(min_size=1))
def test_no_name_is_too_long_for_a_file_or_leads_elsewhere(model: str, task: str) -> None:
    assert len(f"12-{_plain(model)}.34-{_plain(task)}.batches.jsonl.partial-0123456789abcdef".encode()) <= 255
    assert not {"/", "\\", ".", " ", "\0"} & set(_plain(task))


def test_answers_that_were_saved_under_other_names_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved"
    stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        score_models(request(folder, "base", "math"), save=saved)
    monkeypatch.undo()
    (unfinished,) = saved.glob("*.batches.jsonl")
    unfinished.rename(saved / "1-x.1-x.batches.jsonl")
    asked = count_prompts(monkeypatch)
    score_models(request(folder, "base", "math"), save=saved, resume=True)
    assert 0 < sum(asked) < 2 * SAMPLES
    (first,) = saved.glob("1-*.jsonl")
    first.rename(saved / "1-x.1-x.jsonl")
    summary = (saved / "summary.json").read_text(encoding="utf-8")
    (saved / "summary.json").write_text(summary.replace(first.name, "1-x.1-x.jsonl"), encoding="utf-8")
    asked.clear()
    score_models(request(folder, "base", "math"), save=saved, resume=True)
    assert asked == []


def test_a_model_named_twice_and_broken_logits_are_reported(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="twice"):
        score_models(request(folder, "base", "base"))
    broken = pico_llm(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["lm_head.weight"].fill_(float("inf"))
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    choice = TaskChoice(name=TASK, data=folder / "problems.jsonl", limit=1)
    wanted = ScoreRequest(models=(str(broken),), tasks=(choice,), split=Split.REPORT, device="cpu")
    with pytest.raises(ModelError, match=f"{TASK}, the model's logits are not finite"):
        score_models(wanted)


class Listener:
    """Keeps what a scoring tells."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.told: list[AnswerProgress] = []

    def loading(self, *, model: str) -> None:
        self.titles.append(f"loading {Path(model).name}")

    def asking(self, *, model: str, task: str) -> None:
        self.titles.append(f"asking {Path(model).name} {task}")

    def answered(self, progress: AnswerProgress) -> None:
        self.told.append(progress)


@pytest.mark.parametrize("is_saved", [False, True])
def test_every_answer_is_reported_as_it_comes(folder: Path, tmp_path: Path, is_saved: bool) -> None:
    listener = Listener()
    save = tmp_path / "saved" if is_saved else None
    scores = score_models(request(folder, "base", limit=20), save=save, observer=listener)
    assert listener.titles == ["loading base", f"asking base {TASK}"]
    assert {progress.done for progress in listener.told} == set(range(1, 21))
    last = listener.told[-1]
    assert (last.done, last.total, last.tokens) == (20, 20, scores.models[0].tasks[0].tokens)
