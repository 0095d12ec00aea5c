"""`evovlm grade` on saved predictions: ours, and anyone's."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from evovlm.tasks.metrics.table import METRICS
from tests.cli.conftest import Command
from tests.pico_clip import pico_clip
from tests.tasks.public_data import public_file


def write_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def ours(name: str, number: str, text: str, *, task: str = "word_problems_ja") -> dict[str, object]:
    """A row as `evovlm score --save` writes it."""
    return {
        "task": task,
        "id": name,
        "question": "いくつ?",
        "references": [number],
        "text": text,
        "extracted": None,
        "score": 0.0,
        "ungated": 0.0,
        "japanese": False,
        "unscored": None,
    }


SAVED = [
    ours("p0", "2", "答えは2です。"),
    ours("p1", "3", "The answer is 3."),
    ours("p2", "4", "わかりません。"),
    ours("p3", "1000", "答えは1,000です。"),
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Four answers to word problems."""
    return write_lines(tmp_path / "saved.jsonl", SAVED)


def figures(evovlm: Command, *arguments: str | Path) -> dict[str, object]:
    """Grade one file of one task."""
    done = evovlm("grade", *arguments, "--json")
    assert done.code == 0, done.err
    ((task,),) = (each["tasks"] for each in json.loads(done.out)["files"])
    assert isinstance(task, dict)
    return task


def test_ours_are_scored_as_their_task_does(evovlm: Command, saved: Path) -> None:
    found = figures(evovlm, saved)
    assert found["task"] == "word_problems_ja"
    assert found["measured"] == "accuracy, robust extractor, script gate"
    assert (found["score"], found["ungated"], found["japanese"]) == (0.5, 0.75, 0.75)
    assert (found["n"], found["unscored"]) == (4, 1)
    low, high = found["interval"]  # type: ignore[misc]
    assert 0.0 < low < 0.5 < high < 1.0


def test_every_part_of_the_scoring_can_be_another(evovlm: Command, saved: Path) -> None:
    assert figures(evovlm, saved, "--extractor", "paper")["score"] == 0.25
    assert figures(evovlm, saved, "--gate", "none")["score"] == 0.75
    assert figures(evovlm, saved, "--gate", "fasttext")["measured"] == "accuracy, robust extractor, fasttext gate"
    words = figures(evovlm, saved, "--metric", "rouge_l_ja", "--gate", "none")
    assert words["measured"] == "rouge_l_ja, no gate"
    assert words["bootstrap_mid"] == pytest.approx(words["score"], abs=0.05)


def test_the_table_shows_the_figures(evovlm: Command, saved: Path) -> None:
    done = evovlm("grade", saved)
    assert done.code == 0, done.err
    for part in (
        "saved.jsonl",
        "word_problems_ja",
        "accuracy, robust extractor, script gate",
        "50.0",
        "75.0",
        "75 %",
        "95 %",
        "unscored",
    ):
        assert part in done.out
    assert "…" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_several_tasks_of_a_file_are_scored_apart(evovlm: Command, tmp_path: Path) -> None:
    rows = [*SAVED, ours("e0", "富士山", "富士山", task="emoji_ja"), ours("p0", "猫", "犬", task="emoji_ja")]
    done = evovlm("grade", write_lines(tmp_path / "both.jsonl", rows), "--json")
    assert done.code == 0, done.err
    (file,) = json.loads(done.out)["files"]
    assert [(each["task"], each["score"], each["n"]) for each in file["tasks"]] == [
        ("word_problems_ja", 0.5, 4),
        ("emoji_ja", 0.5, 2),
    ]


def test_save_writes_what_can_be_graded_again(evovlm: Command, saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "graded.jsonl"
    first = figures(evovlm, saved, "--save", out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["score"] for row in rows] == [1.0, 0.0, 0.0, 1.0]
    assert [row["extracted"] for row in rows] == ["2", "3", None, "1000"]
    assert rows[2]["unscored"] == "no number found"
    assert set(rows[0]) == {*SAVED[0], "tags", "choices", "gate"}
    assert figures(evovlm, out) == first
    refused = evovlm("grade", saved, "--save", out)
    assert refused.code == 2
    assert "exists already" in refused.err


def test_choices_and_tags_are_kept_for_another_grading(evovlm: Command, tmp_path: Path) -> None:
    row = {"id": "a", "text": "東京です", "answer": "B", "choices": ["大阪", "東京"], "tags": ["yes_no"]}
    theirs, out = write_lines(tmp_path / "theirs.jsonl", [row]), tmp_path / "graded.jsonl"
    first = figures(evovlm, theirs, "--metric", "multiple_choice", "--save", out)
    assert first["score"] == 1.0
    assert figures(evovlm, out, "--metric", "multiple_choice") == first
    assert figures(evovlm, out, "--metric", "jdocqa", "--gate", "none")["score"] == 0.0


def test_scores_that_cannot_be_written_are_reported(evovlm: Command, saved: Path, tmp_path: Path) -> None:
    done = evovlm("grade", saved, "--save", tmp_path / "nowhere" / "out.jsonl")
    assert (done.code, done.out) == (2, "")
    assert "cannot be written" in done.err
    assert "Traceback" not in done.err


def test_anyones_table_is_graded_by_its_columns(evovlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "gold_letter", "said", "opts"])
        writer.writerow(["a", "B", "東京です", '["大阪", "東京"]'])
        writer.writerow(["b", "A", "(B)", '["大阪", "東京"]'])
        writer.writerow(["c", "A", "さあ", '["大阪", "東京"]'])
    named = ("--id-column", "key", "--reference-column", "gold_letter", "--prediction-column", "said")
    found = figures(evovlm, path, "--metric", "multiple_choice", *named, "--choices-column", "opts")
    assert (found["task"], found["score"], found["unscored"]) == (None, pytest.approx(1 / 3), 1)


def test_the_page_that_the_help_names_lists_every_metric() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")
    assert set(METRICS) <= set(re.findall(r"`([a-z_0-9]+)`", page))


def test_japanese_names_of_columns_are_found(evovlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("問題,模範解答,回答\n2+3は?,5,5です\n4+4は?,8,9です\n", encoding="utf-8")
    assert figures(evovlm, path, "--metric", "accuracy")["score"] == 0.5


def test_usual_names_of_columns_are_found(evovlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps([{"response": "答えは5", "answer": 5}, {"response": "6", "answer": 5.0}]))
    assert figures(evovlm, path, "--metric", "accuracy")["score"] == 0.5


def test_pictures_are_found_beside_the_file(evovlm: Command, tmp_path: Path) -> None:
    clip = pico_clip(tmp_path / "clip")
    (tmp_path / "pictures").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 32), colour).save(tmp_path / "pictures" / f"{colour}.png")
    rows = [{"text": "赤い", "shown": "pictures/red.png"}, {"text": "", "shown": "pictures/blue.png"}]
    path = write_lines(tmp_path / "captions.jsonl", rows)
    arguments = ("--metric", "clip_score", "--clip-model", clip, "--image-column", "shown", "--device", "cpu")
    found = figures(evovlm, path, *arguments)
    assert 0.0 <= float(str(found["score"])) <= 1.0
    assert (found["n"], found["unscored"]) == (2, 1)
    write_lines(path, [{"text": "赤い", "shown": "../outside.png"}])
    refused = evovlm("grade", path, *arguments)
    assert refused.code == 2
    assert "is outside" in refused.err


def test_two_files_are_compared_by_id(evovlm: Command, saved: Path, tmp_path: Path) -> None:
    better = [{**row, "text": f"答えは{row['references'][0]}です。"} for row in reversed(SAVED)]  # type: ignore[index]
    done = evovlm("grade", write_lines(tmp_path / "better.jsonl", better), saved, "--json")
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)["comparisons"]
    assert found["difference"] == 0.5
    assert (found["wins"], found["losses"], found["ties"], found["n"]) == (2, 0, 2, 4)
    assert (found["p_value"], found["test"]) == (0.5, "McNemar, exact")
    printed = evovlm("grade", tmp_path / "better.jsonl", saved)
    assert "word_problems_ja: better.jsonl - saved.jsonl: +50.0" in printed.out
    assert "better on 2, worse on 0, equal on 2 of 4" in printed.out


def test_files_of_other_samples_are_not_compared(evovlm: Command, saved: Path, tmp_path: Path) -> None:
    fewer = write_lines(tmp_path / "fewer.jsonl", SAVED[1:])
    done = evovlm("grade", saved, fewer)
    assert done.code == 2
    assert "1 only the first has (p0)" in done.err
    assert done.out == ""
    other = write_lines(
        tmp_path / "other.jsonl", [ours("a", "猫", "猫", task="emoji_ja"), ours("a", "x", "x", task="emoji_en")]
    )
    done = evovlm("grade", saved, other)
    assert done.code == 2
    assert "No task to compare" in done.err


@pytest.mark.parametrize("model", ["gpt3", "cyberagent-open-calm-7b"])
def test_a_harness_result_is_graded_where_its_rows_are(evovlm: Command, model: str) -> None:
    path = public_file(f"mgsm_ja_completions/{model}.json")
    found = figures(evovlm, path, "--rows-at", "results/mgsm-1.0-0.0/details", "--metric", "accuracy")
    (theirs,) = json.loads(path.read_text(encoding="utf-8"))["results"].values()
    assert found["n"] == 250
    assert float(str(found["score"])) >= theirs["acc"]


# The content of a file, the number of its wrong row (0: the file), and the message.
BAD_LINES = {
    "no JSON": ('{"id": 1, "text": "a", "references": ["1"]}\n{"id": ', 2, "not JSON"),
    "no object": ("[1]\n", 1, "JSON object"),
    "no rows": ("", 0, "no rows"),
    "no prediction column": (
        '{"said": "a", "references": ["1"]}\n',
        0,
        "said, references. Name the column with --prediction-column",
    ),
    "no reference column": ('{"text": "a", "right": "1"}\n', 0, "text, right. Name the column with --reference-column"),
    "an empty reference": (
        '{"text": "a", "references": ["1"]}\n{"text": "a", "references": null}\n',
        2,
        "'references' is empty",
    ),
    "an empty prediction": ('{"text": null, "references": ["1"]}\n', 1, "one prediction in 'text'"),
    "a prediction of another kind": ('{"text": {"a": 1}, "references": ["1"]}\n', 1, "texts or numbers"),
    "no number": ('{"text": "1", "references": ["不明"]}\n', 1, "'不明' is not a number"),
    "the same id twice": ('{"id": "x", "text": "1", "references": ["1"]}\n' * 2, 0, "two samples have the id 'x'"),
    "no list of choices": ('{"text": "1", "references": ["1"], "choices": {"a": 1}}\n', 1, "texts or numbers"),
}


@pytest.mark.parametrize("case", sorted(BAD_LINES))
def test_a_wrong_file_is_reported_with_its_place(case: str, evovlm: Command, tmp_path: Path) -> None:
    content, row, hint = BAD_LINES[case]
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    done = evovlm("grade", path, "--metric", "accuracy", "--save", tmp_path / "out.jsonl")
    assert (done.code, done.out) == (2, "")
    assert re.search(rf"bad\.jsonl(:|, row ){row}\b" if row else r"bad\.jsonl", done.err)
    assert hint in done.err
    assert "Traceback" not in done.err
    assert [each.name for each in tmp_path.iterdir()] == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--metric", "acuracy"), "did you mean 'accuracy'"),
        (("--extractor", "robst"), "did you mean 'robust'"),
        (("--gate", "scrpt"), "did you mean 'script'"),
        (("--metric", "clip_score"), "--clip-model"),
        (("--metric", "evaluate:./nothing.py"), "does not exist"),
        (("--prediction-column", "txt"), "did you mean 'text'"),
        (("--rows-at", "results"), "as JSON"),
        (("other.jsonl", "third.jsonl"), "3 files were named"),
        (("other.jsonl", "--save", "out.jsonl"), "--save keeps the scores of one file"),
    ],
)
def test_a_wrong_option_is_reported(options: tuple[str, ...], hint: str, evovlm: Command, saved: Path) -> None:
    done = evovlm("grade", saved, *options)
    assert (done.code, done.out) == (2, "")
    assert hint in done.err
    assert "Traceback" not in done.err


def test_an_object_that_contains_the_rows_is_distinguished_from_lines(evovlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "nested.json"
    path.write_text(json.dumps({"results": {"mgsm": [{"text": "1", "answer": "1"}]}}, indent=1))
    done = evovlm("grade", path, "--metric", "accuracy")
    assert (done.code, done.out) == (2, "")
    assert "is one JSON object (results)" in done.err
    assert "--rows-at" in done.err
    assert "found an object of: mgsm" in evovlm("grade", path, "--rows-at", "results", "--metric", "accuracy").err


def test_rows_at_says_what_there_is(evovlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "nested.json"
    path.write_text('{"results": {"mgsm": {"details": 3}}}')
    for rows_at, hint in (
        ("results/mgsn", "'mgsn' was not found in: mgsm"),
        ("results/mgsm/details", "a list of JSON objects"),
        ("results/mgsm/details/0", "'0' was not found in: a int"),
    ):
        done = evovlm("grade", path, "--rows-at", rows_at, "--metric", "accuracy")
        assert done.code == 2
        assert hint in done.err


def test_predictions_of_no_known_task_need_a_metric(evovlm: Command, tmp_path: Path) -> None:
    for row, hint in (
        (ours("a", "1", "1", task="mine"), "task 'mine'"),
        ({"text": "1", "answer": "1"}, "do not name a task"),
    ):
        done = evovlm("grade", write_lines(tmp_path / "rows.jsonl", [row]))
        assert done.code == 2
        assert hint in done.err
        assert "--metric" in done.err


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ('{"text": "\\ud800", "answer": "1"}', "rows.jsonl:1: 'text' contains half a character"),
        ('{"image": "a\\u0000", "text": "1", "answer": "1"}', "rows.jsonl:1: 'a\\x00' is not the path of a picture"),
        ('{"image": "../a.png", "text": "1", "answer": "1"}', "rows.jsonl:1: the picture '../a.png' is outside"),
        ('{"text": "1", "answer": ' + "[" * 500 + "]" * 500 + "}", "rows.jsonl:1: 'answer' is nested more than 100"),
    ],
)
def test_rows_that_could_not_be_saved_are_named(evovlm: Command, tmp_path: Path, row: str, hint: str) -> None:
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    (tmp_path / "rows.json").write_text(f'{{"rows": [{row}]}}')
    done = evovlm("grade", tmp_path / "rows.jsonl", "--metric", "accuracy", "--save", tmp_path / "out.jsonl")
    assert (done.code, hint in done.err) == (2, True)
    assert not (tmp_path / "out.jsonl").exists()
    done = evovlm("grade", tmp_path / "rows.json", "--rows-at", "rows", "--metric", "accuracy")
    assert done.code == 2
    # What is wrong with the whole file is found before any row.
    assert hint.partition(": ")[2] in done.err or "rows.json: cannot be read as JSON" in done.err


def test_a_missing_file_is_reported(evovlm: Command, tmp_path: Path) -> None:
    done = evovlm("grade", tmp_path / "nothing.jsonl")
    assert done.code == 2
    assert "nothing.jsonl" in done.err


def test_grading_texts_loads_no_torch(saved: Path) -> None:
    code = (
        "import sys; from evovlm.cli.app import main\n"
        "saved = sys.argv[1]\n"
        "for metric in ('accuracy', 'rouge_l_ja', 'char_f1'):\n"
        "    sys.argv = ['evovlm', 'grade', saved, '--metric', metric]\n"
        "    try: main()\n"
        "    except SystemExit as ended: assert not ended.code\n"
        "    assert not {'torch', 'transformers', 'datasets', 'open_clip', 'evaluate'} & set(sys.modules), metric"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True)
    # On a busy machine, what takes over a second is a line.
    said = [line for line in done.stderr.splitlines() if not line.startswith("scoring ")]
    assert (done.returncode, said) == (0, [])


SAMPLE = {"doc_id": 0, "doc": {"question": "3+4は?"}, "target": "3+4=7\n#### 7", "resps": [["答えは7です。"]]}


def test_sample_files_of_the_harness_are_read_once_for_all_filters(evovlm: Command, tmp_path: Path) -> None:
    rows = [{**SAMPLE, "filter": name, "filtered_resps": ["7"]} for name in ("strict-match", "flexible-extract")]
    rows += [{**SAMPLE, "doc_id": 1, "filter": "strict-match", "resps": [["8です"], ["7です"]]}]
    path = tmp_path / "samples_gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = figures(evovlm, path, "--metric", "accuracy")
    assert (found["n"], found["score"]) == (3, pytest.approx(2 / 3))


def test_likelihoods_of_the_harness_are_refused(evovlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "samples_arc.jsonl"
    path.write_text(json.dumps({**SAMPLE, "resps": [[[-1.5, False]]]}) + "\n", encoding="utf-8")
    done = evovlm("grade", path, "--metric", "accuracy")
    assert done.code == 2
    assert "which are not texts" in done.err


@pytest.mark.parametrize("reference", ["3+4=7\n#### 7", "#### 7", "７", "7個", "\\boxed{7}", "七", "14/2"])
def test_references_are_read_as_numbers_like_answers(evovlm: Command, tmp_path: Path, reference: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"prediction": "答えは7です", "answer": reference}), encoding="utf-8")
    assert figures(evovlm, path, "--metric", "accuracy")["score"] == 1


def test_thoughts_are_not_scored(evovlm: Command, tmp_path: Path) -> None:
    texts = ["<think>Is it 8? I think so, but let me check.</think>7個です。", "<think>答えは7です。でも"]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"text": text, "answer": "7"}) + "\n" for text in texts), encoding="utf-8")
    found = figures(evovlm, path, "--metric", "accuracy", "--gate", "script")
    assert (found["score"], found["reasons"]) == (0.5, {"reasoning not finished": 1})
