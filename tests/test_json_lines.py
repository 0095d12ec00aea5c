"""Files of JSON lines after a killed process and a power cut."""

from pathlib import Path

import pytest

from evovlm.errors import OutputError, RunMismatch
from evovlm.evaluation.batches import Batch
from evovlm.json_lines import append_row, json_line, repaired_lines, whole_lines
from evovlm.runs.scores.saved import BatchFile

TORN = [b"", b'{"rows": [0', b"\0" * 40, b"\0" * 40 + b"\n", b'{"rows"\0\0\n']


def content_of(*rows: int) -> bytes:
    return "".join(json_line({"row": row, "text": "二\u2028"}) for row in rows).encode()


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_last_line_is_cut_off_and_the_file_continues(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content_of(0, 1) + torn)
    assert whole_lines(path.read_bytes()) == content_of(0, 1).splitlines()
    assert path.read_bytes() == content_of(0, 1) + torn
    assert repaired_lines(path) == content_of(0, 1).splitlines()
    append_row(path, {"row": 2, "text": "二\u2028"})
    assert path.read_bytes() == content_of(0, 1, 2)


def test_a_file_that_does_not_exist_has_no_lines_and_begins_with_the_first(tmp_path: Path) -> None:
    assert repaired_lines(tmp_path / "rows.jsonl") == []
    append_row(tmp_path / "rows.jsonl", {"row": 0, "text": "二\u2028"})
    assert (tmp_path / "rows.jsonl").read_bytes() == content_of(0)


def test_the_target_of_a_link_is_neither_extended_nor_cut(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b'{"a": 1}\nprecious')
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "victim")
    for do in (lambda path: append_row(path, {"row": 0}), repaired_lines):
        with pytest.raises(OutputError, match=r"rows\.jsonl: cannot be written: a link is in the way"):
            do(tmp_path / "rows.jsonl")
    assert (tmp_path / "victim").read_bytes() == b'{"a": 1}\nprecious'


@pytest.mark.parametrize("torn", TORN)
def test_saved_answers_survive_a_power_cut(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "1-a.1-b.batches.jsonl"
    batches = [Batch(rows=(n,), answers=(f"答え{n}",), tokens=n, seconds=0.5) for n in range(3)]
    log = BatchFile.open(path)
    for batch in batches[:2]:
        log.append(batch)
    path.write_bytes(path.read_bytes() + torn)
    again = BatchFile.open(path)
    assert again.batches == tuple(batches[:2])
    again.append(batches[2])
    assert BatchFile.open(path).batches == tuple(batches)


def test_a_changed_line_before_the_last_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "1-a.1-b.batches.jsonl"
    path.write_bytes(b"\0\0\0\n" + content_of(1))
    with pytest.raises(RunMismatch, match="batch of answers"):
        BatchFile.open(path)
