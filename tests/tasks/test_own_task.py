"""A task in a YAML file: read with all its problems at once, its data from where the file lies."""

import json
import re
from pathlib import Path

import pytest
import yaml

from evovlm.errors import ConfigError, TaskError
from evovlm.tasks import hub
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.metrics.table import METRICS
from evovlm.tasks.own.task_file import load_own_task
from evovlm.tasks.task import Decoding, Sample, Split
from tests.tasks.sample_files import red


def write_task(folder: Path, document: dict[str, object], rows: list[dict[str, object]], *, name: str = "mine") -> str:
    """Write a task and its rows, the same for both splits but for their ids; return the task's path."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        lines = [json.dumps({"id": f"{split}-{n}", **row}, ensure_ascii=False) for n, row in enumerate(rows)]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    whole = {"name": name, "data": "data", "splits": {"search": "train", "report": "test.jsonl"}, **document}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    return str(path)


def test_the_example_in_the_documentation_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evovlm.tasks.own import task_document

    text = str(task_document.__doc__).partition("\n\n")[2]
    assert len(text.strip().splitlines()) <= 10
    folder = tmp_path / "festivals"
    folder.mkdir()
    (tmp_path / "festivals.yaml").write_text(text, encoding="utf-8")
    red(40).save(folder / "a.png")
    for split in ("train", "test"):
        row = {"q": "何の祭り?", "a": ["祇園祭", "祇園"], "photo": "a.png"}
        (folder / f"{split}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    monkeypatch.chdir(folder)
    task = get_task("../festivals.yaml")
    assert (task.name, task.licence, task.needs_images, task.is_local) == ("festivals", "CC BY 4.0", True, True)
    assert task.scoring == Scoring(metric="rouge_l_ja", gate="script")
    assert task.decoding == Decoding(max_new_tokens=64)
    assert task.splits == {Split.SEARCH, Split.REPORT}
    (sample,) = task.samples(Split.REPORT)
    assert (sample.question, sample.references) == ("何の祭り?", ("祇園祭", "祇園"))
    assert sample.images[0].load().getpixel((0, 0)) == (40, 0, 0)
    assert task.ask(sample).text.endswith("<image>\n何の祭り? [/INST]")


def test_a_task_of_numbers_with_its_own_template(tmp_path: Path) -> None:
    document = {
        "columns": {"id": "id", "question": "problem", "answer": "n", "tags": ["level", "kinds"]},
        "prompt": "Q: {input}\nA:",
        "metric": "accuracy",
        "extractor": "paper",
        "decoding": {"max_new_tokens": 9, "stop": ["Q:"]},
    }
    row = {"problem": "6+7?", "n": "1,300", "level": 2, "kinds": ["sum", "short"]}
    task = get_task(write_task(tmp_path, document, [row]))
    (sample,) = task.samples(Split.SEARCH)
    assert sample == Sample(id="train-0", question="6+7?", references=("1300",), tags=frozenset({"2", "sum", "short"}))
    assert task.ask(sample).text == "Q: 6+7?\nA:"
    assert task.decoding == Decoding(max_new_tokens=9, stop=("Q:",))
    (elsewhere,) = task.samples(Split.REPORT, data=tmp_path / "data" / "train.jsonl")
    assert elsewhere.id == "train-0"


@pytest.mark.skipif("multiple_choice" not in METRICS, reason="its metric is not there yet")
@pytest.mark.parametrize("answer", ["B", 1, "猫"])
def test_a_choice_may_be_given_by_letter_index_or_words(tmp_path: Path, answer: object) -> None:
    document = {"columns": {"choices": "options"}, "metric": "multiple_choice"}
    row = {"question": "何?", "options": ["犬", "猫"], "answer": answer}
    (sample,) = get_task(write_task(tmp_path, document, [row])).samples(Split.REPORT)
    assert (sample.references, sample.choices) == (("B",), ("犬", "猫"))
    wrong = write_task(tmp_path, document, [{**row, "answer": "鳥"}])
    with pytest.raises(TaskError, match=r"test\.jsonl:1: 'answer' should be a letter \(A to B\).* is '鳥'"):
        get_task(wrong).samples(Split.REPORT)


def test_a_task_on_the_hub_names_its_splits_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[object] = []

    def load_dataset(*names: object, **options: object) -> datasets.Dataset:
        asked.append((names, options))
        return datasets.Dataset.from_list([{"question": "6+7?", "answer": "13"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "unreachable_reason", lambda: None)
    document = {"data": "hub:org/set@v2", "config": "ja", "splits": {"report": "validation"}, "metric": "accuracy"}
    task = get_task(write_task(tmp_path, document, []))
    assert (task.hub_id, task.is_local, task.splits) == ("org/set", False, {Split.REPORT})
    assert task.samples(Split.REPORT)[0].references == ("13",)
    assert asked == [(("org/set", "ja"), {"split": "validation", "revision": "v2"})]


def test_every_problem_of_a_file_is_named_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(
        "name: my task\n"
        "data: nowhere\n"
        "splits: {search: a, report: a}\n"
        "columns: {image: [a, b], qestion: q}\n"
        "prompt: ja-shisa\n"
        "metric: acuracy\n"
        "extractor: best\n"
        "gate: latin\n"
        "decoding: {max_new_tokens: 0, temperatur: 1}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        get_task(str(path))
    for line, words in (
        (1, "name: .*pattern"),
        (2, "data: no such folder"),
        (3, "splits: search and report are the same"),
        (4, "columns.qestion: unknown key; did you mean 'question'"),
        (5, "prompt: unknown prompt.*did you mean 'ja-shisa-vqa'"),
        (6, "metric: unknown metric; did you mean 'accuracy'"),
        (7, "extractor: unknown extractor"),
        (8, "gate: unknown gate"),
        (9, "decoding.max_new_tokens: .*greater than or equal to 1"),
        (9, "decoding.temperatur: unknown key; did you mean 'temperature'"),
    ):
        assert re.search(rf"broken\.yaml:{line}: {words}", str(caught.value)), (words, str(caught.value))
    assert "10 problems" in str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"name": "gsm8k"}, "name: there is a task of this name already"),
        ({"splits": {}}, "splits: should name search, report or both"),
        ({"splits": {"search": "dev"}}, "splits.search: there is no 'dev' in"),
        ({"columns": {"image": "photo"}, "prompt": "heron"}, "prompt: has no place for the pictures"),
        ({"metric": 3}, "metric: .*string"),
        ({"metric": "evaluate:./gone.py"}, "metric: .*the metric script .*gone.py does not exist"),
        ({"metric": "evaluate:#x"}, "metric: .*cannot be read"),
        ({"metric": "clip_score", "columns": {"image": "p"}}, "clip_model: missing, and clip_score takes an open_clip"),
        ({"metric": "clip_score", "clip_model": "a"}, "columns.image: missing, and clip_score is about pictures"),
        ({"clip_model": "a"}, "clip_model: accuracy takes no model"),
    ],
)
def test_what_does_not_fit_together_is_a_problem_of_the_file(
    tmp_path: Path, document: dict[str, object], message: str
) -> None:
    path = write_task(tmp_path, {"metric": "accuracy", **document}, [])
    with pytest.raises(ConfigError, match=message):
        get_task(path)


def test_a_metric_s_script_and_model_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks" / "clip").mkdir(parents=True)
    (tmp_path / "tasks" / "half.py").write_text("", encoding="utf-8")
    (tmp_path / "tasks" / "clip.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    folder = Path("tasks")
    path = write_task(folder, {"metric": "evaluate:./half.py#value*0.5"}, [], name="half")
    assert get_task(path).scoring.metric == f"evaluate:{tmp_path}/tasks/half.py#value*0.5"
    pictures = {"metric": "clip_score", "columns": {"image": "photo"}}
    for name, found in (
        ("clip", f"{tmp_path}/tasks/clip"),
        ("ViT-B-32:clip.safetensors", f"ViT-B-32:{tmp_path}/tasks/clip.safetensors"),
        ("ViT-B-32:laion2b_s34b_b79k", "ViT-B-32:laion2b_s34b_b79k"),
        ("org/clip@main", "org/clip@main"),
    ):
        path = write_task(folder, {**pictures, "clip_model": name}, [], name="seen")
        assert get_task(path).scoring == Scoring(metric="clip_score", clip_model=found)


def test_a_metric_of_evaluate_is_left_to_it(tmp_path: Path) -> None:
    task = get_task(write_task(tmp_path, {"metric": "evaluate:exact_match"}, [{"question": "何?", "answer": "犬"}]))
    assert task.scoring.metric == "evaluate:exact_match"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "何?"}, r"test\.jsonl:1: there is no 'answer'"),
        ({"question": "何?", "answer": "赤い箱"}, "'answer' should be a number"),
        ({"question": "何?", "answer": []}, "'answer' is empty"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = write_task(tmp_path, {"metric": "accuracy"}, [row])
    with pytest.raises(TaskError, match=message):
        get_task(path).samples(Split.REPORT)


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        get_task("gone.yaml")


@pytest.mark.parametrize(
    "text",
    [
        'data: "a\\0b"\nsplits: {report: rows.jsonl}',
        f"data: {'x' * 5000}\nsplits: {{report: rows.jsonl}}",
        f"splits: {{report: {'x' * 5000}}}",
        'splits: {report: "a\\0"}',
        "data: ~nouser\nsplits: {report: rows.jsonl}",
        "data: /dev\nsplits: {report: zero}",
    ],
)
def test_data_that_no_file_can_be_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nprompt: zoo-problem-ja\nmetric: rouge_l_ja\n{text}\n")
    with pytest.raises((ConfigError, TaskError)):
        load_own_task(path, taken={}).samples(Split.REPORT)
    with pytest.raises(TaskError, match="zero character"):
        load_own_task(Path("a\0/b"), taken={})


def test_links_that_lead_nowhere_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text("question,answer\n何?,犬\n")
    (tmp_path / "gone.csv").symlink_to("nowhere")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert load_own_task(tmp_path, taken={}).samples(Split.REPORT)[0].question == "何?"


def test_a_question_has_a_bounded_number_of_choices(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nsplits: {report: rows.jsonl}\ncolumns: {choices: c}\nprompt: zoo-problem-ja\nmetric: rouge_l_ja\n"
    )
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "?", "answer": "1", "c": list(range(101))}))
    with pytest.raises(TaskError, match=r"rows\.jsonl:1: has 101 choices, and at most 100 are read"):
        load_own_task(tmp_path / "mine.yaml", taken={}).samples(Split.REPORT)


def test_a_table_is_a_task_whose_rows_are_all_reported(tmp_path: Path) -> None:
    for name in ("search.csv", "mine.csv"):
        (tmp_path / name).write_text("question,answer\n6+7?,13\n6+8?,14\n", encoding="utf-8")
        task = get_task(str(tmp_path / name))
        assert (task.name, task.splits) == (name[:-4], {Split.REPORT})
        assert [sample.references for sample in task.samples(Split.REPORT)] == [("13",), ("14",)]
        assert "accuracy: 2 of 2 answers are numbers" in task.notes(Split.REPORT, None)


def test_a_table_that_leads_out_of_its_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("question,answer\n6+7?,13\n", encoding="utf-8")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.csv").symlink_to("../theirs.csv")
    with pytest.raises(TaskError, match=r"mine\.csv: is a link that leads out"):
        get_task(str(tmp_path / "own" / "mine.csv"))


def test_a_task_says_how_models_think_and_chat_and_how_answers_are_drawn(tmp_path: Path) -> None:
    document: dict[str, object] = {
        "metric": "accuracy",
        "chat": {"system": "短く。", "template": {"enable_thinking": False}},
        "reasoning": ["<a>", "</a>"],
        "decoding": {"max_new_tokens": 900, "temperature": 0.6, "repeats": 2},
    }
    task = get_task(write_task(tmp_path, document, [{"question": "3+4?", "answer": "7"}]))
    assert task.scoring == Scoring(metric="accuracy", reasoning=("<a>", "</a>"))
    assert task.decoding == Decoding(max_new_tokens=900, temperature=0.6, repeats=2)
    (sample,) = task.samples(Split.REPORT)
    asked = task.ask(sample)
    assert (asked.chat, asked.system, asked.template) == (True, "短く。", {"enable_thinking": False})
    other = task.asked(prompt="Q: {input}")
    assert (other.ask(sample).chat, other.ask(sample).template) == (False, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chat": {"system": "a"}, "prompt": "Q: {input}"}, "chat: fills the model's chat template"),
        ({"chat": {"template": {"messages": 1}}}, "'messages' cannot be set"),
        ({"reasoning": "sometimes"}, "'sometimes' is unknown"),
        ({"reasoning": ["a", "a"]}, "two different texts"),
        ({"decoding": {"repeats": 2}}, "repeats has no effect"),
        ({"decoding": "search"}, "should hold keys and their values"),
        ({"decoding": {"temperature": -1}}, "greater than or equal to 0"),
    ],
)
def test_a_wrong_way_to_ask_is_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = write_task(tmp_path, {"metric": "accuracy", **changes}, [{"question": "3+4?", "answer": "7"}])
    with pytest.raises(ConfigError, match=words):
        get_task(path)
