"""Scoring a model as it is: choices of tasks, tags, and what is refused before a model is loaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from evovlm.errors import CodeNotAllowed, TaskError
from evovlm.evaluation.answering import open_task, open_tasks, score_model
from evovlm.evaluation.answers import ScoredTask, TaskChoice, ThinkingMeasured, task_score
from evovlm.models.loading import load_model
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.metrics.scoring import Answer
from evovlm.tasks.task import Sample, Split
from tests.pico_clip import pico_clip

PEACH = Sample(id="p0", question="?", references=("桃",))


def test_a_model_is_scored_on_every_task_with_its_answers_in_order(
    models: Path, problems: Path, pictures: Path
) -> None:
    choices = [TaskChoice(name="word_problems_ja", data=problems), TaskChoice(name="emoji_ja", data=pictures)]
    scored = score_model(load_model(models / "vlm", device="cpu"), tasks=choices)
    assert [each.name for each in scored] == ["word_problems_ja", "emoji_ja"]
    assert [answer.sample.id for answer in scored[0].answers] == [f"p{number}" for number in range(6)]
    assert scored[1].score.n == 5
    assert all(each.tokens > 0 and set(each.seconds) == {"generate", "score"} for each in scored)


def test_a_text_model_cannot_be_asked_about_pictures(models: Path, pictures: Path) -> None:
    with pytest.raises(TaskError, match=r"emoji_ja.*takes no pictures"):
        score_model(load_model(models / "base", device="cpu"), tasks=[TaskChoice(name="emoji_ja", data=pictures)])


def test_a_choice_limits_the_answers_of_a_task_differently(models: Path, problems: Path) -> None:
    usual = TaskChoice(name="word_problems_ja", data=problems)
    short = replace(usual, decoding=DecodingChanges(max_new_tokens=2))
    opened = open_task(short, Split.REPORT)
    assert opened.fingerprint != open_task(usual, Split.REPORT).fingerprint
    scored = score_model(load_model(models / "base", device="cpu"), tasks=[short])[0]
    assert 0 < scored.tokens <= 2 * scored.score.n


def test_tags_have_scores_of_their_own() -> None:
    scored = _scored([("a", {"culture"}, 1.0), ("b", {"culture", "noto"}, 0.0), ("c", set(), 1.0)])
    assert scored.tags == ("culture", "noto")
    culture, noto = scored.tagged("culture"), scored.tagged("noto")
    assert culture is not None
    assert noto is not None
    assert (culture.score, culture.n) == (0.5, 2)
    assert (noto.score, noto.n) == (0.0, 1)
    assert scored.tagged("nothing") is None
    assert scored.score.per_sample == (1.0, 0.0, 1.0)


def test_means_keep_gated_ungated_and_japanese_apart() -> None:
    means = task_score(
        [
            Answer(sample=PEACH, text="", score=score, ungated=ungated, japanese=japanese)
            for score, ungated, japanese in [(1.0, 1.0, True), (0.0, 1.0, False), (0.0, 0.0, True), (0.0, 0.0, False)]
        ]
    )
    assert (means.score, means.ungated, means.japanese, means.n) == (0.25, 0.5, 0.5, 4)


def test_a_task_is_opened_without_a_model(problems: Path, tmp_path: Path) -> None:
    open_task(TaskChoice(name="word_problems_ja", data=problems), Split.SEARCH)
    with pytest.raises(TaskError, match="did you mean 'word_problems_ja'"):
        open_task(TaskChoice(name="word_problem_ja"), Split.SEARCH)
    with pytest.raises(TaskError, match=r"nowhere\.jsonl"):
        open_task(TaskChoice(name="word_problems_ja", data=tmp_path / "nowhere.jsonl"), Split.SEARCH)
    with pytest.raises(TaskError, match="no split 'report'"):
        open_task(TaskChoice(name="gsm8k_ja", data=problems), Split.REPORT)


def _scored(rows: list[tuple[str, set[str], float]]) -> ScoredTask:
    answers = tuple(
        Answer(
            sample=replace(PEACH, id=name, tags=frozenset(tags)), text="桃", score=score, ungated=score, japanese=True
        )
        for name, tags, score in rows
    )
    return ScoredTask(
        name="emoji_ja", metric="rouge_l_ja", measured="rouge_l_ja", gate=None, answers=answers, tokens=3, seconds={}
    )


def own_task(folder: Path, **settings: object) -> Path:
    """Write a task of one question about a red picture."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40), (200, 0, 0)).save(folder / "red.png")
    row = {"question": "何色?", "answer": "赤", "photo": "red.png"}
    (folder / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    document = {"name": "colours", "splits": {"report": "test"}, "columns": {"image": "photo"}, **settings}
    path = folder / "colours.yaml"
    path.write_text(yaml.safe_dump({**document, "prompt": "<image>{input}", "decoding": {"max_new_tokens": 3}}))
    return path


def test_an_own_task_is_scored_by_the_clip_model_beside_it(models: Path, tmp_path: Path) -> None:
    pico_clip(tmp_path / "colours" / "clip")
    path = own_task(tmp_path / "colours", metric="clip_score", clip_model="clip")
    (scored,) = score_model(load_model(models / "vlm", device="cpu"), tasks=[TaskChoice(name=str(path))])
    assert scored.measured == f"clip_score, {tmp_path}/colours/clip, no gate"
    (answer,) = scored.answers
    assert 0 <= answer.score <= 1
    assert answer.unscored is None or not answer.text


def test_code_that_the_user_has_not_allowed_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    names = [str(own_task(tmp_path / part, metric=f"evaluate:{part}/metric")) for part in ("one", "two")]
    choices = [TaskChoice(name=name) for name in names]
    with pytest.raises(CodeNotAllowed, match="hub:one/metric"):
        open_task(choices[0], Split.REPORT)
    with pytest.raises(CodeNotAllowed, match=r"hub:one/metric(.|\n)*hub:two/metric"):
        open_tasks(choices, Split.REPORT)
    opened = open_task(TaskChoice(name=names[0], metric="exact_match"), Split.REPORT)
    assert opened.measured.startswith("exact_match")


@pytest.mark.parametrize(("thinking", "is_measured"), [("never", False), ("found", False), ("always", True)])
def test_lengths_are_measured_where_they_are_asked_for(
    models: Path, problems: Path, thinking: ThinkingMeasured, is_measured: bool
) -> None:
    choice = TaskChoice(name="word_problems_ja", data=problems, thinking=thinking, reasoning="none")
    scored = score_model(load_model(models / "base", device="cpu"), tasks=[choice])[0]
    assert (scored.score.thinking is not None) is is_measured
    if scored.score.thinking is not None:
        assert 0 < scored.score.thinking.tokens <= 72
        assert (scored.score.thinking.thought_tokens, scored.score.thinking.thoughts) == (0, 0)


def test_what_is_thought_is_measured_and_not_scored(models: Path, problems: Path) -> None:
    loaded = load_model(models / "base", device="cpu")
    usual = TaskChoice(name="word_problems_ja", data=problems)
    (free,) = score_model(loaded, tasks=[usual])
    letter = next(each for each in free.answers[0].text[1:] if each.isprintable() and each.strip())
    (scored,) = score_model(loaded, tasks=[replace(usual, reasoning=("", letter), thinking="found")])
    thinking = scored.score.thinking
    assert thinking is not None
    assert thinking.thoughts == sum(letter in answer.text[1:] for answer in free.answers)
    assert 0 < thinking.thought_tokens < thinking.tokens
    assert [answer.text for answer in scored.answers] == [answer.text for answer in free.answers]
    opened = [open_task(each, Split.REPORT).fingerprint for each in (usual, replace(usual, reasoning=("", letter)))]
    assert opened[0] != opened[1]
