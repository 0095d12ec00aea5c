"""The journal: what is appended is read back; a torn end is repaired, a change is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.errors import RunMismatch
from evovlm.recipes.candidate import Evaluation, Failure, TaskScore
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal, config_hash, read_journal

CONFIG = {"seed": 1, "merge": {"base": "zoo:base", "sources": {"b": "x", "a": "y"}}, "名": "日本語\u2028"}


def evaluated(index: int, *, generation: int = 0, fitness: float = 0.5) -> Entry:
    score = TaskScore(score=fitness, ungated=0.75, japanese=1.0, per_sample=(0.25, 0.5), n=2)
    return Entry(
        kind="candidate",
        index=index,
        generation=generation,
        genome=np.array([0.1, 1 / 3, 0.0]) * (index + 1) / 20,
        recipe_id=f"{index:012x}",
        outcome=Evaluation(scores={"emoji_ja": score}, fitness=fitness, seconds={"merge": 0.25}, tokens=7),
    )


def failed(index: int, *, generation: int = 0) -> Entry:
    outcome = Failure(kind="not_finite", reason="the merged weights are not finite\u2028\n")
    return Entry(
        kind="candidate",
        index=index,
        generation=generation,
        genome=np.zeros(3),
        recipe_id=f"{index:012x}",
        outcome=outcome,
    )


def same(first: Entry, second: Entry) -> bool:
    fields = ("kind", "index", "generation", "recipe_id", "outcome")
    return np.array_equal(first.genome, second.genome) and all(
        getattr(first, name) == getattr(second, name) for name in fields
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    written = Journal.create(tmp_path / "journal.jsonl", config=CONFIG, blocks={"math": 2})
    for entry in (evaluated(0), failed(1), evaluated(2, generation=1, fitness=1 / 3)):
        written.append(entry)
    return written


def test_what_is_appended_is_read_back(journal: Journal) -> None:
    for opened in (read_journal(journal.path), Journal.open(journal.path)):
        assert opened.config == CONFIG
        assert len(opened.entries) == 3
        assert all(same(*pair) for pair in zip(opened.entries, journal.entries, strict=True))
        assert opened.mean is None


def test_each_line_is_complete_and_ends_with_its_seconds(journal: Journal) -> None:
    lines = journal.path.read_text(encoding="utf-8").splitlines()
    header, first, second, _ = (json.loads(line) for line in journal.path.read_bytes().splitlines())
    assert header["kind"] == "header"
    assert header["config_hash"] == config_hash(CONFIG)
    assert list(first)[-1] == list(second)[-1] == "seconds"
    assert (first["status"], second["status"]) == ("evaluated", "failed")
    assert len(lines) >= 4


def test_the_hash_of_a_config_does_not_depend_on_the_order_of_its_keys() -> None:
    assert config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == config_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_journal_cut_anywhere_after_its_header_holds_the_whole_lines(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal.jsonl"
    written = Journal.create(path, config=CONFIG, blocks={"math": 2})
    for entry in (evaluated(0), failed(1), evaluated(2)):
        written.append(entry)
    content = path.read_bytes()
    header = content.index(b"\n") + 1
    cut = data.draw(st.integers(header, len(content)))
    path.write_bytes(content[:cut] + data.draw(st.sampled_from([b"", b"\0\0\0", b"\0\0\n"])))
    whole = content[:cut].count(b"\n") - 1

    assert len(read_journal(path).entries) == whole
    opened = Journal.open(path)
    assert len(opened.entries) == whole
    assert path.read_bytes() == content[: len(path.read_bytes())]
    for entry in written.entries[whole:]:
        opened.append(entry)
    assert path.read_bytes() == content


def test_only_opening_repairs_and_reading_leaves_the_file_alone(journal: Journal) -> None:
    torn = journal.path.read_bytes() + b'{"kind": "cand'
    journal.path.write_bytes(torn)
    read_journal(journal.path)
    assert journal.path.read_bytes() == torn
    Journal.open(journal.path)
    assert journal.path.read_bytes() == torn[: torn.rindex(b"\n") + 1]


def test_a_generation_taken_back_is_gone_and_its_lines_stay(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.jsonl", config=CONFIG, blocks={"math": 2})
    for entry in (evaluated(0), failed(1), failed(2, generation=1)):
        journal.append(entry)
    before = journal.path.read_bytes()
    journal.retry(1)
    assert [entry.index for entry in journal.entries] == [0, 1]
    journal.append(evaluated(2, generation=1, fitness=0.9))
    assert journal.path.read_bytes().startswith(before)
    again = Journal.open(journal.path)
    assert [entry.index for entry in again.entries] == [0, 1, 2]
    assert same(again.entries[2], journal.entries[2])


def test_the_mean_is_not_a_candidate(journal: Journal) -> None:
    last = evaluated(3, generation=2)
    journal.append(Entry(**{**{name: getattr(last, name) for name in Entry.__slots__}, "kind": "mean"}))
    opened = Journal.open(journal.path)
    assert len(opened.candidates) == 3
    assert opened.mean is not None
    assert opened.mean.index == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: [], "does not begin like a journal"),
        (lambda lines: lines[1:], "does not begin like a journal"),
        (lambda lines: [lines[0].replace(b'"format": 1', b'"format": 2'), *lines[1:]], "does not begin like a journal"),
        (
            lambda lines: [lines[0].replace(b'"format": 1', b'"format": true'), *lines[1:]],
            "does not begin like a journal",
        ),
        (lambda lines: [lines[0].replace(b'"seed": 1', b'"seed": 2'), *lines[1:]], ":1: the config in its header"),
        (lambda lines: [lines[0], b"what?", *lines[2:]], ":2: is not JSON"),
        (lambda lines: [lines[0], b"[]", *lines[2:]], ":2: is not a JSON object"),
        (lambda lines: [lines[0], b"{}", *lines[2:]], ":2: is not a line of a journal"),
        (lambda lines: [lines[0], *lines[2:]], ":2: candidate 1 is where 0 should be"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], ":3: candidate 0 is where 1 should be"),
    ],
)
def test_a_changed_journal_is_refused_with_its_line(
    journal: Journal, change: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    lines = journal.path.read_bytes().splitlines()
    content = b"".join(line + b"\n" for line in change(lines))
    journal.path.write_bytes(content)
    for reading in (read_journal, Journal.open):
        with pytest.raises(RunMismatch, match=words):
            reading(journal.path)
    assert journal.path.read_bytes() == content


def _candidate(number: int, change: Callable[[dict[str, Any]], object]) -> Callable[[list[bytes]], list[bytes]]:
    """Return what changes the row in a line; the header's number is 1."""

    def edit(lines: list[bytes]) -> list[bytes]:
        row = json.loads(lines[number - 1])
        change(row)
        return [*lines[: number - 1], json.dumps(row).encode(), *lines[number:]]

    return edit


def _score(row: dict[str, Any]) -> dict[str, Any]:
    score: dict[str, Any] = row["scores"]["emoji_ja"]
    return score


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_candidate(2, lambda row: row.update(fitness="0.5")), r'\(fitness is "0.5"; it should be a number\)'),
        (_candidate(2, lambda row: row.update(fitness=True)), r"\(fitness is true; it should be a number\)"),
        (_candidate(2, lambda row: row.update(tokens=None)), r"\(tokens is null; it should be a whole number from 0"),
        (_candidate(2, lambda row: row.update(genome=[0.1, 2, 0])), r"\(genome is .* list of numbers in \[0, 1\]\)"),
        (_candidate(2, lambda row: row.update(genome=None)), r"\(genome is null; it should be a list of numbers"),
        (_candidate(2, lambda row: row.update(index=-1)), r"\(index is -1; it should be a whole number from 0"),
        (_candidate(2, lambda row: row.update(generation=0.5)), r"\(generation is 0.5; it should be a whole number"),
        (_candidate(2, lambda row: row.update(kind="candidates")), r"\(kind is 'candidates'; it should be one of"),
        (_candidate(2, lambda row: row.update(kind=[])), r"\(kind is \[\]; it should be a text\)"),
        (_candidate(2, lambda row: row.update(status="good")), r"\(status is 'good'; it should be one of"),
        (_candidate(2, lambda row: row.update(recipe_id=3)), r"\(recipe_id is 3; it should be a text\)"),
        (_candidate(2, lambda row: row.update(seconds={"merge": "x"})), r"\(seconds.merge is .* number of at least 0"),
        (_candidate(2, lambda row: row.update(scores=[])), r"\(scores is \[\]; it should be a JSON object\)"),
        (_candidate(2, lambda row: row.update(goals=["a"])), r"\(goals is .* list of numbers\)"),
        (_candidate(2, lambda row: _score(row).update(n=0)), r"\(scores.emoji_ja.n is 0; .* whole number from 1"),
        (_candidate(2, lambda row: _score(row).update(ungated=5)), r"\(scores.emoji_ja.ungated is 5; .* in \[0, 1\]\)"),
        (_candidate(2, lambda row: _score(row).update(japanese=9)), r"\(scores.emoji_ja.japanese is 9; .* in \[0, 1\]"),
        (_candidate(2, lambda row: _score(row).update(unscored=3)), r"\(scores.emoji_ja.unscored is 3; .* 0 to 2\)"),
        (
            _candidate(2, lambda row: _score(row).update(rows=[0, -1])),
            r"\(scores.emoji_ja.rows is \[0, -1\]; ",
        ),
        (
            _candidate(2, lambda row: _score(row).update(rows=[0])),
            r"\(scores.emoji_ja.rows has 1 numbers, but n is 2",
        ),
        (_candidate(2, lambda row: _score(row).update(rows=[1, 1])), r"\(scores.emoji_ja.rows names a sample twice\)"),
        (_candidate(2, lambda row: _score(row).update(per_sample=[1])), r"per_sample has 1 numbers, but n is 2\)"),
        (_candidate(2, lambda row: row.update(failure={}, status="failed")), r"\(failure.kind: missing\)"),
        (lambda lines: [lines[0], lines[1].replace(b'"tokens": 7', b'"tokens": NaN')], "NaN is not a number that JSON"),
        (lambda lines: [lines[0], lines[1].replace(b'"tokens": 7', b'"tokens": 1e400')], "number 1e400 is too large"),
        (lambda lines: [lines[0], b"[" * 9999 + b"]" * 9999, lines[1]], ":2: is not JSON .* nested more than 100"),
        (lambda lines: [lines[0], lines[1].replace(b"00000", rb"\ud800", 1)], ":2: is not JSON .* surrogates"),
        (
            _candidate(1, lambda row: row.update(blocks={"math": 10**9})),
            r":1: .*\(blocks.math is 1000000000; .* 2000",
        ),
        (_candidate(1, lambda row: row.update(blocks=[2])), r":1: .*\(blocks is \[2\]; it should be a JSON object\)"),
        (
            _candidate(3, lambda row: row["genome"].pop()),
            ":3: candidate 1: its genome has 2 numbers, .* 3",
        ),
        (_candidate(4, lambda row: row["scores"].update(b=_score(row))), ":4: candidate 2: has scores of .*'b'"),
        (_candidate(4, lambda row: row.update(goals=[1.0])), ":4: candidate 2: has goals: 1, and the first 0"),
        (_candidate(4, lambda row: row.update(kind="rescored", index=1)), ":4: rescored 1: no candidate of this index"),
        (lambda lines: [*lines, b'{"kind": "retry", "generation": 1}'], ":5: takes back generation 1, which is not"),
        (lambda lines: [*lines, b'{"kind": "retry", "generation": "1"}'], ":5: .*generation is .* whole number"),
        (
            lambda lines: [*lines, b'{"kind": "stop", "reason": "boredom", "generation": 1}'],
            ":5: .* is 'boredom'",
        ),
        (lambda lines: [*lines, b'{"kind": "budget", "budget": 3}'], ":5: .*budget is 3; it should be a JSON object"),
        (lambda lines: [*lines, b'{"kind": "parent", "source": "a"}'], ":5: .*scores: missing"),
    ],
)
def test_a_value_that_a_line_cannot_have_is_refused_with_line_and_field(
    journal: Journal, change: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    content = b"".join(line + b"\n" for line in change(journal.path.read_bytes().splitlines()))
    journal.path.write_bytes(content)
    with pytest.raises(RunMismatch, match=words) as caught:
        Journal.open(journal.path)
    assert str(caught.value).startswith(f"{journal.path}:")
    assert journal.path.read_bytes() == content


def test_a_journal_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "journal.jsonl")
    for path in (tmp_path / "journal.jsonl", tmp_path, Path("/dev/zero")):
        with pytest.raises(RunMismatch, match="cannot be read"):
            read_journal(path)
