"""The journal: what is appended is read back; a torn end is repaired, a change is refused."""

import json
from collections.abc import Callable
from pathlib import Path

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


def test_a_generation_taken_back_is_gone_and_its_lines_stay(journal: Journal) -> None:
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
