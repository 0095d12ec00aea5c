"""A candidate's tensors as they stream into an engine: those of the checkpoint that would be written, unit by unit."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evovlm.errors import ConfigError
from evovlm.merging.merge import Merger
from evovlm.merging.merged_tensors import MergedTensors
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from tests.merging.recipes import make_recipe, same_bytes
from tests.merging.test_vocabulary_policy import union_recipe, with_new_tokens

HALVES = {"math": (0.4, 0.5), "ja": (0.7, 0.8)}


def streamed(recipe: ParameterMerge, *, threads: int = 1) -> dict[str, torch.Tensor]:
    """Return what comes of a recipe, by name; each name must come once."""
    units = MergedTensors(merger=Merger.open(recipe, threads=threads), recipe=recipe).by_unit()
    found = [each for unit in units for each in unit.items()]
    assert len(dict(found)) == len(found)
    return dict(found)


def written(recipe: ParameterMerge, folder: Path) -> Mapping[str, torch.Tensor]:
    """Return the tensors of the checkpoint's language model."""
    write_checkpoint(recipe, folder)
    return {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
        if not name.startswith(("vision_tower.", "multi_modal_projector."))
    }


RECIPES: Mapping[str, Callable[[Path, Path], ParameterMerge]] = {
    "float32": lambda models, _: make_recipe(models, HALVES),
    "bfloat16 in shards": lambda models, _: make_recipe(models, {"math16": (0.4, 0.5)}, host="math16"),
    "a VLM that keeps rows": lambda models, _: make_recipe(
        models, {"vlm": (0.5, 0.9), "ja": (0.3, 1.0)}, host="vlm", vocabulary="host"
    ),
    "a tied head": lambda models, _: make_recipe(models, {"tied2": (0.5, 1.0)}, base="tied", host="tied"),
    "a tied VLM": lambda models, _: make_recipe(
        models, {"tied2": (0.5, 1.0)}, base="tied", host="tied-vlm", vocabulary="host"
    ),
    "new rows": lambda models, folder: union_recipe(models, with_new_tokens(models, folder), host=str(models / "base")),
    "another dtype": lambda models, _: replace(make_recipe(models, HALVES), dtype="bfloat16"),
    "one source alone": lambda models, _: make_recipe(models, {"math": (1.0, 1.0)}, method="linear", base=None),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_tensors_are_those_of_the_checkpoint(name: str, models: Path, tmp_path: Path) -> None:
    (tmp_path / "parents").mkdir()
    recipe = RECIPES[name](models, tmp_path / "parents")
    assert same_bytes(streamed(recipe, threads=2), written(recipe, tmp_path / "out"))


def test_a_unit_comes_whole_before_the_next_one(models: Path) -> None:
    names = list(streamed(make_recipe(models, HALVES)))
    blocks = [name.split(".")[2] for name in names if name.startswith("model.layers.")]
    assert names[0] == "model.embed_tokens.weight"
    assert blocks == sorted(blocks)
    assert {"model.norm.weight", "lm_head.weight"} == set(names[-2:])


def test_what_is_not_finite_is_raised_before_a_tensor_of_its_unit_comes(models: Path) -> None:
    recipe = make_recipe(models, {"math": (1e39, 1.0), "ja": (1e39, 1.0)}, method="task_arithmetic")
    seen: list[Mapping[str, torch.Tensor]] = []
    units = MergedTensors(merger=Merger.open(recipe), recipe=recipe).by_unit()
    with pytest.raises(FloatingPointError, match="not finite"):
        seen.extend(units)
    assert seen == []


def test_what_cannot_be_merged_is_raised_before_anything_comes(models: Path) -> None:
    recipe = make_recipe(models, HALVES, method="linear")
    nothing = replace(recipe, parameters=dict.fromkeys(recipe.sources, SourceParameters(weight=0.0)))
    units = MergedTensors(merger=Merger.open(nothing), recipe=nothing).by_unit()
    with pytest.raises(ConfigError):
        next(units)
