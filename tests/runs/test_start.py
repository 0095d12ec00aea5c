"""Where a search starts: at a recipe, at another run's winner, at equal weights; and what does not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evovlm.errors import ConfigError, EvovlmError
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.recipes.space import Space
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.runs.config.kinds import config_from_mapping, load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.searching.evolve import RunResult, evolve
from evovlm.search.loop import Generation
from tests.runs.conftest import WriteConfig, journal_rows, search_document
from tests.runs.path_searches import path_document, write_problems

BLOCKS = {"math": 2, "ja": 2}
MADE = {
    "ja": SourceParameters(weight=(0.1, 0.2, 0.3, 0.4), density=0.9),
    "math": SourceParameters(weight=0.25, density=(0.5, 0.6, 0.7, 0.8)),
}


def hand_made(models: Path) -> ParameterMerge:
    """Return a recipe of the small search's merge."""
    return EvolveConfig.model_validate(search_document(models)).template(relative_to=None).recipe(MADE)


def started(config: EvolveConfig) -> Space:
    """Return the space of a search, on models of two blocks."""
    return config.space_for(BLOCKS)


class Warnings:
    """Notes what a run warns of."""

    warnings: tuple[str, ...] = ()

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        """Take them."""
        self.warnings = warnings

    def evaluated(self, entry: Entry) -> None:
        """Nothing."""

    def generation_ended(self, generation: Generation) -> None:
        """Nothing."""


def begun(config: EvolveConfig) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe that a search starts at, and what is said about it."""
    space = started(config)
    notes = (note for note in config.notes_for(space) if note.startswith("start:"))
    return space.decode(space.initial), tuple(notes)


def test_a_search_starts_at_a_hand_made_recipe(models: Path, write_config: WriteConfig, tmp_path: Path) -> None:
    recipe = hand_made(models)
    (tmp_path / "made.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")
    path = write_config({"space": {"kind": "layer"}, "budget": {"candidates": 20}, "start": {"recipe": "made.yaml"}})
    config = load_config(path).resolved(relative_to=tmp_path)
    assert isinstance(config, EvolveConfig)
    found, notes = begun(config)
    assert isinstance(found, ParameterMerge)
    assert found.recipe_id == recipe.recipe_id
    assert notes == ()
    # From here on the file does not matter.
    (tmp_path / "made.yaml").unlink()
    again = config_from_mapping(config.as_mapping())
    assert isinstance(again, EvolveConfig)
    assert np.array_equal(started(again).initial, started(config).initial)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "elsewhere" / "config.yaml").as_mapping() == config.as_mapping()


def test_a_small_number_of_a_recipe_stays_a_number(models: Path, write_config: WriteConfig, tmp_path: Path) -> None:
    # YAML 1.1 takes 1e-05 for text.
    numbers = {name: SourceParameters(weight=1e-05, density=0.5) for name in MADE}
    (tmp_path / "made.yaml").write_text(
        recipe_to_yaml(replace(hand_made(models), parameters=numbers)), encoding="utf-8"
    )
    config = load_config(write_config({"start": {"recipe": "made.yaml"}})).resolved(relative_to=tmp_path)
    assert isinstance(config, EvolveConfig)
    assert started(config).initial.tolist() == [1e-05, 0.5, 1e-05, 0.5]


def test_a_search_starts_at_the_winner_of_another(whole_run: RunResult, write_config: WriteConfig) -> None:
    config = load_config(write_config({"start": {"run": str(whole_run.folder)}})).resolved(relative_to=None)
    assert isinstance(config, EvolveConfig)
    found, notes = begun(config)
    assert found.recipe_id == load_recipe(whole_run.folder / "best.yaml").recipe_id
    assert notes == ()


def test_a_search_starts_at_equal_weights(write_config: WriteConfig) -> None:
    config = load_config(write_config({"start": {"equal": 0.4}, "space": {"fixed": {"ja.weight": 0.1}}}))
    assert isinstance(config, EvolveConfig)
    found, _ = begun(config)
    assert isinstance(found, ParameterMerge)
    assert found.parameters["math"] == SourceParameters(weight=0.4, density=1.0)
    assert found.parameters["ja"] == SourceParameters(weight=0.1, density=1.0)


def test_a_coarser_space_starts_at_the_nearest_and_says_how_far_that_is(
    models: Path, write_config: WriteConfig, tmp_path: Path, evaluator: Evaluator
) -> None:
    (tmp_path / "made.yaml").write_text(recipe_to_yaml(hand_made(models)), encoding="utf-8")
    config = load_config(write_config({"start": {"recipe": "made.yaml"}, "budget": {"candidates": 4}}))
    watcher = Warnings()
    evolve(config, out=tmp_path / "run", relative_to=tmp_path, observer=watcher, evaluator=evaluator)
    (note,) = (warning for warning in watcher.warnings if warning.startswith("start:"))
    # The mean of 0.1, 0.2, 0.3 and 0.4 is 0.25; so far are the ends.
    assert "to within 0.15" in note
    resolved = config.resolved(relative_to=tmp_path)
    assert isinstance(resolved, EvolveConfig)
    found, _ = begun(resolved)
    assert isinstance(found, ParameterMerge)
    assert found.parameters["ja"].weight == pytest.approx(0.25)
    assert found.parameters["math"].density == pytest.approx(0.65)


def test_a_start_outside_the_ranges_is_moved_to_their_end(models: Path, write_config: WriteConfig) -> None:
    config = load_config(write_config({"start": {"equal": 1.5}, "space": {"density": [0.2, 0.8]}}))
    assert isinstance(config, EvolveConfig)
    found, (note,) = begun(config)
    assert isinstance(found, ParameterMerge)
    assert found.parameters["math"] == SourceParameters(weight=1.0, density=0.8)
    assert "1.5 there, 1 here" in note


def test_a_run_resumes_from_its_own_config_when_the_start_file_has_changed(
    models: Path, write_config: WriteConfig, tmp_path: Path, evaluator: Evaluator
) -> None:
    (tmp_path / "made.yaml").write_text(recipe_to_yaml(hand_made(models)), encoding="utf-8")
    changes = {"start": {"recipe": "made.yaml"}, "budget": {"candidates": 8}, "space": {"kind": "layer"}}
    config = load_config(write_config(changes))
    evolve(config, out=tmp_path / "whole", relative_to=tmp_path, evaluator=evaluator)
    evolve(config, out=tmp_path / "cut", relative_to=tmp_path, evaluator=evaluator)
    journal = tmp_path / "cut" / "journal.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(lines[:6]), encoding="utf-8")
    (tmp_path / "made.yaml").unlink()
    own = load_config(tmp_path / "cut" / "config.yaml")
    evolve(own, out=tmp_path / "cut", resume=True, evaluator=evaluator)
    assert journal_rows(tmp_path / "cut") == journal_rows(tmp_path / "whole")
    recorded = read_journal(journal).config["start"]
    assert isinstance(recorded, dict)
    assert recorded["recipe"]["parameters"]["ja"]["weight"] == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({}, "start: should have one of recipe, run and equal"),
        ({"equal": 0.5, "run": "."}, "start: should have one of recipe, run and equal"),
        ({"equal": "half"}, "start.equal"),
        ({"recipe": "gone.yaml"}, "start.recipe: no such file"),
        ({"run": "gone"}, "start.run: no such file or folder"),
        ({"run": "."}, "does not hold a result.json, so it does not have a winner yet"),
        ({"recipe": "search.yaml"}, "search.yaml:2: kind: unknown kind 'evolve'"),
        ({"recipe": {"kind": "parameter_merge"}}, "start.recipe: .*sources: missing"),
    ],
)
def test_an_invalid_start_is_refused(write_config: WriteConfig, start: dict[str, object], words: str) -> None:
    path = write_config({"start": start})
    with pytest.raises(EvovlmError, match=words):
        load_config(path).resolved(relative_to=path.parent)


@pytest.mark.parametrize(
    ("merge", "space", "words"),
    [
        ({"method": "ties"}, {}, "start: the recipe is of another merge: method is dare_ties, and here it is ties"),
        ({"base": "math"}, {}, "base is .*base, and here it is .*math"),
        ({"sources": {"math": "math", "vlm": "vlm"}}, {}, "sources.ja is .*ja, and here it is absent"),
        ({"settings": {"rescale": "l1"}}, {}, "rescale is density, and here it is l1"),
        ({}, {"fixed": {"ja.density": 0.5}}, r"start: ja.density is 0.9, but this space keeps it at 0.5"),
        (
            {},
            {"choices": {"method": ["ties", "della"]}},
            "method is dare_ties, but the space chooses among ties, della",
        ),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_anything_is_written(
    models: Path,
    tmp_path: Path,
    evaluator: Evaluator,
    merge: dict[str, object],
    space: dict[str, object],
    words: str,
) -> None:
    document = search_document(models)
    changed = {key: _placed(models, value) if key in ("base", "sources") else value for key, value in merge.items()}
    (tmp_path / "made.yaml").write_text(recipe_to_yaml(hand_made(models)), encoding="utf-8")
    config = EvolveConfig.model_validate(
        {
            **document,
            "merge": {**document["merge"], **changed},  # type: ignore[dict-item]
            "space": space,
            "start": {"recipe": str(tmp_path / "made.yaml")},
        }
    )
    with pytest.raises(ConfigError, match=words):
        evolve(config, out=tmp_path / "run", evaluator=evaluator)
    assert not (tmp_path / "run").exists()


def test_lists_for_models_of_another_depth_are_refused(models: Path, write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_text(recipe_to_yaml(hand_made(models)), encoding="utf-8")
    config = load_config(write_config({"start": {"recipe": "made.yaml"}})).resolved(relative_to=tmp_path)
    with pytest.raises(ConfigError, match=r"start: ja.weight: 4 numbers for 5 units"):
        config.space_for({"math": 3, "ja": 3})


def test_a_search_through_layers_starts_at_a_path(models: Path, tmp_path: Path) -> None:
    document = path_document(models, write_problems(tmp_path))
    config = PathConfig.model_validate(document)
    template = config.template(relative_to=None)
    steps = (("base", 0, 1.0), ("math", 1, 1.25), ("ja", 0, 0.75), ("base", 1, 1.0))
    path = LayerPath(steps=tuple(LayerStep(source=name, layer=layer, scale=scale) for name, layer, scale in steps))
    recipe = template.recipe(path)
    (tmp_path / "path.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")
    begins = PathConfig.model_validate({**document, "start": {"recipe": str(tmp_path / "path.yaml")}})
    space = begins.resolved(relative_to=None).space_for(dict.fromkeys(template.source_names, 2))
    first = space.decode(space.initial)
    assert isinstance(first, LayerPathMerge)
    assert first.path == path
    # As likely to change as the host's own path is where a search begins at that.
    assert set(np.abs(space.initial[space.levels == 2] - 0.5).tolist()) == {0.5}
    for start, words in (
        ({"equal": 0.5}, "starts at a recipe with a path, not at weights"),
        ({"recipe": str(tmp_path / "merge.yaml")}, "starts at a recipe with a path"),
    ):
        (tmp_path / "merge.yaml").write_text(recipe_to_yaml(hand_made(models)), encoding="utf-8")
        wrong = PathConfig.model_validate({**document, "start": start}).resolved(relative_to=None)
        with pytest.raises(ConfigError, match=words):
            wrong.space_for(dict.fromkeys(template.source_names, 2))
    other = {**document["merge"], "scale_target": "stream"}  # type: ignore[dict-item]
    wrong = PathConfig.model_validate({**document, "merge": other, "start": {"recipe": str(tmp_path / "path.yaml")}})
    with pytest.raises(ConfigError, match="scale_target is pending, and here it is stream"):
        wrong.space_for(dict.fromkeys(template.source_names, 2))


def _placed(models: Path, value: object) -> object:
    if isinstance(value, dict):
        return {name: str(models / folder) for name, folder in value.items()}
    return str(models / str(value))
