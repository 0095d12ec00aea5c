"""A folder with pictures and a table is a task: what its files and columns are called says which."""

import json
from pathlib import Path

import pytest

from evovlm.errors import TaskError
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.own.folder import describe_folder
from evovlm.tasks.own.tables import read_files
from evovlm.tasks.task import Split
from tests.tasks.sample_files import red


def picture_folder(folder: Path, *, tables: tuple[str, ...] = ("report.csv",)) -> Path:
    """Write a folder of one photo and tables of questions about it."""
    folder.mkdir(parents=True)
    red(40).save(folder / "a.png")
    for table in tables:
        (folder / table).write_text(
            "question,answer,image\nこれは何ですか。,祭りの神輿,a.png\n何色ですか。,赤,a.png\n",
            encoding="utf-8",
        )
    return folder


def test_a_folder_with_pictures_and_a_csv_is_a_task(tmp_path: Path) -> None:
    task = get_task(str(picture_folder(tmp_path / "festivals")))
    assert (task.name, task.needs_images, task.is_local) == ("festivals", True, True)
    assert task.scoring.metric == "rouge_l_ja"
    assert task.splits == {Split.REPORT}
    first, second = task.samples(Split.REPORT)
    assert (first.question, first.references, second.references) == ("これは何ですか。", ("祭りの神輿",), ("赤",))
    assert first.images[0].load().getpixel((0, 0)) == (40, 0, 0)


def test_two_tables_are_what_a_search_sees_and_what_is_reported(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "festivals", tables=("Train.csv", "test.csv"))
    assert describe_folder(folder, taken=())["splits"] == {"search": "Train.csv", "report": "test.csv"}
    alone = picture_folder(tmp_path / "alone", tables=("train.csv",))
    assert get_task(str(alone)).splits == {Split.SEARCH}


def test_columns_are_known_by_their_usual_names_in_two_languages(tmp_path: Path) -> None:
    folder = tmp_path / "写真"
    folder.mkdir()
    red(1).save(folder / "a.png")
    row = {"ID": "x7", "質問": "何?", "正解": "猫", "画像": "a.png"}
    (folder / "data.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    task = get_task(str(folder))
    (sample,) = task.samples(Split.REPORT)
    assert (task.name, sample.id, sample.references, len(sample.images)) == ("own", "x7", ("猫",), 1)


def test_numbers_without_pictures_are_compared_as_numbers(tmp_path: Path) -> None:
    for name, answer, metric in (
        ("sums", "1,200", "accuracy"),
        ("units", "12個", "accuracy"),
        ("words", "赤い箱", "rouge_l_ja"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "search.tsv").write_text(f"question\tanswer\n何個\t3\n何円\t{answer}\n", encoding="utf-8")
        assert get_task(str(tmp_path / name)).scoring.metric == metric
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "search.tsv").write_text("question\tanswer\n何個?\t3\n", encoding="utf-8")
    assert get_task(str(tmp_path / "gsm8k")).name == "gsm8k_own"


@pytest.mark.parametrize(
    ("tables", "header", "says"),
    [
        ((), "question,answer", "tables there: none"),
        (("a.csv", "b.csv"), "question,answer", r"not clear \(tables there: a\.csv, b\.csv\)[\s\S]*search\.csv"),
        (("train.csv", "search.csv"), "question,answer", "is not clear"),
        (("a.csv",), "q,text", r"a\.csv:2: no column \(q, text\) is the answer[\s\S]*Rename one \(answer: "),
    ],
)
def test_a_folder_that_is_not_clear_is_refused(tmp_path: Path, tables: tuple[str, ...], header: str, says: str) -> None:
    for table in tables:
        (tmp_path / table).write_text(f"{header}\n何?,猫\n", encoding="utf-8")
    with pytest.raises(TaskError, match=says):
        get_task(str(tmp_path))


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text("question,answer\n", encoding="utf-8")
    with pytest.raises(TaskError, match="holds no rows"):
        get_task(str(tmp_path))


def test_a_folders_bare_name_is_not_a_task_but_the_message_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture_folder(tmp_path / "festivals")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=r"Unknown task 'festivals'[\s\S]*folder of that name, write \./festivals"):
        get_task("festivals")
    assert get_task("./festivals").name == "festivals"


def test_a_table_that_a_link_leads_elsewhere_is_not_read(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "festivals", tables=())
    (tmp_path / "elsewhere.csv").write_text("question,answer\n秘密,秘密\n", encoding="utf-8")
    (folder / "report.csv").symlink_to("../elsewhere.csv")
    with pytest.raises(TaskError, match=r"report\.csv: is a link that leads out of its folder"):
        get_task(str(folder))
    with pytest.raises(TaskError, match=r"report\.csv: is a link that leads out of its folder"):
        list(read_files(folder))
    (folder / "report.csv").unlink()
    (folder / "tables").mkdir()
    (tmp_path / "elsewhere.csv").rename(folder / "tables" / "own.csv")
    (folder / "report.csv").symlink_to("tables/own.csv")
    assert [sample.question for sample in get_task(str(folder)).samples(Split.REPORT)] == ["秘密"]
