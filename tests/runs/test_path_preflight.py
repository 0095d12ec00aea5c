"""The needs of a search through layers, reported before its models are fetched."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evovlm.errors import OutputExists
from evovlm.merging.before import needs
from evovlm.merging.before.needs import ModelMemory
from evovlm.merging.before.preflight import preflight_recipe
from evovlm.merging.paths.plan import PathPlan
from evovlm.recipes.kinds import HybridMerge
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.model_ref import ModelRef
from evovlm.runs.before import preflight
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.paths import PathConfig
from tests.paths import path_of
from tests.pico import pico_llm, pico_vlm
from tests.runs.path_searches import hybrid_document, path_document, write_problems
from tests.runs.test_hybrid import loaded


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("problems"))


@pytest.fixture(scope="module")
def deepstack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VLM of 4 blocks whose vision encoder adds to the stream after the first two."""
    host = pico_vlm(tmp_path_factory.mktemp("deepstack"), family="qwen3_vl", n_blocks=4, dtype=torch.bfloat16)
    config = json.loads((host / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["deepstack_visual_indexes"] = [0, 1]
    (host / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return host


def searched(models: Path, problems: Path, **merge: object) -> PathConfig:
    document = path_document(models, problems)
    document["merge"] |= merge  # type: ignore[operator]
    return PathConfig.model_validate(document)


@pytest.mark.parametrize("target", ["pending", "stream"])
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_the_largest_winner_of_a_search_through_layers_is_reported(
    target: str, tied: bool, problems: Path, tmp_path: Path
) -> None:
    base = pico_llm(tmp_path / "base", tie=tied)
    pico_llm(tmp_path / "math", like=base, tie=tied, n_blocks=3)
    sources = {"math": str(tmp_path / "math"), "base": str(base)}
    config = searched(tmp_path, problems, host=str(base), sources=sources, scale_target=target)
    found = preflight_search(config)
    found.raise_problems()
    assert found.result is not None
    assert found.needs is not None
    assert found.result.at_most
    space = config.space_for({"math": 3, "base": 2})
    largest = space.decode(np.ones(space.dim))
    assert isinstance(largest, LayerPathMerge)
    plan = PathPlan.open(largest)
    assert found.result.n_blocks == len(largest.path) == 10
    assert (found.result.n_parameters, found.result.size_bytes) == (plan.n_parameters, plan.size_bytes)
    assert found.needs.result_bytes == plan.size_bytes
    assert json.loads(json.dumps(found.as_json()))["result"]["at_most"] is True


def n_weights(folder: Path) -> int:
    [report] = [
        model for model in preflight_recipe(alone(folder)).models if model.name == "host" and model.text == str(folder)
    ]
    # Stored as bfloat16.
    return report.size_bytes // 2


def alone(folder: Path) -> LayerPathMerge:
    ref = ModelRef(text=str(folder))
    return LayerPathMerge(host=ref, sources={"a": ref}, path=path_of((("a", 0, 1.0),)), scale_target="pending")


def test_every_model_of_a_search_through_layers_stays_in_memory_once(models: Path, problems: Path) -> None:
    config = searched(models, problems)
    found = preflight_search(config)
    assert found.needs is not None
    kept = 4 * sum(n_weights(models / name) for name in ("base", "math", "ja"))
    merging = preflight_recipe(alone(models / "base")).needs
    assert merging is not None
    # On a CPU as float32; on a device as stored.
    assert found.needs.memory_bytes == merging.memory_bytes + kept
    assert found.memory is not None
    assert (found.memory.model_bytes, found.memory.sources_bytes, found.memory.read_again_bytes) == (kept, 0, 0)
    on_device = ModelMemory(bytes_per_number=None, where="the memory of cuda:0", available_bytes=10)
    recipe = config.template(relative_to=None).recipe(path_of((("base", 0, 1.0), ("math", 1, 1.0), ("ja", 1, 1.0))))
    there = preflight_recipe(recipe, resident=on_device)
    assert there.needs is not None
    assert there.needs.memory_bytes == kept // 2
    assert any("of the memory of cuda:0 are needed" in warning for warning in there.warnings)


@pytest.mark.parametrize("source", ["ja", "base"])
def test_what_a_first_stage_makes_is_in_memory_beside_the_model_it_is_made_in(
    source: str, models: Path, problems: Path, tmp_path: Path
) -> None:
    document = hybrid_document(models, problems)
    document["stages"]["path"]["merge"]["sources"] = {"other": str(models / source)}  # type: ignore[index]
    config = loaded(tmp_path / "hybrid.yaml", document)
    found = preflight_search(config)
    found.raise_problems()
    assert found.needs is not None
    assert found.result is not None
    merging = preflight_recipe(alone(models / "base")).needs
    assert merging is not None
    kept = 4 * (n_weights(models / "base") + n_weights(models / source))
    first = preflight_search(config.ps).needs
    assert first is not None
    assert found.needs.memory_bytes == max(merging.memory_bytes + kept, first.memory_bytes)
    assert found.memory is not None
    assert found.memory.model_bytes + found.memory.kept_bytes >= kept
    assert (found.result.n_blocks, found.result.at_most) == (8, True)
    # While the winner is written, the merge of the first stage lies beside it.
    assert found.needs.meanwhile_bytes == 2 * n_weights(models / "base")
    template = config.path.template(relative_to=None)
    assert isinstance(template.first_recipe(), HybridMerge)


def test_a_disk_without_room_for_the_largest_winner_is_a_warning(
    models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = searched(models, problems)
    monkeypatch.setattr(needs, "free_disk_bytes", lambda _: 1000)
    monkeypatch.setattr(preflight, "free_disk_bytes", lambda _: 1000)
    found = preflight_search(config, out=tmp_path / "out")
    found.raise_problems()
    assert any("for the largest possible winner" in each and "out: the result takes" in each for each in found.warnings)
    assert not any("largest possible winner" in each for each in preflight_search(config).warnings)


def test_a_search_reports_an_obstacle_at_the_winners_path(models: Path, problems: Path, tmp_path: Path) -> None:
    config = searched(models, problems)
    found = preflight_search(config, out=tmp_path)
    assert [type(problem) for problem in found.problems] == [OutputExists]


@pytest.mark.parametrize(
    ("scales", "target", "fits"),
    [
        ("per_position", "pending", False),
        ("per_position", "stream", False),
        ("pairwise", "pending", True),
        ("network", "stream", False),
        ("none", "stream", True),
    ],
)
def test_a_host_whose_vision_encoder_adds_to_the_stream_at_several_hops_is_searched_where_winners_can_be_written(
    scales: str, target: str, fits: bool, problems: Path, deepstack: Path
) -> None:
    config = searched(deepstack, problems, host=str(deepstack), sources={"vlm": str(deepstack)}, scale_target=target)
    config = config.model_copy(update={"space": config.space.model_copy(update={"scales": scales})})
    found = preflight_search(config)
    assert [str(problem).split(":")[0] for problem in found.problems] == ([] if fits else ["space.scales"])
    if fits:
        assert found.result is not None
        assert found.result.n_blocks == 8
