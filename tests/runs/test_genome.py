"""mergekit-evolve's files as searches: what each key becomes, and what is refused with its line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from evovlm.cli.app import app
from evovlm.errors import ConfigError
from evovlm.recipes.source_values import SourceParameters
from evovlm.runs.config.hybrid import load_search
from evovlm.runs.config.parameters import EvolveConfig
from tests.golden.mergekit_files import make_configs

GENOME = {
    "genome": {"models": ["a", "b"], "merge_method": "dare_ties", "base_model": "base"},
    "tasks": [{"name": "gsm8k", "weight": 2.0, "metric": "exact_match,strict-match"}, "mgsm_ja"],
    "limit": 10,
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_configs(tmp_path / "models")


def search(folder: Path, *, top: dict[str, Any] | None = None, **genome: Any) -> EvolveConfig:
    path = folder / "genome.yaml"
    path.write_text(yaml.safe_dump({**GENOME, "genome": {**GENOME["genome"], **genome}, **(top or {})}))
    config = load_search(path)
    assert isinstance(config, EvolveConfig)
    return config


def test_a_genome_becomes_a_search_that_starts_where_mergekit_evolve_starts(models: Path) -> None:
    config = search(models)
    assert config.merge.sources == {"a": "a", "b": "b"}
    assert (config.merge.base, config.merge.host, config.merge.method) == ("base", "base", "dare_ties")
    assert (config.merge.settings.normalize, config.merge.settings.rescale) == (True, "l1")
    assert [(task.name, task.weight, task.limit) for task in config.tasks] == [
        ("lm_eval:gsm8k#exact_match,strict-match", 2.0, 10),
        ("lm_eval:mgsm_ja#acc,none", 1.0, 10),
    ]
    space = config.resolved(relative_to=models).space_for({"a": 5, "b": 5})
    recipe = space.decode(space.initial)
    assert recipe.path is None
    assert recipe.parameters == dict.fromkeys("ab", SourceParameters(weight=0.5, density=1.0))


@pytest.mark.parametrize(
    ("genome", "space"),
    [
        ({}, ("model", None, None, [0.0, 1.0])),
        ({"layer_granularity": 1}, ("layer", None, None, [0.0, 1.0])),
        ({"layer_granularity": 2}, ("grouped", None, 2, [0.0, 1.0])),
        ({"layer_granularity": 1, "smooth": True}, ("interpolated", 5, None, [0.0, 1.0])),
        ({"filters": ["self_attn", "mlp"]}, ("component", None, None, [0.0, 1.0])),
        ({"filters": ["mlp", "self_attn"], "layer_granularity": 1}, ("component x layer", None, None, [0.0, 1.0])),
        ({"allow_negative_weights": True}, ("model", None, None, [-1.0, 1.0])),
    ],
)
def test_the_space_is_that_of_the_genome(models: Path, genome: dict[str, Any], space: tuple[Any, ...]) -> None:
    found = search(models, **genome).space
    assert (found.kind, found.knots, found.group, found.weight) == space


def test_methods_and_tokenizers_are_those_of_the_genome(models: Path) -> None:
    linear = search(models, merge_method="linear", tokenizer_source="union")
    assert (linear.merge.base, linear.merge.host, linear.merge.vocabulary) == (None, "base", "union")
    slerp = search(models, merge_method="slerp")
    assert (slerp.merge.base, slerp.merge.sources, slerp.start) == ("a", {"b": "b"}, None)
    assert search(models, tokenizer_source="a").merge.host == "a"


@pytest.mark.parametrize(
    ("genome", "top", "message"),
    [
        ({"merge_method": "breadcrumbs"}, {}, "genome.merge_method"),
        ({"base_model": None}, {}, "base_model: missing; dare_ties takes differences"),
        ({"models": ["a", "base"]}, {}, "'base' is the base, too"),
        ({"models": ["a", "a"]}, {}, "a model is given twice"),
        ({"filters": ["q_proj"]}, {}, "filters: a space by component has"),
        ({"merge_method": "slerp", "models": ["a", "b", "c"]}, {}, "slerp merges 2 here, not 3"),
        ({}, {"num_fewshot": 5}, "num_fewshot: a task of the harness has its own number"),
        ({}, {"shuffle": True}, "shuffle: tasks of the harness are asked in their order"),
        ({"surprise": 1}, {}, "unknown key"),
    ],
)
def test_what_no_search_does_is_refused(
    models: Path, genome: dict[str, Any], top: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        search(models, top=top, **genome)
    assert message in str(error.value)
    assert f"{models / 'genome.yaml'}:" in str(error.value)


def test_convert_writes_it_with_paths_from_its_own_folder(models: Path, tmp_path: Path) -> None:
    search(models)
    (tmp_path / "configs").mkdir()
    out = tmp_path / "configs" / "search.yaml"
    done = CliRunner().invoke(app, ["convert", str(models / "genome.yaml"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    written, read = load_search(out), load_search(models / "genome.yaml")
    assert written.resolved(relative_to=out.parent) == read.resolved(relative_to=models)
    again = CliRunner().invoke(app, ["convert", str(models / "genome.yaml"), "--out", str(out)])
    assert again.exit_code != 0
