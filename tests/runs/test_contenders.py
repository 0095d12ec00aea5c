"""The models that the winner is compared with, and where their answers are."""

import json
from pathlib import Path

import pytest

from evovlm.errors import EvovlmError, RunMismatch
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge
from evovlm.runs.run import Run
from evovlm.runs.scores.contenders import contenders_of, report_tasks, score_missing, scored_of
from tests.report.made_runs import config_of, everyones_answers, keep, make_run


def test_the_winner_is_compared_with_every_parent_and_the_equal_weights_merge(tmp_path: Path) -> None:
    bare_run = make_run(tmp_path / "run")
    contenders = contenders_of(Run.open(bare_run))
    assert [(each.name, each.role) for each in contenders] == [
        ("winner", "winner"),
        ("math", "parent"),
        ("ja", "parent"),
        ("equal-weights", "baseline"),
    ]
    best = (bare_run / "best.yaml").read_text()
    winner = contenders[0].model
    assert isinstance(winner, ParameterMerge)
    assert str(winner.parameters["ja"].weight[0] if isinstance(winner.parameters["ja"].weight, tuple) else "?") in best


def test_a_text_only_parent_is_scored_as_the_hosts_language_model(tmp_path: Path) -> None:
    merge = {
        "base": "zoo:base",
        "host": "zoo:vlm",
        "sources": {"vlm": "zoo:vlm", "ja": "zoo:ja"},
        "method": "dare_ties",
        "vocabulary": "host",
    }
    run = make_run(tmp_path / "run", merge=merge, space={"kind": "model"}, tasks=[{"name": "emoji_ja", "limit": 5}])
    models = {each.name: each.model for each in contenders_of(Run.open(run))}
    assert isinstance(models["vlm"], ModelRef)
    blind = models["ja"]
    assert isinstance(blind, ParameterMerge)
    assert (blind.host.text, blind.parameters["ja"].weight, blind.parameters["vlm"].weight) == ("zoo:vlm", 1.0, 0.0)


def test_answers_are_read_back_as_they_were_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    answers = everyones_answers()
    keep(run, {"winner": answers["winner"]})
    contenders = {each.name: each for each in contenders_of(Run.open(run))}
    (read,) = scored_of(contenders["winner"], run)
    assert [each.text for each in read.answers] == [each.text for each in answers["winner"].answers]
    assert read.score == answers["winner"].score
    assert scored_of(contenders["ja"], run) == ()


def test_answers_of_another_winner_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finished=False)
    keep(run, {"winner": everyones_answers()["winner"]})
    journal = run / "journal.jsonl"
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    worst = min(rows[1:], key=lambda row: row["fitness"])
    worst["fitness"] = 0.99
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert scored_of(contenders_of(Run.open(run))[0], run) == ()


def test_changed_answers_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    keep(run, {"winner": everyones_answers()["winner"]})
    winner = contenders_of(Run.open(run))[0]
    (file,) = winner.folder(run).glob("1-*.jsonl")
    file.write_text("{}\n")
    with pytest.raises(RunMismatch, match="is not a prediction"):
        scored_of(winner, run)


def test_the_winner_is_reported_on_what_the_config_says_else_on_the_tasks_own_report_splits() -> None:
    assert [each.name for each in report_tasks(config_of())] == ["word_problems_ja"]
    named = config_of(report=[{"name": "mgsm_ja"}])
    assert [(each.name, each.data) for each in report_tasks(named)] == [("mgsm_ja", None)]


def test_a_report_asks_as_the_search_does_unless_its_section_has_a_prompt() -> None:
    tasks = [{"name": "word_problems_ja", "prompt": "問題: {input}"}]
    for report, prompt in (
        ([], "問題: {input}"),
        ([{"name": "word_problems_ja"}], "問題: {input}"),
        ([{"name": "word_problems_ja", "prompt": "chat"}], "chat"),
        ([{"name": "mgsm_ja"}], None),
    ):
        (choice,) = report_tasks(config_of(tasks=tasks, report=report))
        assert choice.prompt == prompt


def test_a_report_scores_as_the_search_does_unless_its_section_says_otherwise() -> None:
    tasks = [{"name": "word_problems_ja", "extractor": "paper", "gate": "fasttext"}]
    for report, extractor, gate in (
        ([], "paper", "fasttext"),
        ([{"name": "word_problems_ja", "gate": "none"}], "paper", "none"),
        ([{"name": "mgsm_ja", "extractor": "robust"}], "robust", None),
    ):
        (choice,) = report_tasks(config_of(tasks=tasks, report=report))
        assert (choice.extractor, choice.gate) == (extractor, gate)


def test_a_run_whose_tasks_have_no_report_split_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=[{"name": "gsm8k_ja"}])
    with pytest.raises(EvovlmError, match=r"none of its tasks has a report split.*`report:`"):
        score_missing(Run.open(run))
    assert not (run / "scores").exists()
