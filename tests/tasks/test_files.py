"""Files of task data: what is read from each kind, and how broken ones are named."""

import os
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
        ("a.tsv", "q\tn\n一\t1\t余り\n", r"a\.tsv:2: has 3 cells, and 2 columns are needed \(q, n\)"),
        ("a.csv", "q,n\n一,1\n二\n", r"a\.csv:3: has 1 cell, and 2 columns are needed"),
        ("a.csv", "q,q\n1,2\n", r"header names 'q' more than once"),
        ("a.csv", "q\n" + "x" * 200_000, r"a\.csv: cannot be read \(field larger"),
        ("a.parquet", "PAR1 not Parquet PAR1", r"a\.parquet: is not an intact Parquet file"),
        ("a.parquet", "", r"a\.parquet: is not an intact Parquet file"),
        ("a.xlsx", "", r"a\.xlsx: is not an intact \.xlsx file"),
        ("a.xls", "", r"'\.xls' files cannot be read[\s\S]*Save it as \.xlsx or \.csv"),
    ],
)
def test_a_broken_file_is_named_with_its_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        cells(write(tmp_path / name, text))


def test_text_in_shift_jis_is_read_and_other_bytes_are_named(tmp_path: Path) -> None:
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        (tmp_path / name).write_bytes(f"q{separator}n\n問い{separator}1\n".encode("shift_jis"))
        (row,) = read_files(tmp_path / name)
        assert row.cells == {"q": "問い", "n": "1"}
        (tmp_path / name).write_bytes(b"q\n\xe9\xff\n")
        with pytest.raises(TaskError, match=rf"{name}: cannot be read as text: it is neither UTF-8"):
            list(read_files(tmp_path / name))


def test_a_folder_without_data_or_with_several_saved_splits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no task data was found"):
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


def nested(levels: int) -> str:
    return '{"q": ' + "[" * levels + "]" * levels + "}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"q": "\\ud800"}', r"a\.jsonl:1: 'q' contains half a character \('\\ud800'\)"),
        ("a.jsonl", b'{"q": 1, "\\udfff": 2}', r"contains half a character"),
        ("a.json", b'[{"q": [["\\udbff"]]}]', r"entry 1: 'q' contains half a character"),
        ("a.jsonl", nested(102).encode(), r"a\.jsonl:1: 'q' is nested more than 100 levels deep"),
        ("a.jsonl", nested(900).encode(), r"a\.jsonl:1: 'q' is nested more than 100 levels deep"),
        ("a.csv", b"q\n\xff\xfe\n", r"a\.csv: cannot be read as text: it is neither UTF-8 \(byte 0xff in line 2\)"),
    ],
)
def test_cells_that_could_not_be_saved_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=message):
        cells(tmp_path / name)


def test_cells_may_be_nested_and_contain_any_character(tmp_path: Path) -> None:
    found = cells(write(tmp_path / "a.jsonl", nested(99) + '\n{"q": "\\ud83d\\ude00\\u0000"}'))
    assert found[1] == {"q": "\U0001f600\0"}


def test_pipes_devices_and_folders_are_not_read_as_tables(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zeros.csv").symlink_to("/dev/zero")
    (tmp_path / "pipes" / "x").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipes" / "a.parquet")
    for name in ("pipe.jsonl", "zeros.csv", "pipes"):
        with pytest.raises(TaskError, match="a folder, a pipe or a device"):
            cells(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TaskError, match="no task data was found"):
        cells(tmp_path / "folder.csv")


def test_names_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    for name in ("x" * 5000 + ".csv", "a\0.csv", "~nouser/a.csv"):
        with pytest.raises(TaskError, match=r"no such file or folder|cannot be read"):
            cells(tmp_path / name)


def test_a_folder_saved_by_datasets_is_read_or_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"q": ["何?"]}).save_to_disk(str(tmp_path / "saved"))
    assert cells(tmp_path / "saved") == [{"q": "何?"}]
    (data,) = (tmp_path / "saved").glob("*.arrow")
    state = (tmp_path / "saved" / "state.json").read_text()
    for broken in ("{}", "[]", "[" * 100_000, '{"_data_files": [{"filename": "../x.arrow"}]}', "\ud800"):
        (tmp_path / "saved" / "state.json").write_text(broken, errors="replace")
        with pytest.raises(TaskError, match="is not an intact folder saved by `datasets`"):
            cells(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text(state)
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(TaskError, match="is not an intact folder saved by `datasets`"):
        cells(tmp_path / "saved")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_a_table_of_very_many_columns_is_refused(tmp_path: Path, name: str) -> None:
    sign, columns = "\t" if name == "a.tsv" else ",", [f"c{number}" for number in range(20_000)]
    if name == "a.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({column: [1] for column in columns}), tmp_path / name)
    else:
        (tmp_path / name).write_text(f"{sign.join(columns)}\n{sign.join(['1'] * len(columns))}\n")
    with pytest.raises(TaskError, match=rf"{name}: has 20,000 columns, and at most 1,000 are read"):
        cells(tmp_path / name)


def test_parquet_cells_that_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"q": ["x"], "a": ["0" * 5_000_000]})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    assert len(cells(tmp_path / "a.parquet")[0]["a"]) == 5_000_000
    monkeypatch.setattr("evovlm.tasks.own.tables._MOST_BYTES", 1_000_000)
    with pytest.raises(TaskError, match=r"a\.parquet: a part of its column 'a' takes 5,000,\d+ bytes"):
        cells(tmp_path / "a.parquet")


def test_a_large_parquet_cell_that_rows_share_is_read_a_few_times_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": ["0" * 400_000] * 50}), tmp_path / "a.parquet")
    monkeypatch.setattr("evovlm.tasks.own.tables._MOST_BYTES", 1_000_000)
    asked = []
    read = parquet.ParquetFile.iter_batches

    def iter_batches(self: object, *, batch_size: int) -> object:
        asked.append(batch_size)
        return read(self, batch_size=batch_size)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", iter_batches)
    assert len(cells(tmp_path / "a.parquet")) == 50
    assert asked == [2]


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"q": pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())})
    parquet.write_table(table, tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (whole, whole[:-20], b"PAR1" + whole[100:]):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(TaskError, match=r"a\.parquet: is not an intact Parquet file"):
            cells(tmp_path / "a.parquet")


def test_numbers_and_indexes_out_of_bounds_are_refused() -> None:
    row = Row(cells={"n": "1e999", "i": "9" * 5000}, where="row 1")
    with pytest.raises(TaskError, match="row 1: 'n' should be a number"):
        row.number("n")
    with pytest.raises(TaskError, match="row 1: 'i' should be the index of one of 4 choices"):
        row.letter("i", n_choices=4)
