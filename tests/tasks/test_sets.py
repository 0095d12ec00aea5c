"""Every task reads its own set, in the hub's columns, from every kind of place; public copies where they are."""

import base64
import io
import json
from pathlib import Path

import pytest

from evovlm.errors import TaskError
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.leaderboards import ROWS as LEADERBOARD_ROWS
from evovlm.tasks.metrics.table import METRICS, score_answer
from evovlm.tasks.task import Split, Task
from tests.tasks.public_data import public_file
from tests.tasks.sample_files import SETS, SetFile, red

EVERY = [
    pytest.param(task, split, id=f"{task.name}-{split}") for task in TASKS.values() for split in sorted(task.splits)
]
WITH_PICTURES = [case for case in EVERY if SETS[case.values[0].name].pictures]  # type: ignore[union-attr]


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_json_lines_in_the_hub_s_columns_are_read(task: Task, split: Split, tmp_path: Path) -> None:
    rows = SETS[task.name]
    samples = task.samples(split, data=rows.write_json_lines(tmp_path / "rows.jsonl"))
    rows.check(samples)
    for sample in samples:
        asked = task.ask(sample)
        assert asked.text
        assert len(asked.images) == len(sample.images)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_reference_given_as_the_answer_is_right(task: Task, tmp_path: Path) -> None:
    if METRICS[task.scoring.metric].measure is None:
        pytest.skip(f"the metric {task.scoring.metric} asks a model")
    path = SETS[task.name].write_json_lines(tmp_path / "rows.jsonl")
    for sample in task.samples(sorted(task.splits)[0], data=path):
        for reference in sample.references:
            assert score_answer(task.scoring, sample, reference).ungated == 1.0


@pytest.mark.parametrize(("task", "split"), WITH_PICTURES)
def test_parquet_holds_the_pictures_of_the_hub(task: Task, split: Split, tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    rows = SETS[task.name]
    pq.write_table(pa.Table.from_pylist(rows.encoded_rows()), tmp_path / "rows.parquet")
    rows.check(task.samples(split, data=tmp_path / "rows.parquet"))


@pytest.mark.parametrize(("task", "split"), WITH_PICTURES)
def test_what_datasets_saved_keeps_its_pictures_on_disk(task: Task, split: Split, tmp_path: Path) -> None:
    saved_table(SETS[task.name]).save_to_disk(str(tmp_path / "saved"))
    samples = task.samples(split, data=tmp_path / "saved")
    SETS[task.name].check(samples)
    pictures = [picture for sample in samples for picture in sample.images]
    assert {type(picture).__name__ for picture in pictures} <= {"StoredPicture"}


def saved_table(rows: SetFile):  # type: ignore[no-untyped-def]
    """Return the rows as a table of `datasets`, pictures as its Image."""
    import datasets

    encoded = rows.encoded_rows()
    table = datasets.Dataset.from_list(encoded)
    for column in rows.pictures:
        if column not in table.column_names:
            continue
        is_list = any(isinstance(row.get(column), list) for row in encoded)
        image = datasets.Image()
        table = table.cast_column(column, datasets.List(image) if is_list else image)
    return table


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_a_row_without_a_column_names_the_row_and_what_it_has(task: Task, split: Split, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"colour": "red", "image": null}\n', encoding="utf-8")
    with pytest.raises(
        TaskError, match=r"rows\.jsonl:1: there is no '[\w-]+' \(it is (missing|empty)\); found colour, image"
    ):
        task.samples(split, data=path)


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_an_empty_split_is_an_error(task: Task, split: Split, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"rows\.jsonl: has no samples"):
        task.samples(split, data=tmp_path / "rows.jsonl")


@pytest.mark.parametrize(("task", "split"), WITH_PICTURES)
def test_a_picture_outside_the_data_s_folder_is_refused(task: Task, split: Split, tmp_path: Path) -> None:
    rows = SETS[task.name]
    red(10).save(tmp_path / "secret.png")
    (tmp_path / "set").mkdir()
    path = rows.write_json_lines(tmp_path / "set" / "rows.jsonl")
    path.write_text(path.read_text(encoding="utf-8").replace("red-10.png", "../secret.png"), encoding="utf-8")
    if any(sample.get("images") == [] for sample in rows.samples[:1]):
        pytest.skip("this one's samples have no pictures")
    with pytest.raises(TaskError, match=r"secret\.png' is outside"):
        task.samples(split, data=path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gsm8k", {"answer": "It is 6."}, "'answer' should end in '#### NUMBER'"),
        ("gsm8k", {"answer": "#### six"}, "'answer' should be a number, and is ' six'"),
        ("ja_vg_vqa", {"qas": "何色?"}, "'qas' should be a list of structures"),
        ("stair_captions", {"annotations": []}, "'annotations' should be a list of structures"),
        ("heron_bench", {"answer": {"other": "x"}}, "'answer' should hold one by gpt-4-0125-preview"),
        ("jmmmu", {"options": "__import__('os')"}, "'options' should be a list written as text"),
        ("jmmmu", {"question_type": "essay"}, "'question_type' should be multiple-choice or open"),
        ("mecha_ja", {"answer": 3}, "index of one of 3 choices"),
        ("mecha_ja", {"options": "節分"}, "'options' should be a list"),
        ("cvqa_ja", {"Label": -1, "Subset": "('Japanese', 'Japan')"}, "hides its answers"),
        ("jdocqa", {"answer_type": 4}, "'answer_type' should be 0 to 3"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(
    name: str, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    rows = SETS[name]
    changed = SetFile(rows=({**rows.rows[0], **change},), samples=(), pictures=rows.pictures)
    split = sorted(TASKS[name].splits)[0]
    with pytest.raises(TaskError, match=rf"rows\.jsonl:1: .*{message}"):
        TASKS[name].samples(split, data=changed.write_json_lines(tmp_path / "rows.jsonl"))


def test_a_translation_of_all_of_gsm8k_begins_with_mgsm_s_questions(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"問い{n}", "answer_number": n}) for n in range(1319)]
    (tmp_path / "all.jsonl").write_text("\n".join(lines), encoding="utf-8")
    samples = get_task("gsm8k_ja").samples(Split.SEARCH, data=tmp_path / "all.jsonl")
    assert [samples[0].origin, samples[1318].origin] == ["gsm8k-test/0", "gsm8k-test/1318"]


def test_a_set_that_is_not_on_the_hub_says_where_to_get_it() -> None:
    with pytest.raises(TaskError, match=r"get it from https://github\.com/nlp-waseda.*name it with --data"):
        get_task("mawps_ja").samples(Split.SEARCH)


def heron_folder(folder: Path, questions: list[dict[str, object]], answers: list[dict[str, object]]) -> Path:
    (folder / "images").mkdir(parents=True)
    for name, rows in (("questions_ja", questions), ("answers_gpt4", answers)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"japanese-heron-bench_{name}.jsonl").write_text(text, encoding="utf-8")
    for name in {str(row["image"]) for row in questions}:
        red(30).save(folder / "images" / name)
    return folder


@pytest.mark.parametrize(
    "name", ["japanese-heron-bench_questions_ja.jsonl", "japanese-heron-bench_answers_gpt4.jsonl", "images"]
)
def test_heron_bench_follows_no_link_out_of_its_folder(tmp_path: Path, name: str) -> None:
    asked = {"question_id": 7, "image": "001.jpg", "category": "conv", "text": "何が写っていますか？"}
    folder = heron_folder(tmp_path / "both", [asked], [{"question_id": 7, "text": "机です。"}])
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TaskError, match=f"{name}: is a link that leads out of its folder"):
        get_task("heron_bench").samples(Split.REPORT, data=folder)


def test_heron_bench_is_read_as_its_authors_publish_it(tmp_path: Path) -> None:
    asked = {"question_id": 7, "image": "001.jpg", "category": "detail", "text": "何?"}
    folder = heron_folder(tmp_path / "both", [asked], [{"question_id": 7, "text": "机です。"}])
    (sample,) = get_task("heron_bench").samples(Split.REPORT, data=folder)
    assert (sample.id, sample.references, sample.tags) == ("7", ("机です。",), frozenset({"detail"}))
    assert sample.images[0].load().size == (4, 4)
    without = heron_folder(tmp_path / "one", [asked], [{"question_id": 8, "text": "机です。"}])
    with pytest.raises(TaskError, match="question 7 has no answer"):
        get_task("heron_bench").samples(Split.REPORT, data=without)


def test_public_gsm8k_is_read_and_its_first_questions_are_mgsm_s() -> None:
    samples = get_task("gsm8k").samples(Split.REPORT, data=public_file("gsm8k"))
    assert (len(samples), samples[0].references, samples[0].origin) == (1319, ("18",), "gsm8k-test/0")
    assert get_task("gsm8k").samples(Split.SEARCH, data=public_file("gsm8k/test.jsonl")) == samples
    mgsm = get_task("mgsm_en").samples(Split.REPORT, data=public_file("mgsm"))
    assert len(mgsm) == 250
    same = [float(one.references[0]) == float(other.references[0]) for one, other in zip(samples, mgsm, strict=False)]
    assert sum(same) >= 245
    assert [sample.origin for sample in mgsm] == [sample.origin for sample in samples[:250]]
    assert len(get_task("gsm8k").samples(Split.SEARCH, data=public_file("gsm8k"))) == 7473


def test_public_msvamp_and_mawps_are_read() -> None:
    msvamp = get_task("msvamp_ja").samples(Split.SEARCH, data=public_file("msvamp"))
    assert (len(msvamp), msvamp[0].references) == (1000, ("8",))
    assert msvamp[0].question.startswith("ジュリアは月曜日に18人")
    mawps = get_task("mawps_ja").samples(Split.SEARCH, data=public_file("mawps_ja"))
    assert (len(mawps), mawps[0].references) == (1000, ("43",))
    assert not any("問題：" in sample.question or "解答" in sample.question for sample in mawps)


def test_public_heron_bench_has_103_questions_with_answers(tmp_path: Path) -> None:
    source = public_file("heron_bench")
    read = [
        [json.loads(line) for line in (source / f"japanese-heron-bench_{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("questions_ja", "answers_gpt4")
    ]
    samples = get_task("heron_bench").samples(Split.REPORT, data=heron_folder(tmp_path / "bench", *read))
    assert len(samples) == 103
    assert {tag for sample in samples for tag in sample.tags} == {"conv", "detail", "complex"}


def test_a_picture_in_base64_is_read_and_other_languages_are_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    red(40).resize((32, 32)).save(buffer, "BMP")
    rows = [
        {"image": base64.b64encode(buffer.getvalue()).decode(), "question": "?", "answer": "出口", "l2-category": each}
        for each in ("Arabic", "Japanese")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (sample,) = get_task("cc_ocr_ja").samples(Split.REPORT, data=path)
    assert sample.images[0].load().getpixel((0, 0)) == (40, 0, 0)


def test_polymath_is_read_from_a_folder_with_a_file_for_each_level(tmp_path: Path) -> None:
    for level in ("high", "low", "medium", "top"):
        row = {"id": f"{level}-ja-0", "question": f"{level}?", "answer": "1"}
        (tmp_path / f"{level}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    samples = get_task("polymath_ja").samples(Split.REPORT, data=tmp_path)
    assert [sample.id for sample in samples] == ["low-ja-0", "medium-ja-0", "high-ja-0", "top-ja-0"]


def test_jic_vqa_says_where_its_pictures_come_from() -> None:
    with pytest.raises(TaskError, match=r"prepare_jic_vqa\.py of https://github\.com/llm-jp/llm-jp-eval-mm"):
        get_task("jic_vqa").samples(Split.REPORT)


@pytest.mark.parametrize("name", [row.name for row in LEADERBOARD_ROWS])
def test_no_search_may_see_a_task_of_a_leaderboard(name: str) -> None:
    with pytest.raises(TaskError, match="has no split 'search', only: report"):
        TASKS[name].samples(Split.SEARCH)
