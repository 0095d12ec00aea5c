"""One resident model becomes recipes of other methods and settings, and takes its rope from other models."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evovlm.errors import ConfigError
from evovlm.evaluation.answering import score_model
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.resident import ResidentModel
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.writer import write_checkpoint
from evovlm.models.loading import LoadedModel, load_model
from evovlm.recipes.candidate import Evaluation
from evovlm.recipes.recipe import MergeSettings, ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.tasks.task import Split
from tests.merging.recipes import make_recipe
from tests.pico import pico_llm

QUESTION = "あめが7個あります。3個食べました。何個残りますか。答え: " * 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models of one ancestor; one has another rope and window, one a head that is its embedding."""
    folder = tmp_path_factory.mktemp("models")
    base = pico_llm(folder / "base", dtype=torch.bfloat16)
    pico_llm(folder / "math", like=base, seed=1, drift=0.1, dtype=torch.bfloat16)
    pico_llm(folder / "rope", like=base, seed=2, drift=0.1, rope_theta=100.0, sliding_window=16, dtype=torch.bfloat16)
    pico_llm(folder / "tied", like=base, seed=3, tie=True, dtype=torch.bfloat16)
    return folder


def opened_recipe(models: Path) -> ParameterMerge:
    return make_recipe(models, {"math": (0.7, 0.6), "rope": (0.4, 0.8)}, host="base", method="dare_ties", seed=7)


def variants(recipe: ParameterMerge) -> Iterator[ParameterMerge]:
    """Yield the recipe by every method that takes two sources, with other settings, and with another rope."""
    for name, method in METHODS.items():
        most = method.sources[1]
        if most is None or most >= 2:
            numbers = {
                source: SourceParameters(
                    **{each: getattr(own, each) for each in ("weight", "density") if each in method.parameters}
                )
                for source, own in recipe.parameters.items()
            }
            yield replace(recipe, method=name, parameters=numbers)
    yield replace(recipe, settings=MergeSettings(rescale="l1"))
    yield replace(recipe, settings=MergeSettings(normalize=True, lambda_=0.5))
    yield replace(recipe, config_from="rope")
    yield replace(recipe, method="ties", config_from="rope")
    # And back to what was opened.
    yield recipe


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = loaded.model(**loaded.tokenizer(QUESTION, return_tensors="pt")).logits
    return found


def test_every_variant_is_what_its_checkpoint_is(models: Path, tmp_path: Path) -> None:
    recipe = opened_recipe(models)
    resident = ResidentModel.open(recipe.template, device="cpu")
    asked = list(variants(recipe))
    seen = []
    for number, variant in enumerate(asked):
        resident.check(variant)
        assert resident.merge(variant)
        written = write_checkpoint(variant, tmp_path / str(number)).folder
        assert torch.equal(logits(resident.loaded), logits(load_model(written, device="cpu"))), variant.method
        seen.append(logits(resident.loaded))
    assert torch.equal(seen[-1], seen[asked.index(recipe)])
    rope = asked.index(replace(recipe, config_from="rope"))
    assert not torch.allclose(seen[rope], seen[-1], atol=1e-3)


@pytest.mark.parametrize("changes", [{"method": "ties"}, {"config_from": "rope"}], ids=["method", "rope"])
def test_a_variant_answers_and_scores_as_its_checkpoint_does(
    models: Path, problems: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    recipe = opened_recipe(models)
    choices = [TaskChoice(name="word_problems_ja", data=problems)]
    evaluator = Evaluator.open(recipe.template, tasks=choices, device="cpu")
    evaluator.evaluate(recipe)
    variant = replace(recipe, **changes)  # type: ignore[arg-type]
    evaluation = evaluator.evaluate(variant)
    assert isinstance(evaluation, Evaluation)
    folder = write_checkpoint(variant, tmp_path / "out").folder
    written = score_model(load_model(folder, device="cpu"), tasks=choices, split=Split.SEARCH)
    resident = evaluator.answer()
    assert [[answer.text for answer in each.answers] for each in resident] == [
        [answer.text for answer in each.answers] for each in written
    ]
    assert {each.name: each.score for each in written} == dict(evaluation.scores)


def test_a_variant_opens_and_reads_nothing_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = opened_recipe(models)
    resident = ResidentModel.open(recipe.template, device="cpu")
    resident.merge(recipe)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("opened again")

    monkeypatch.setattr(Checkpoint, "open", refuse)
    monkeypatch.setattr("evovlm.evaluation.resident.load_model", refuse)
    taken = replace(recipe, method="ties", config_from="rope")
    assert resident.merge(taken)
    ours, theirs = (
        dict(resident.loaded.model.named_parameters()),
        resident.engine._variants[None].model.named_parameters(),
    )
    assert all(ours[name] is parameter for name, parameter in theirs)


def test_variants_share_what_is_worked_out_of_the_models(models: Path) -> None:
    merger = Merger.open(opened_recipe(models).template)
    ties = merger.variant(replace(merger.template, method="ties"))
    linear = merger.variant(replace(merger.template, method="linear"))
    name = merger.tensor_names[1]
    assert ties._task_vectors(name) is merger._task_vectors(name)
    # Where nothing is taken from a base, all is otherwise.
    assert linear._task_vectors(name) is not merger._task_vectors(name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 8}, "differ from the opened template"),
        ({"vocabulary": "union"}, "differ from the opened template"),
        ({"method": "slerp"}, "slerp takes exactly 1"),
        ({"settings": MergeSettings(row_wise=True)}, "row_wise"),
    ],
)
def test_a_recipe_that_is_not_a_variant_is_refused(models: Path, changes: dict[str, object], words: str) -> None:
    recipe = opened_recipe(models)
    resident = ResidentModel.open(recipe.template, device="cpu")
    with pytest.raises(ConfigError, match=words):
        resident.check(replace(recipe, **changes))  # type: ignore[arg-type]


def test_a_head_that_is_the_embedding_and_one_that_is_not_are_not_of_one_search(models: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.6), "tied": (0.4, 0.8)}, host="base", method="dare_ties", seed=7)
    resident = ResidentModel.open(recipe.template, device="cpu")
    with pytest.raises(ConfigError, match="tied uses its embedding as its head, but host has a separate head"):
        resident.check(replace(recipe, config_from="tied"))
