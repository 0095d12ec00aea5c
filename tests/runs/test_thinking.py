"""Searches that bound and trade off the lengths of answers and thoughts, and that ask samples repeatedly."""

from collections import Counter
from pathlib import Path

import pytest

from evovlm.errors import ConfigError
from evovlm.evaluation.answering import score_model
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.objective import Goal
from evovlm.models.loading import load_model
from evovlm.recipes.candidate import Evaluation
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.run import Run
from evovlm.runs.scores.contenders import report_tasks
from evovlm.runs.searching.evolve import evolve
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.prompts import ChatSettings
from evovlm.tasks.task import Split
from tests.runs.conftest import TASK, WriteConfig, journal_rows, task_section
from tests.runs.test_goals import StopsAt


@pytest.fixture(scope="module")
def thought(models: Path) -> dict[str, object]:
    """Take what is before a letter that pico models often say for their thought."""
    choice = TaskChoice(name=str(models / f"{TASK}.yaml"), data=models / "problems.jsonl")
    (scored,) = score_model(load_model(models / "math", device="cpu"), tasks=[choice], split=Split.SEARCH)
    letters = Counter(letter for answer in scored.answers for letter in answer.text[1:] if letter.isalpha())
    return {"reasoning": ["", letters.most_common(1)[0][0]]}


def config_of(path: Path) -> EvolveConfig:
    config = load_config(path)
    assert isinstance(config, EvolveConfig)
    return config


def evaluations(folder: Path) -> list[Evaluation]:
    return [each.evaluation for each in read_journal(folder / "journal.jsonl").candidates if each.evaluation]


def test_lengths_of_answers_and_thoughts_bound_a_search_and_are_its_goals(
    write_config: WriteConfig, models: Path, thought: dict[str, object], tmp_path: Path
) -> None:
    bounds = [
        {"task": TASK, "measure": "tokens", "at_most": 5},
        {"task": TASK, "measure": "thought_japanese", "at_least": 0.25},
    ]
    goal = {"task": TASK, "measure": "thought_tokens", "at_most": 8}
    objective = {"constraints": bounds, "pareto": True, "goals": [goal]}
    tasks = [task_section(models, **thought)]
    config = config_of(write_config({"objective": objective, "tasks": tasks, "budget": {"candidates": 8}}))
    evolve(config, out=tmp_path / "run")
    found = evaluations(tmp_path / "run")
    for each in found:
        score = each.scores[TASK]
        thinking = score.thinking
        assert thinking is not None
        assert thinking.thought_tokens <= thinking.tokens <= 8
        violation = max(0.0, thinking.tokens / 5 - 1) + max(0.0, 0.25 - thinking.thought_japanese)
        if violation > 1e-9:
            assert each.fitness == pytest.approx(-violation)
            assert each.goals == pytest.approx((-violation, -violation))
        else:
            assert each.goals == pytest.approx((score.score, 1 - thinking.thought_tokens / 8))
    assert any(each.scores[TASK].thinking.thoughts for each in found if each.scores[TASK].thinking)
    run = Run.open(tmp_path / "run")
    assert run.goals == (TASK, f"{TASK} (thought_tokens saved of 8)")
    assert run.objective is not None
    assert [str(each) for each in run.objective.constraints] == [
        f"{TASK} (tokens) at most 5",
        f"{TASK} (thought_japanese) at least 0.25",
    ]
    assert run.front() == run.front((Goal(task=TASK), Goal(task=TASK, measure="thought_tokens", at_most=8)))
    with pytest.raises(KeyboardInterrupt):
        evolve(config, out=tmp_path / "again", observer=StopsAt(5))
    evolve(config, out=tmp_path / "again", resume=True)
    assert journal_rows(tmp_path / "again") == journal_rows(tmp_path / "run")


def test_repeated_answers_are_drawn_anew_and_resumed_alike(
    write_config: WriteConfig, models: Path, tmp_path: Path
) -> None:
    drawn = {"temperature": 1.0, "top_p": 0.9, "repeats": 3}
    config = config_of(write_config({"tasks": [task_section(models, decoding=drawn)], "budget": {"candidates": 8}}))
    evolve(config, out=tmp_path / "run")
    scores = [each.scores[TASK] for each in evaluations(tmp_path / "run")]
    for score in scores:
        assert (score.n, len(score.repeats), len(score.per_sample)) == (4, 3, 4)
        assert sum(score.repeats) / 3 == pytest.approx(score.score)
        assert all(abs(value * 3 - round(value * 3)) < 1e-5 for value in score.per_sample)
    assert any(score.spread > 0 for score in scores)
    with pytest.raises(KeyboardInterrupt):
        evolve(config, out=tmp_path / "again", observer=StopsAt(5))
    evolve(config, out=tmp_path / "again", resume=True)
    assert journal_rows(tmp_path / "again") == journal_rows(tmp_path / "run")
    other = {**drawn, "seed": 1}
    config = config_of(write_config({"tasks": [task_section(models, decoding=other)], "budget": {"candidates": 4}}))
    evolve(config, out=tmp_path / "other")
    assert [each.scores[TASK] for each in evaluations(tmp_path / "other")] != scores[:4]


def test_what_is_not_asked_for_is_not_in_a_config_or_a_journal(write_config: WriteConfig, tmp_path: Path) -> None:
    config = config_of(
        write_config({"objective": {"constraints": [{"task": TASK, "at_least": 0.1}]}, "budget": {"candidates": 4}})
    )
    text = config.to_yaml()
    for key in ("chat", "reasoning", "goals", "at_most"):
        assert f"{key}:" not in text
    assert "decoding: null" in text
    evolve(
        config.model_copy(update={"budget": config.budget.model_copy(update={"candidates": 4})}), out=tmp_path / "run"
    )
    (score, *_) = [row["scores"][TASK] for row in journal_rows(tmp_path / "run") if row["kind"] == "candidate"]
    assert not {"thinking", "repeats", "spread"} & score.keys()


def test_a_config_is_read_back_as_it_was_written(write_config: WriteConfig, models: Path, tmp_path: Path) -> None:
    asked = {
        "prompt": "chat",
        "chat": {"system": "短く。", "template": {"enable_thinking": False, "effort": "low", "budget": 3}},
        "decoding": {"max_new_tokens": 4096, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repeats": 2},
        "reasoning": ["<a>", "</a>"],
    }
    config = config_of(write_config({"tasks": [task_section(models, **asked)]}))
    (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    again = config_of(tmp_path / "again.yaml")
    assert again == config
    (choice,) = again.task_choices()
    assert choice.chat == ChatSettings(**asked["chat"])  # type: ignore[arg-type]
    assert choice.decoding == DecodingChanges(**asked["decoding"])  # type: ignore[arg-type]
    assert (choice.reasoning, choice.thinking) == (("<a>", "</a>"), "always")


def test_a_report_is_asked_as_the_search_but_not_by_its_cheaper_decoding(write_config: WriteConfig) -> None:
    named = {"name": "word_problems_ja", "reasoning": "think", "chat": {"system": "短く。"}}
    config = config_of(write_config({"tasks": [{**named, "decoding": {"max_new_tokens": 900}}]}))
    (choice,) = report_tasks(config)
    assert (choice.reasoning, choice.thinking, choice.chat) == ("think", "always", ChatSettings(system="短く。"))
    assert choice.decoding == DecodingChanges(max_new_tokens=900)
    own = [{"name": "word_problems_ja", "decoding": {"max_new_tokens": 5}, "reasoning": "none"}]
    (choice,) = report_tasks(config_of(write_config({"tasks": [named], "report": own})))
    assert (choice.decoding, choice.reasoning) == (DecodingChanges(max_new_tokens=5), "none")
    cheaper = [{"name": "gsm8k", "decoding": "search"}]
    (choice,) = report_tasks(config_of(write_config({"tasks": cheaper})))
    assert (choice.decoding, choice.thinking) == (DecodingChanges(), "found")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reasoning": "thnk"}, r"tasks\[0\].reasoning: .*'thnk' is unknown"),
        ({"reasoning": ["<a>"]}, r"tasks\[0\].reasoning: .*two texts"),
        ({"decoding": {"temperatur": 1}}, r"decoding.temperatur: unknown key; did you mean 'temperature'"),
        ({"decoding": {"repeats": 3}}, r"decoding: .*repeats has no effect"),
        ({"decoding": {"temperature": 1, "beams": 2}}, r"decoding: .*beams is 2"),
        ({"decoding": "quick"}, r"decoding: unknown decoding"),
        ({"decoding": {"top_p": 0}}, r"decoding.top_p: .*greater than 0"),
        ({"chat": {"template": {"tokenize": True}}}, r"chat.template: 'tokenize' cannot be set"),
        ({"chat": {"template": {"x": [1]}}}, r"chat.template.x"),
        ({"chat": {"system": "a"}, "prompt": "ja-alpaca-cot"}, r"prompt: chat: fills .* the prompt is 'ja-alpaca-cot'"),
    ],
)
def test_a_wrong_setting_of_a_task_is_named_with_its_line(
    write_config: WriteConfig, models: Path, changes: dict[str, object], words: str
) -> None:
    path = write_config({"tasks": [task_section(models, **changes)]})
    with pytest.raises(ConfigError, match=rf"{path.name}:\d+: .*{words}"):
        load_config(path)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"constraints": [{"task": TASK, "measure": "tokens", "at_least": 0.5}]}, "tokens needs at_most"),
        ({"constraints": [{"task": TASK, "measure": "tokens", "not_below": "ja"}]}, "tokens needs at_most"),
        ({"constraints": [{"task": TASK, "at_most": 0.5}]}, "at_most: bounds tokens and thought_tokens only"),
        ({"constraints": [{"task": TASK, "measure": "tokens", "at_most": 0}]}, "at_most: .*greater than 0"),
        ({"goals": [{"task": TASK, "measure": "japanese"}]}, "goals: are those of a front; set `pareto: true`"),
        ({"pareto": True, "goals": [{"task": TASK, "measure": "tokens"}]}, "need at_most"),
        ({"pareto": True, "goals": [{"task": "sumz", "measure": "japanese"}]}, r"goals\[0\].task: is not scored"),
    ],
)
def test_a_wrong_bound_or_goal_is_named(write_config: WriteConfig, objective: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(write_config({"objective": objective}))
