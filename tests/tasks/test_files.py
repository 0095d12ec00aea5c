"""Files of task data: what is read from each kind, and how broken ones are named."""

from pathlib import Path

import pytest

from evovlm.errors import TaskError
from evovlm.tasks.own.tables import read_files
from evovlm.tasks.row import Row
from tests.tasks.sample_files import red


def cells(path: Path, **options: tuple[str, ...]) -> list[dict[str, object]]:
    return [dict(row.cells) for row in read_files(path, **options)]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"q": "三\\n?", "n": "3"}\r\n\n{"q": "\u2028", "n": "4"}\n'),
        ("a.json", '[{"q": "三\\n?", "n": "3"}, {"q": "\u2028", "n": "4"}]'),
        ("a.json", '{"q": "三\\n?", "n": "3"}\n{"q": "\u2028", "n": "4"}'),
        ("a.csv", 'q,n\r\n"三\n?",3\r\n\u2028,4\r\n'),
    ],
)
def test_every_kind_of_text_file_gives_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    expected = [{"q": "三\n?", "n": "3"}, {"q": "\u2028", "n": "4"}]
    for mark in ("", "\ufeff"):
        assert cells(write(tmp_path / name, mark + text)) == expected


def test_a_table_may_come_without_a_header_and_with_windows_line_ends(tmp_path: Path) -> None:
    columns = ("question", "answer")
    expected = [{"question": "何?", "answer": "3"}]
    assert cells(write(tmp_path / "a.tsv", "何?\t3\r\n"), columns=columns) == expected
    assert cells(write(tmp_path / "b.tsv", "question\tanswer\r\n何?\t3\r\n"), columns=columns) == expected
    assert cells(write(tmp_path / "c.csv", "何?,3\n"), columns=columns) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"q": 1}\n{"q": ', r"a\.jsonl:2: is not JSON \(Expecting value, line 1, column 7\)"),
        ("a.jsonl", "[1]", r"a\.jsonl:1: should be a JSON object with a key per column, and is a list"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: is JSON that cannot be read"),
        ("a.jsonl", '{"q": ' + "1" * 5000 + "}", r"a\.jsonl:1: is JSON that cannot be read"),
        ("a.json", '[{"q": 1}, 7]', r"a\.json, entry 2: should be a JSON object"),
        ("a.json", "[{]", r"a\.json: is not JSON"),
        ("a.tsv", "q\tn\n一\t1\t余り\n", r"a\.tsv:2: has 3 columns; 2 are needed \(q, n\)"),
        ("a.csv", "q,n\n一,1\n二\n", r"a\.csv:3: has 1 columns; 2 are needed"),
        ("a.csv", "q,q\n1,2\n", r"header names 'q' more than once"),
        ("a.csv", "q\n" + "x" * 200_000, r"a\.csv: cannot be read \(field larger"),
        ("a.parquet", "PAR1 not Parquet PAR1", r"a\.parquet: is not an intact Parquet file"),
        ("a.parquet", "", r"a\.parquet: is not an intact Parquet file"),
        ("a.xlsx", "", r"'\.xlsx' files cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        cells(write(tmp_path / name, text))


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        (tmp_path / name).write_bytes("q,n\n問い,1\n".encode("shift_jis"))
        with pytest.raises(TaskError, match=rf"{name}: cannot be read \('utf-8' codec"):
            cells(tmp_path / name)


def test_a_folder_without_data_or_with_several_saved_splits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no task data"):
        cells(tmp_path)
    with pytest.raises(TaskError, match="no such file or folder"):
        cells(tmp_path / "gone")
    write(tmp_path / "dataset_dict.json", "{}")
    with pytest.raises(TaskError, match="several splits"):
        cells(tmp_path)


def test_files_of_a_folder_are_read_in_order_and_parts_by_their_names(tmp_path: Path) -> None:
    for name in ("b.test", "a.test", "train"):
        write(tmp_path / f"{name}.jsonl", f'{{"from": "{name}"}}')
    assert [row["from"] for row in cells(tmp_path)] == ["a.test", "b.test", "train"]
    assert [row["from"] for row in cells(tmp_path, parts=("dev", "train"))] == ["train"]


def test_an_image_folder_names_its_pictures(tmp_path: Path) -> None:
    red(9).save(tmp_path / "a.png")
    write(tmp_path / "metadata.csv", "file_name,question\na.png,何?\n")
    (row,) = read_files(tmp_path)
    assert row.text("question") == "何?"
    assert row.picture("image").load().getpixel((0, 0)) == (9, 0, 0)
    write(tmp_path / "metadata.csv", "name,question\na.png,何?\n")
    with pytest.raises(TaskError, match=r"metadata\.csv:2: there is no 'file_name'"):
        list(read_files(tmp_path))


def test_a_list_of_structures_may_come_as_a_structure_of_lists() -> None:
    columns = {"qas": {"question": ["何?", "誰?"], "answer": ["犬", "猫"]}}
    row = Row(cells=columns, where="row 1")
    assert row.mappings("qas") == ({"question": "何?", "answer": "犬"}, {"question": "誰?", "answer": "猫"})
