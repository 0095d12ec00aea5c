"""Why a score is 0 is said where it is seen, with counts and an example of what the model was sent."""

import json
from pathlib import Path

import pytest

from evovlm.evaluation.answering import open_task
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.engines.builtin import BuiltinEngine
from evovlm.models.loading import load_model
from evovlm.recipes.low_score import LowScore, joined, shortened
from evovlm.runs.run import Run
from evovlm.tasks.task import Split
from tests.cli.conftest import Command, write_config


def low(**changes: object) -> LowScore:
    found: dict[str, object] = {
        "n": 4,
        "nothing": 1,
        "not_japanese": 3,
        "cut": 2,
        "max_new_tokens": 8,
        "unscored": {"no number found": 3},
        "prompt": "問題: 1+1?\n答え:",
        "answer": "abc",
    }
    return LowScore(**{**found, **changes})  # type: ignore[arg-type]


def test_a_search_without_a_right_answer_says_why_and_keeps_it(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems)
    done = evovlm("evolve", config, "--out", tmp_path / "run")
    assert done.code == 0, done
    shown = evovlm("show", tmp_path / "run")
    for out in (done.out, shown.out):
        assert "why so low: of 3 answers" in out
        # The prompt as it was sent, with the start token and the task's own words.
        assert "sent, for example: '<s>問題: " in out
        # Folded where the console is narrow.
        assert "cut at the limit of 8 tokens" in " ".join(out.split())
    entry = Run.open(tmp_path / "run").ranked[0]
    assert entry.evaluation is not None
    (score,) = entry.evaluation.scores.values()
    assert score.low is not None
    assert score.low.n == 3
    again = evovlm("evolve", config, "--out", tmp_path / "run", "--resume")
    assert again.code == 0, again


def test_a_score_of_nothing_right_is_explained_and_its_saved_answers_too(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    task = str(problems.with_name("short_problems.yaml"))
    flags = ("score", str(models / "base"), "--task", task, "--save", tmp_path / "saved", "--device", "cpu")
    first, again = evovlm(*flags), evovlm(*flags, "--resume")
    assert first.code == again.code == 0, first
    for shown in (first, again):
        assert "why so low: of 3 answers" in shown.out
        assert "sent, for example: " in shown.out


def test_a_good_score_is_not_explained(evovlm: Command) -> None:
    shown = evovlm("score", "zoo:math-a", "--task", "word_problems_en", "--limit", "4", "--device", "cpu")
    assert shown.code == 0, shown
    assert "why so low" not in shown.out


def test_counts_are_those_of_the_answers(models: Path, problems: Path) -> None:
    loaded = load_model(models / "base", device="cpu")
    opened = open_task(TaskChoice(name=str(problems.with_name("short_problems.yaml"))), Split.REPORT)
    scored = opened.prepare(loaded).answer(BuiltinEngine(loaded=loaded))
    assert scored.low is not None
    assert scored.low.nothing == sum(not answer.text.strip() for answer in scored.answers)
    assert scored.low.not_japanese == sum(not answer.japanese for answer in scored.answers)
    assert sum(scored.low.unscored.values()) == sum(answer.unscored is not None for answer in scored.answers)
    assert scored.low.answer == scored.answers[0].text


def test_what_is_said_fits_what_was_wrong() -> None:
    lines = low().lines
    assert lines[0] == (
        "why so low: of 4 answers 3 unscored (no number found), 1 empty, 3 not Japanese, 2 cut at the limit of 8 tokens"
    )
    assert lines[1] == "sent, for example: '問題: 1+1?\\n答え:'"
    assert "raise the limit" in lines[3]
    assert "ask for Japanese" in lines[3]
    fine = low(nothing=0, not_japanese=None, cut=0, unscored={})
    assert fine.lines[0] == "why so low: all 4 answers are complete but wrong"
    assert len(fine.lines) == 3


def test_parts_are_joined_unless_one_is_not_low() -> None:
    both = joined([low(), low(unscored={"no number found": 1, "x": 2}, not_japanese=None)])
    assert both is not None
    assert (both.n, both.cut, both.not_japanese) == (8, 4, 3)
    assert both.unscored == {"no number found": 4, "x": 2}
    assert joined([low(), None]) is None


def test_a_long_prompt_keeps_both_ends_and_a_picture_s_tokens_are_counted_as_one() -> None:
    assert shortened("a" * 700 + "b" * 700) == f"{'a' * 300} ... {'b' * 300}"
    assert shortened(f"x{'<image>' * 576}y{'[IMG]' * 9}z") == "x<image>...y[IMG]...z"


@pytest.mark.parametrize("key", ["n", "prompt", "unscored"])
def test_a_changed_explanation_is_refused_with_its_field(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path, key: str
) -> None:
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems)
    assert evovlm("evolve", config, "--out", tmp_path / "run").code == 0
    journal = tmp_path / "run" / "journal.jsonl"
    rows = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    row = next(each for each in rows if each.get("scores"))
    next(iter(row["scores"].values()))["low"][key] = -1
    journal.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
    shown = evovlm("show", tmp_path / "run")
    assert shown.code == 2
    assert key in shown.err
