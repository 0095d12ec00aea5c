"""Tables as people have them: as spreadsheet programs save them, with units, with gaps, all in one file."""

import io
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import openpyxl
import pillow_heif
import pytest
from PIL import Image

from evovlm.errors import ConfigError, TaskError
from evovlm.tasks import pictures
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.metrics.references import number_of
from evovlm.tasks.overlap import overlaps
from evovlm.tasks.own.tables import read_files
from evovlm.tasks.task import Split, Task
from tests.tasks.sample_files import red

ROWS = (("1個100円のりんごを3個買いました。合計は?", "300"), ("1,200円の本を2冊では?", "2,400"))


def excel_text(separator: str, encoding: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        lines = [("質問", "答え"), *ROWS]
        text = "".join(separator.join(f'"{cell}"' for cell in line) + "\r\n" for line in lines)
        (folder / "report.csv").write_bytes(text.encode(encoding))

    return write


def excel_book(folder: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    for line in [("質問", "答え"), (ROWS[0][0], 300), (ROWS[1][0], 2400.0), (None, None)]:
        sheet.append(line)
    book.create_sheet("memo").append(["x"])
    book.save(folder / "report.xlsx")


def a_hint(folder: Path) -> None:
    (folder / "report.csv").write_text("sep=|\n質問|答え\n" + "".join("|".join(row) + "\n" for row in ROWS))


def samples(task: Task, split: Split = Split.REPORT) -> list[tuple[str, tuple[str, ...]]]:
    return [(sample.question, sample.references) for sample in task.samples(split)]


@pytest.mark.parametrize(
    ("write", "note"),
    [
        (excel_text(",", "utf-8-sig"), None),
        (excel_text(",", "cp932"), "the text is read as Shift JIS (cp932)"),
        (excel_text(";", "utf-8-sig"), None),
        (excel_text(";", "cp932"), "the text is read as Shift JIS (cp932)"),
        (excel_text(",", "utf-16"), "the text is read as UTF-16"),
        (excel_text("\t", "utf-16"), "the text is read as UTF-16"),
        (excel_book, None),
        (a_hint, None),
    ],
    ids=["utf-8", "cp932", "semicolon", "semicolon in cp932", "utf-16", "tabs in utf-16", "xlsx", "sep="],
)
def test_a_table_of_a_spreadsheet_program_is_read(
    tmp_path: Path, write: Callable[[Path], None], note: str | None
) -> None:
    write(tmp_path)
    task = get_task(str(tmp_path))
    assert task.scoring.metric == "accuracy"
    assert samples(task) == [(ROWS[0][0], ("300",)), (ROWS[1][0], ("2400",))]
    notes = task.notes(Split.REPORT, None)
    assert (note in notes) or note is None
    assert notes[-1] == "accuracy: 2 of 2 answers are numbers"
    assert "columns: question = 質問, answer = 答え" in notes


def test_what_is_no_text_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_bytes("question,answer\ncafé?,7\n".encode("latin-1"))
    with pytest.raises(TaskError, match=r"neither UTF-8 \(byte 0xe9 in line 2\), UTF-16 nor Shift JIS"):
        get_task(str(tmp_path))
    (tmp_path / "report.csv").unlink()
    (tmp_path / "report.xlsx").write_bytes(b"PK\x03\x04 not a book")
    with pytest.raises(TaskError, match=r"report\.xlsx: is not an intact \.xlsx file"):
        get_task(str(tmp_path))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("問題文", "模範解答"),
        ("設問", "解答"),
        ("問", "回答"),
        ("Question (必須)", "Expected"),
        ("Ｑ", "正答"),
        ("Problem", "Solution"),
    ],
)
def test_columns_have_the_names_that_people_give_them(tmp_path: Path, question: str, answer: str) -> None:
    (tmp_path / "report.csv").write_text(f"{question},{answer}\n3+4は?,7\n", encoding="utf-8")
    assert samples(get_task(str(tmp_path))) == [("3+4は?", ("7",))]


def test_a_key_to_the_answers_is_taken_before_someone_s_answers(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text("問題,回答,模範解答\n3+4は?,8,7\n", encoding="utf-8")
    assert samples(get_task(str(tmp_path))) == [("3+4は?", ("7",))]


def test_a_table_without_column_names_says_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text("3+4は?,7\n5+5は?,10\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"its first row should name the columns[\s\S]*question,answer"):
        get_task(str(tmp_path))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("7", "7"),
        ("1,200", "1200"),
        ("1，２００円", "1200"),
        ("約12個です。", "12"),
        ("50%", "50"),
        ("３／４", "0.75"),
        ("½", "0.5"),
        (r"$\frac{1}{2}$", "0.5"),
        ("3と4を足すと7です。\n#### 7", "7"),
        ("#### 1,000", "1000"),
        (r"\boxed{7}", "7"),
        ("三個", "3"),
        ("千二百円", "1200"),
        ("12.5 %", "12.5"),
        ("1,00,000", "100000"),
        ("-1,200.5", "-1200.5"),
        ("3万5千円", "35000"),
        ("−3度", "-3"),
        ("5 km/h", "5"),
        ("$1,000", "1000"),
        ("祭りの神輿", None),
        ("三重県", None),
        ("2024年5月", None),
        ("3時間20分", None),
        ("nan", None),
        ("", None),
    ],
)
def test_answers_are_read_as_numbers_where_they_are_numbers(answer: str, number: str | None) -> None:
    assert number_of(answer) == number


def test_a_few_answers_that_are_not_numbers_are_left_out_by_row(tmp_path: Path) -> None:
    answers = [f"{n}個" for n in range(48)]
    answers.insert(5, "不明")
    answers.insert(29, "たくさん")
    rows = "".join(f"問{n}は?,{answer}\n" for n, answer in enumerate(answers))
    (tmp_path / "report.csv").write_text(f"question,answer\n{rows}", encoding="utf-8")
    task = get_task(str(tmp_path))
    assert task.scoring.metric == "accuracy"
    assert len(task.samples(Split.REPORT)) == 48
    note = "accuracy: 48 of 50 answers are numbers; left out, as they are not: rows 7, 31"
    assert task.notes(Split.REPORT, None) == (note,)


def test_texts_with_some_numbers_are_compared_as_texts_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text("question,answer\n何色?,赤\n何個?,3\n", encoding="utf-8")
    task = get_task(str(tmp_path))
    assert task.scoring.metric == "rouge_l_ja"
    assert task.notes(Split.REPORT, None) == ("rouge_l_ja: 1 of 2 answers are numbers",)


def test_empty_rows_are_skipped_by_number_and_empty_cells_refused(tmp_path: Path) -> None:
    table = tmp_path / "report.csv"
    table.write_text("question,answer\n3+4は?,7\n,\n5+5は?,10\n,\n , \n", encoding="utf-8")
    task = get_task(str(tmp_path))
    assert len(task.samples(Split.REPORT)) == 2
    # Those at the end were once used by the program; the one inside may be a slip.
    assert task.notes(Split.REPORT, None)[0] == "empty rows are skipped: row 3"
    for row, column in (("5+5は?,", "answer"), (" ,10", "question")):
        table.write_text(f"question,answer\n3+4は?,7\n{row}\n", encoding="utf-8")
        with pytest.raises(TaskError, match=rf"report\.csv:3: '{column}' is empty"):
            get_task(str(tmp_path)).samples(Split.REPORT)


def test_half_a_character_leaves_out_its_row_alone(tmp_path: Path) -> None:
    text = '{"question": "\\ud800?", "answer": "7"}\n{"question": "3+4?", "answer": "7"}\n'
    (tmp_path / "report.jsonl").write_text(text, encoding="utf-8")
    task = get_task(str(tmp_path))
    assert samples(task) == [("3+4?", ("7",))]
    (note, _) = task.notes(Split.REPORT, None)
    assert note.startswith("a row is left out: ")
    assert "report.jsonl:1: 'question' contains half a character" in note


def split_task(folder: Path, rows: str, *, share: float = 0.5, seed: int = 0) -> Task:
    (folder / "問題集").mkdir(parents=True, exist_ok=True)
    (folder / "問題集" / "all.csv").write_text(f"問題,解答\n{rows}", encoding="utf-8")
    text = f"name: sums\ndata: ./問題集\nsplit: {{search: {share}, seed: {seed}}}\nprompt: '{{input}}'\n"
    (folder / "sums.yaml").write_text(text, encoding="utf-8")
    return get_task(str(folder / "sums.yaml"))


def test_one_table_is_split_by_shares_visibly_and_always_the_same(tmp_path: Path) -> None:
    rows = "".join(f"{n}+1は?,{n + 1}\n" for n in range(40))
    task = split_task(tmp_path, rows)
    parts = {split: [sample.id for sample in task.samples(split)] for split in Split}
    assert len(parts[Split.SEARCH]) == len(parts[Split.REPORT]) == 20
    assert sorted(parts[Split.SEARCH] + parts[Split.REPORT]) == [f"{n:04d}" for n in range(1, 41)]
    (note,) = (note for note in task.notes(Split.REPORT, None) if note.startswith("split"))
    assert note in task.notes(Split.SEARCH, None)
    # The first question is in row 2 of the table.
    of = {split: ", ".join(str(int(each) + 1) for each in ids[:10]) for split, ids in parts.items()}
    assert note == (
        f"split by shares (seed 0) of 40 samples: search 20 (rows {of[Split.SEARCH]}, ...), "
        f"report 20 (rows {of[Split.REPORT]}, ...)"
    )
    assert task.scoring.metric == "accuracy"
    assert [sample.id for sample in split_task(tmp_path / "again", rows).samples(Split.SEARCH)] == parts[Split.SEARCH]
    other = split_task(tmp_path / "other", rows, seed=1).samples(Split.SEARCH)
    assert [sample.id for sample in other] != parts[Split.SEARCH]


def test_the_same_questions_are_in_the_same_part(tmp_path: Path) -> None:
    rows = "".join(f"{n}+1は?,{n + 1}\n{n}+1 は？,{n + 1}\n" for n in range(10))
    task = split_task(tmp_path, rows, share=0.3)
    search, report = task.samples(Split.SEARCH), task.samples(Split.REPORT)
    assert (len(search), len(report)) == (6, 14)
    assert overlaps(search, report) == ()


def test_samples_of_the_same_picture_are_in_the_same_part(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(6):
        red(40 * n).save(folder / f"{n}.png")
        red(40 * n).save(folder / f"copy{n}.png")
    rows = "".join(f"何?,赤,{n}.png\n何色?,赤,copy{n}.png\n" for n in range(6))
    (folder / "all.csv").write_text(f"question,answer,image\n{rows}", encoding="utf-8")
    (tmp_path / "own.yaml").write_text("name: own\ndata: photos\nsplit: {search: 0.5}\n", encoding="utf-8")
    task = get_task(str(tmp_path / "own.yaml"))
    search, report = task.samples(Split.SEARCH), task.samples(Split.REPORT)
    assert (len(search), len(report)) == (6, 6)
    assert overlaps(search, report) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("split: {search: 1.0}", "split.search"),
        ("split: {search: 0.5}\nsplits: {report: all.csv}", "leave one of them out"),
        ("metric: accuracy", "splits: missing; name the data"),
        ("split: {search: 0.5}\ntable: gone.csv", "gone.csv: this table does not exist"),
    ],
)
def test_a_wrong_split_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "all.csv").write_text("question,answer\n3+4は?,7\n4+4は?,8\n", encoding="utf-8")
    (tmp_path / "own.yaml").write_text(f"name: own\n{text}\n", encoding="utf-8")
    with pytest.raises((ConfigError, TaskError), match=says):
        get_task(str(tmp_path / "own.yaml"))


def test_one_row_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="1 samples in 1 groups"):
        split_task(tmp_path, "3+4は?,7\n").samples(Split.SEARCH)


def heic(path: Path) -> None:
    pillow_heif.register_heif_opener()
    content = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 10, 10)).save(content, "HEIF")
    path.write_bytes(content.getvalue())


def test_a_heic_picture_is_read_with_its_package_and_named_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heic(tmp_path / "IMG_1.HEIC")
    (tmp_path / "report.csv").write_text("question,answer,image\n何色?,赤,IMG_1.HEIC\n", encoding="utf-8")
    (sample,) = get_task(str(tmp_path)).samples(Split.REPORT)
    assert sample.images[0].load().size == (32, 32)
    monkeypatch.setattr(pictures, "find_spec", lambda _name: None)
    with pytest.raises(TaskError, match=r"is a HEIC picture[\s\S]*pip install 'evovlm\[heic\]'"):
        sample.images[0].load()


@pytest.mark.parametrize(
    ("there", "named"), [("a.jpg", "A.JPG"), ("a.JPG", "a.jpg"), ("a.jpeg", "a.jpg"), ("か\u3099.png", "が.png")]
)
def test_a_picture_of_nearly_that_name_is_proposed(tmp_path: Path, there: str, named: str) -> None:
    red(1).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / there)
    if (tmp_path / named).exists():
        pytest.skip("this file system does not distinguish the names")
    (tmp_path / "report.csv").write_text(f"question,answer,image\n何?,赤,{named}\n", encoding="utf-8")
    with pytest.raises(TaskError, match=f"Did you mean '{there}'"):
        get_task(str(tmp_path)).samples(Split.REPORT)


def test_a_sheet_of_very_many_cells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A format on the last column makes every row as wide as a sheet can be.
    book = openpyxl.Workbook()
    for row in (["question", "answer"], *([f"{number}?", "1"] for number in range(20))):
        book.active.append(row)
    for number in range(2, 22):
        book.active[f"XFD{number}"] = " "
    book.save(tmp_path / "report.xlsx")
    assert len(list(read_files(tmp_path / "report.xlsx"))) == 20
    monkeypatch.setattr("evovlm.tasks.own.spreadsheets._MOST_CELLS", 100_000)
    with pytest.raises(TaskError, match="has more than 1,048,576 rows or 100,000 cells, empty ones too"):
        list(read_files(tmp_path / "report.xlsx"))


@pytest.mark.parametrize("answer", ["3,5", "1,5 00", "12,34", "1,2,3", "0,5個"])
def test_a_comma_that_groups_no_digits_is_not_left_out(answer: str) -> None:
    assert number_of(answer) is None


@pytest.mark.parametrize(
    ("name", "encoding", "separator"),
    [
        ("report.csv", "utf-16-le", ","),
        ("report.csv", "utf-16-be", ","),
        ("report.csv", "utf-32", ","),
        ("report.csv", "iso2022_jp", ","),
        ("report.csv", "utf-8", "|"),
        ("report.tsv", "cp932", "\t"),
        ("report.tsv", "utf-16-le", "\t"),
    ],
)
def test_encodings_and_separators_of_other_programs_are_read(
    tmp_path: Path, name: str, encoding: str, separator: str
) -> None:
    lines = [("質問", "答え"), ("3+4は?", "7")]
    (tmp_path / name).write_bytes("".join(separator.join(line) + "\n" for line in lines).encode(encoding))
    assert samples(get_task(str(tmp_path))) == [("3+4は?", ("7",))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("report.csv", b"question,answer\n1+1,2\na\0b,3\n", r"report\.csv:3: contains a zero byte"),
        (
            "report.csv",
            "算数,\nquestion,answer\n1+1,2\n".encode(),
            r":2: has 2 cells, and the first row only one \(算数\)",
        ),
        ("report.csv", b'question,answer\n"1+1,2\n', r":2: has 1 cell, and 2 columns are needed .* each quote closed"),
        ("report.jsonl", b'{"question": "a", "answer": NaN}', r":1: 'answer' is empty"),
        ("report.jsonl", b'{"question": "a", "answer": ["7", null]}', r":1: 'answer' is empty"),
        ("report.jsonl", b'{"question": "a", "answer": 10e400}', r":1: 'answer' should be .* and is inf"),
        ("report.jsonl", b'{"question": "a", "answer": {"text": "7"}}', r":1: 'answer' should be .* and is {'text'"),
        ("report.jsonl", b'{"question": ["a"], "answer": "7"}', r":1: 'question' should be a text, and is \['a'\]"),
        ("report.json", b'{"data": [{"question": "a", "answer": "7"}]}', r"is one JSON object \(data\)"),
    ],
)
def test_what_a_table_cannot_mean_is_refused_by_row(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=message):
        get_task(str(tmp_path)).samples(Split.REPORT)


def test_another_program_s_table_is_refused_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "book.xls").write_bytes(b"\xd0\xcf")
    with pytest.raises(TaskError, match=r"'\.xls' files cannot be read\. Save the table as \.xlsx or \.csv"):
        get_task(str(tmp_path / "book.xls"))


def test_a_cell_of_a_sheet_means_what_it_shows(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for line in [(), (None,), ("質問", "答え"), ("半分は?", 0.5), ("3+4は?", 7), ("合計は?", 1200.0)]:
        book.active.append(line)
    book.active["B4"].number_format = "0.0%"
    book.save(tmp_path / "report.xlsx")
    assert [references for _, references in samples(get_task(str(tmp_path)))] == [("50",), ("7",), ("1200",)]
    book.active["B5"] = datetime(2024, 1, 2)
    book.active["B6"] = "#DIV/0!"
    book.save(tmp_path / "report.xlsx")
    with pytest.raises(TaskError, match=r"report\.xlsx:6: a cell holds the error #DIV/0!"):
        get_task(str(tmp_path))
    book.active["B6"] = datetime(2024, 1, 2, 9, 5)
    book.save(tmp_path / "report.xlsx")
    dates = [references for _, references in samples(get_task(str(tmp_path)))]
    assert dates == [("50%",), ("2024-01-02",), ("2024-01-02T09:05:00",)]


def test_an_empty_first_sheet_names_the_other_ones(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.create_sheet("questions").append(["質問", "答え"])
    book.save(tmp_path / "report.xlsx")
    with pytest.raises(TaskError, match=r"its first sheet \(Sheet\) is empty.*\(questions\) before it"):
        get_task(str(tmp_path))
