"""A search whose fitness is a person's choice; the person of these tests prefers long answers."""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evovlm.errors import ConfigError, RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.report.choice_page import ChoicePage
from evovlm.runs.config.kinds import load_config
from evovlm.runs.run import Run
from evovlm.runs.searching.choosing import CHOICES_FILE, ChoiceQuestion
from evovlm.runs.searching.evolve import evolve
from tests.runs.conftest import TASK, WriteConfig


@dataclass
class LikesLong:
    """Chooses the longest answers; leaves after `patience` questions."""

    patience: int = 1000
    asked: list[ChoiceQuestion] = field(default_factory=list)

    def choose(self, question: ChoiceQuestion) -> frozenset[str]:
        if len(self.asked) == self.patience:
            raise KeyboardInterrupt
        self.asked.append(question)
        longest = max(map(len, question.answers))
        return frozenset(answer for answer in question.answers if len(answer) == longest)


@pytest.fixture
def config(write_config: WriteConfig) -> Path:
    return write_config({"objective": {"human": {"task": TASK, "samples": 3}}, "winner": "mean"})


def _lines(run: Path) -> list[dict[str, object]]:
    return [{**json.loads(line), "seconds": None} for line in (run / "journal.jsonl").read_text().splitlines()]


def test_candidates_are_scored_by_what_a_person_chose(config: Path, tmp_path: Path) -> None:
    person = LikesLong()
    result = evolve(load_config(config), out=tmp_path / "run", person=person)
    run = Run.open(tmp_path / "run")
    assert person.asked
    assert {question.generation for question in person.asked} <= {"0", "1", "2", "mean"}
    for question in person.asked:
        assert len(set(question.answers)) == len(question.answers) >= 2
        assert 1 <= question.number <= question.n <= 3
    for entry in run.journal.candidates:
        assert entry.evaluation is not None
        (score,) = entry.evaluation.scores.values()
        assert score.n == 3
        assert set(score.per_sample) <= {0.0, 1.0}
        assert entry.evaluation.fitness == pytest.approx(sum(score.per_sample) / 3)
    # Someone is the best on each sample.
    for entries in run.generations:
        columns = zip(
            *(next(iter(e.evaluation.scores.values())).per_sample for e in entries if e.evaluation), strict=True
        )
        assert all(1.0 in column for column in columns)
    assert result.winner == "mean"


def test_a_run_that_was_stopped_asks_nothing_twice_and_ends_the_same(config: Path, tmp_path: Path) -> None:
    whole, stopped = LikesLong(), LikesLong(patience=2)
    evolve(load_config(config), out=tmp_path / "whole", person=whole)
    with pytest.raises(KeyboardInterrupt):
        evolve(load_config(config), out=tmp_path / "run", person=stopped)
    rest = LikesLong()
    evolve(load_config(config), out=tmp_path / "run", resume=True, person=rest)
    assert stopped.asked + rest.asked == whole.asked
    assert _lines(tmp_path / "run") == _lines(tmp_path / "whole")


def test_a_changed_choice_is_refused(config: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evolve(load_config(config), out=tmp_path / "run", person=LikesLong(patience=2))
    file = tmp_path / "run" / CHOICES_FILE
    file.write_text(file.read_text().replace('"chosen"', '"told"', 1))
    with pytest.raises(RunMismatch, match=r"choices\.jsonl:1: is not a choice"):
        evolve(load_config(config), out=tmp_path / "run", resume=True, person=LikesLong())


def test_without_a_person_it_does_not_begin(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a person chooses"):
        evolve(load_config(config), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"winner": "best"}, "set `winner: mean`"),
        ({"batch": 2}, "leave `batch` out"),
        ({"racing": {}, "rescore": 2}, "leave `racing` out"),
        ({"objective": {"human": {"task": "emoji_ja"}}}, "the only one of the tasks"),
        ({"objective": {"human": {"task": TASK, "samples": 0}}}, "samples"),
    ],
)
def test_what_a_person_cannot_compare_is_refused(
    write_config: WriteConfig, changes: dict[str, object], words: str
) -> None:
    given = {"objective": {"human": {"task": TASK}}, "winner": "mean", **changes}
    with pytest.raises(ConfigError, match=words):
        load_config(write_config(given))


def test_the_page_waits_for_the_person(config: Path, tmp_path: Path, evaluator: Evaluator) -> None:
    page = ChoicePage(language="en")
    assert "candidates are answering" in page.html()
    question = ChoiceQuestion(
        generation="0", sample=evaluator.tasks[0].samples[0], answers=("<b>a</b>", "b"), number=1, n=2
    )
    found: list[frozenset[str]] = []
    thread = threading.Thread(target=lambda: found.append(page.choose(question)))
    thread.start()
    while "Choose one or more" not in (html := page.html()):
        pass
    assert "&lt;b&gt;a&lt;/b&gt;" in html
    page.take({"question": "1/other", "answer0": "1"})
    page.take({"question": f"0/{question.sample.id}", "answer0": "1", "answer7": "1"})
    page.take({"question": f"0/{question.sample.id}", "answer1": "1"})
    thread.join(timeout=30)
    assert found == [frozenset({"<b>a</b>"})]
    assert "candidates are answering" in page.html()
