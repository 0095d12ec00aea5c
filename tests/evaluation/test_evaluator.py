"""The evaluator: one resident model that each candidate is merged into."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evovlm.errors import ConfigError, TaskError
from evovlm.evaluation import evaluator as evaluator_module
from evovlm.evaluation.answering import PreparedSamples, score_model
from evovlm.evaluation.answers import ScoredTask, TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.resident import load_merged
from evovlm.merging.writer import write_checkpoint
from evovlm.models import prompt as prompt_module
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.pictures.feature_store import ProcessedPictures
from evovlm.models.pictures.image_features import see_pictures
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.tasks.task import Split


def template(models: Path, *, host: str = "base", method: str = "dare_ties") -> MergeTemplate:
    """Return a merge of math and ja; for a VLM host, of its backbone and ja."""
    sources = ("vlm", "ja") if host == "vlm" else ("math", "ja")
    return MergeTemplate(
        base=ModelRef(text="base", origin=models),
        host=ModelRef(text=host, origin=models),
        sources={name: ModelRef(text=name, origin=models) for name in sources},
        method=method,
        seed=42,
        vocabulary="host",
    )


def recipe(merge: MergeTemplate, *weights: float, density: float = 1.0) -> ParameterMerge:
    """Return the recipe with these weights, in the order of the sources."""
    return merge.recipe(
        {
            name: SourceParameters(weight=weight, density=density)
            for name, weight in zip(merge.sources, weights, strict=True)
        }
    )


def texts(scored: tuple[ScoredTask, ...]) -> list[list[str]]:
    """Return the answers of each task."""
    return [[answer.text for answer in each.answers] for each in scored]


def problem_choice(problems: Path, **settings: float | int) -> TaskChoice:
    """Return the word problems."""
    return TaskChoice(name="word_problems_ja", data=problems, **settings)  # type: ignore[arg-type]


def test_the_resident_candidate_answers_as_the_written_checkpoint_does(
    models: Path, problems: Path, pictures: Path, tmp_path: Path
) -> None:
    merge = template(models, host="vlm")
    choices = [TaskChoice(name="emoji_ja", data=pictures), problem_choice(problems)]
    evaluator = Evaluator.open(merge, tasks=choices, device="cpu")
    candidate = recipe(merge, 0.7, 0.55, density=0.8)
    evaluation = evaluator.evaluate(candidate)
    assert isinstance(evaluation, Evaluation)
    resident = texts(evaluator.answer())

    write_checkpoint(candidate, tmp_path / "merged")
    written = score_model(load_model(tmp_path / "merged", device="cpu"), tasks=choices, split=Split.SEARCH)
    assert texts(written) == resident
    assert {each.name: each.score for each in written} == dict(evaluation.scores)
    assert any(text for task in resident for text in task)


def test_tasks_of_the_same_pictures_have_their_features_computed_once(
    models: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counting(loaded: LoadedModel, opened: Sequence[object]) -> tuple[torch.Tensor, ProcessedPictures]:
        seen.append(len(opened))
        return see_pictures(loaded, opened)

    monkeypatch.setattr(prompt_module, "see_pictures", counting)
    choices = [TaskChoice(name=name, data=pictures) for name in ("emoji_ja", "emoji_en")]
    evaluator = Evaluator.open(template(models, host="vlm"), tasks=choices, device="cpu")
    assert seen == [1, 1, 1]
    score_model(evaluator.loaded, tasks=choices, split=Split.SEARCH)
    assert seen == [1] * 6


def test_a_recipe_is_scored_without_being_written(models: Path, problems: Path, tmp_path: Path) -> None:
    candidate = recipe(template(models), 0.7, 0.55, density=0.8)
    choices = [problem_choice(problems)]
    merged = score_model(load_merged(candidate, device="cpu"), tasks=choices, split=Split.SEARCH)
    write_checkpoint(candidate, tmp_path / "merged")
    written = score_model(load_model(tmp_path / "merged", device="cpu"), tasks=choices, split=Split.SEARCH)
    assert texts(merged) == texts(written)


def test_a_recipe_whose_weights_overflow_is_refused(models: Path) -> None:
    with pytest.raises(ConfigError, match="not finite"):
        load_merged(recipe(template(models), 1e39, 1e39), device="cpu")


def test_a_candidate_leaves_nothing_behind_in_the_next_one(models: Path, problems: Path) -> None:
    merge = template(models)
    evaluator = Evaluator.open(merge, tasks=[problem_choice(problems)], device="cpu")
    first, other = recipe(merge, 0.9, 0.1), recipe(merge, 0.2, 1.3, density=0.5)
    evaluator.evaluate(first)
    before = texts(evaluator.answer())
    evaluator.evaluate(other)
    assert texts(evaluator.answer()) != before
    evaluator.evaluate(first)
    assert texts(evaluator.answer()) == before


def test_a_failed_candidate_leaves_nothing_behind_either(models: Path, problems: Path) -> None:
    merge = template(models)
    evaluator = Evaluator.open(merge, tasks=[problem_choice(problems)], device="cpu")
    good = recipe(merge, 0.9, 0.1)
    evaluator.evaluate(good)
    before = texts(evaluator.answer())
    assert isinstance(evaluator.evaluate(recipe(merge, 1e39, 1e39)), Failure)
    evaluator.evaluate(good)
    assert texts(evaluator.answer()) == before


def test_seconds_and_tokens_are_counted(models: Path, problems: Path) -> None:
    merge = template(models)
    evaluator = Evaluator.open(merge, tasks=[problem_choice(problems)], device="cpu")
    evaluation = evaluator.evaluate(recipe(merge, 0.5, 0.5))
    assert isinstance(evaluation, Evaluation)
    assert set(evaluation.seconds) == {"merge", "generate", "score"}
    assert all(seconds >= 0 for seconds in evaluation.seconds.values())
    assert evaluation.tokens > 6
    score = evaluation.scores["word_problems_ja"]
    assert score.n == len(score.per_sample) == 6
    assert math.isclose(score.score, sum(score.per_sample) / 6)


def test_the_fitness_is_the_weighted_mean_of_the_tasks(models: Path, problems: Path, pictures: Path) -> None:
    merge = template(models, host="vlm")
    choices = [TaskChoice(name="emoji_ja", data=pictures, weight=3.0), problem_choice(problems, weight=1.0)]
    evaluator = Evaluator.open(merge, tasks=choices, device="cpu")
    evaluation = evaluator.evaluate(recipe(merge, 0.5, 0.5))
    assert isinstance(evaluation, Evaluation)
    emoji, words = evaluation.scores["emoji_ja"].score, evaluation.scores["word_problems_ja"].score
    assert math.isclose(evaluation.fitness, (3 * emoji + words) / 4)


def test_a_limit_takes_the_first_samples(models: Path, problems: Path) -> None:
    evaluator = Evaluator.open(template(models), tasks=[problem_choice(problems, limit=2)], device="cpu")
    assert [sample.id for sample in evaluator.tasks[0].samples] == ["p0", "p1"]


def test_weights_that_are_not_finite_are_a_failure(models: Path, problems: Path) -> None:
    merge = template(models)
    evaluator = Evaluator.open(merge, tasks=[problem_choice(problems)], device="cpu")
    outcome = evaluator.evaluate(recipe(merge, 1e39, 1e39))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.reason) == ("not_finite", "the merged weights are not finite")


def test_logits_that_are_not_finite_are_a_failure(models: Path, problems: Path) -> None:
    merge = template(models)
    evaluator = Evaluator.open(merge, tasks=[problem_choice(problems)], device="cpu")
    head = evaluator.loaded.model.lm_head
    handle = head.register_forward_hook(lambda _module, _inputs, logits: logits / 0.0)
    outcome = evaluator.evaluate(recipe(merge, 0.5, 0.5))
    handle.remove()
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.reason) == ("not_finite", "the model's logits are not finite")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_a_failure(
    models: Path, problems: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = template(models)
    evaluator = Evaluator.open(merge, tasks=[problem_choice(problems)], device="cpu")

    def run_out(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PreparedSamples, "answer", run_out)
    outcome = evaluator.evaluate(recipe(merge, 0.5, 0.5))
    assert isinstance(outcome, Failure)
    assert outcome.kind == "out_of_memory"
    assert outcome.reason.startswith("out of memory")


def test_an_error_of_the_program_is_not_a_failure_of_the_candidate(
    models: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = template(models)
    evaluator = Evaluator.open(merge, tasks=[problem_choice(problems)], device="cpu")

    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(PreparedSamples, "answer", break_down)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        evaluator.evaluate(recipe(merge, 0.5, 0.5))


def test_an_average_without_weights_is_a_failure(models: Path, problems: Path) -> None:
    merge = template(models, method="linear")
    evaluator = Evaluator.open(merge, tasks=[problem_choice(problems)], device="cpu")
    outcome = evaluator.evaluate(recipe(merge, 0.0, 0.0))
    assert isinstance(outcome, Failure)
    assert outcome.kind == "cannot_be_merged"


def test_a_recipe_of_another_template_is_refused(models: Path, problems: Path) -> None:
    evaluator = Evaluator.open(template(models), tasks=[problem_choice(problems)], device="cpu")
    with pytest.raises(ConfigError, match="template"):
        evaluator.evaluate(recipe(replace(template(models), seed=43), 0.5, 0.5))


def test_a_search_never_sees_a_report_split(models: Path, problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator_module, "open_resident", None)
    with pytest.raises(TaskError, match="only search splits"):
        Evaluator.open(template(models), tasks=[problem_choice(problems)], split=Split.REPORT, device="cpu")
    with pytest.raises(TaskError, match="mgsm_ja"):
        Evaluator.open(template(models), tasks=[TaskChoice(name="mgsm_ja")], device="cpu")


def test_a_picture_task_asked_of_a_text_model_is_refused(models: Path, pictures: Path) -> None:
    with pytest.raises(TaskError, match="takes no pictures"):
        Evaluator.open(template(models), tasks=[TaskChoice(name="emoji_ja", data=pictures)], device="cpu")


def test_a_search_without_a_task_that_counts_is_refused(models: Path, problems: Path) -> None:
    with pytest.raises(TaskError, match="at least one task"):
        Evaluator.open(template(models), tasks=[], device="cpu")
    with pytest.raises(TaskError, match="at least one task"):
        Evaluator.open(template(models), tasks=[problem_choice(problems, weight=0.0)], device="cpu")


def test_every_distinct_picture_is_projected_once(
    models: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evovlm.models import prompt

    seen: list[int] = []
    see_pictures = prompt.see_pictures

    def counting(loaded: LoadedModel, shown: Sequence[object]) -> tuple[torch.Tensor, ProcessedPictures]:
        seen.append(len(shown))
        return see_pictures(loaded, shown)

    monkeypatch.setattr(prompt, "see_pictures", counting)
    merge = template(models, host="vlm")
    evaluator = Evaluator.open(merge, tasks=[TaskChoice(name="emoji_ja", data=pictures)], device="cpu")
    evaluator.evaluate(recipe(merge, 0.5, 0.5))
    evaluator.evaluate(recipe(merge, 0.6, 0.5))
    assert seen == [1, 1, 1]
