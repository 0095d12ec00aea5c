"""Recipes of every kind looked at before their weights are fetched: here paths, and hybrids."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from evovlm.errors import ConfigError, IncompatibleModels, ModelNotFound, NotEnoughRoom, OutputExists
from evovlm.merging.before import needs
from evovlm.merging.before.preflight import preflight_recipe
from evovlm.merging.paths.plan import PathPlan
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.kinds import HybridMerge
from evovlm.recipes.layer_path import LayerPathMerge, ScaleTarget
from evovlm.recipes.model_ref import ModelRef
from tests.hub_fixtures import OpenHub, open_hub
from tests.merging.recipes import make_recipe
from tests.paths import Steps, path_of
from tests.pico import pico_llm

__all__ = ["open_hub"]


def path_merge(models: Path, steps: Steps, *, target: ScaleTarget = "stream", host: str = "base") -> LayerPathMerge:
    names = {name for name, _, _ in steps}
    return LayerPathMerge(
        host=ModelRef(text=str(models / host)),
        sources={name: ModelRef(text=str(models / name)) for name in sorted(names)},
        path=path_of(steps),
        scale_target=target,
    )


GOOD: Steps = (("base", 0, 1.0), ("math", 1, 0.5), ("deeper", 2, 1.0), ("base", 1, 1.0))


def test_a_path_that_works_is_described_with_the_size_that_is_then_written(models: Path, tmp_path: Path) -> None:
    recipe = path_merge(models, GOOD)
    found = preflight_recipe(recipe, out=tmp_path / "out")
    found.raise_problems()
    assert [model.name for model in found.models] == ["host", "sources.base", "sources.math", "sources.deeper"]
    assert found.result is not None
    assert found.result.n_blocks == 4
    written = write_checkpoint(recipe, tmp_path / "out")
    assert found.result.size_bytes == written.size_bytes
    assert found.result.n_parameters * 4 == written.size_bytes
    assert found.needs is not None
    assert found.needs.result_bytes == written.size_bytes
    told = json.loads(json.dumps(found.as_json()))
    assert told["result"]["n_blocks"] == 4
    assert any("names no licence" in reason for reason in told["licence_reasons"])


def test_every_problem_of_a_path_is_found(models: Path, tmp_path: Path) -> None:
    heads = shutil.copytree(models / "math", tmp_path / "heads")
    config = json.loads((heads / "config.json").read_text()) | {"num_attention_heads": 2}
    (heads / "config.json").write_text(json.dumps(config))
    pico_llm(tmp_path / "biased", family="qwen2")
    pico_llm(tmp_path / "gemma", family="gemma")
    shutil.copytree(models / "base", tmp_path / "base")
    steps: Steps = (
        ("base", 0, 1.0), ("base", 5, 1.0), ("heads", 0, 1.0), ("biased", 1, 1.0), ("gemma", 0, 1.0), ("gone", 0, 1.0),
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    found = preflight_recipe(path_merge(tmp_path, steps), out=tmp_path / "out")
    texts = "\n".join(map(str, found.problems))
    for part in (
        "path[1]: sources.base",
        "has 2 blocks and no block 5",
        "num_attention_heads is 2 in sources.heads",
        "model.layers.1.self_attn.k_proj.bias is 16 in sources.biased",
        "use different norms",
        "there is no folder",
        "exists already",
    ):
        assert part in texts
    assert {type(problem) for problem in found.problems} == {
        ConfigError, IncompatibleModels, ModelNotFound, OutputExists,
    }  # fmt: skip
    assert found.result is None


def test_blocks_of_another_width_are_refused_by_name(models: Path, tmp_path: Path) -> None:
    wide = shutil.copytree(models / "math", tmp_path / "wide")
    weights = load_file(wide / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"].repeat(2, 1)
    save_file(weights, wide / "model.safetensors")
    shutil.copytree(models / "base", tmp_path / "base")
    with pytest.raises(IncompatibleModels, match=r"up_proj\.weight is 96 x 32 in sources\.wide .* host .* is 48 x 32"):
        PathPlan.open(path_merge(tmp_path, (("base", 0, 1.0), ("wide", 1, 1.0))))
    # A block that the path leaves out may be of any shape.
    preflight_recipe(path_merge(tmp_path, (("base", 0, 1.0), ("wide", 0, 1.0)))).raise_problems()


def test_a_scale_without_weights_for_it_is_a_problem(models: Path) -> None:
    found = preflight_recipe(path_merge(models, (("base", 0, 1.0), ("base", 1, 0.0))))
    assert ["its scale 0 removes the whole" in str(problem) for problem in found.problems] == [True]


def test_settings_in_which_a_source_differs_are_reported(models: Path) -> None:
    found = preflight_recipe(path_merge(models, (("base", 0, 1.0), ("other-rope", 1, 1.0))))
    assert not found.problems
    assert any(warning.startswith("rope_theta is 10000.0 in host") for warning in found.warnings)
    assert any(warning.startswith("sliding_window is None in host") for warning in found.warnings)
    assert all(warning.endswith("every hop takes the host's.") for warning in found.warnings)


@pytest.mark.parametrize(("scale", "warned"), [(0.01, True), (100.0, True), (0.5, False), (-1.5, False)])
def test_scales_that_multiply_far_from_1_are_warned_of(models: Path, scale: float, warned: bool) -> None:
    found = preflight_recipe(path_merge(models, (("base", 0, scale), ("base", 1, 1.0))))
    assert any("norms' eps" in warning for warning in found.warnings) == warned


def test_a_path_is_looked_at_on_the_hub_without_weights(models: Path, open_hub: OpenHub) -> None:
    open_hub({"org/base": models / "base", "org/math": models / "math"})
    recipe = LayerPathMerge(
        host=ModelRef(text="org/base"),
        sources={"a": ModelRef(text="org/base"), "b": ModelRef(text="org/math")},
        path=path_of((("a", 0, 1.0), ("b", 1, 1.0), ("a", 1, 1.0))),
        scale_target="pending",
    )
    found = preflight_recipe(recipe)
    found.raise_problems()
    assert found.result is not None
    assert found.needs is not None
    assert found.needs.download_bytes > 0


def hybrid(models: Path, steps: Steps) -> HybridMerge:
    ps = make_recipe(models, {"math": (0.7, 0.5), "ja": (0.4, 0.9)})
    names = {name for name, _, _ in steps} - {"ps"}
    return HybridMerge(
        ps=ps, sources={name: ModelRef(text=str(models / name)) for name in names}, path=path_of(steps),
        scale_target="stream",
    )  # fmt: skip


def test_a_hybrid_is_looked_at_in_both_stages(models: Path, tmp_path: Path) -> None:
    recipe = hybrid(models, (("ps", 0, 1.0), ("deeper", 2, 1.0), ("ps", 1, 1.0)))
    found = preflight_recipe(recipe, out=tmp_path / "out")
    found.raise_problems()
    assert [model.name for model in found.models] == [
        "ps.base", "ps.host", "ps.sources.ja", "ps.sources.math", "sources.deeper",
    ]  # fmt: skip
    written = write_checkpoint(recipe, tmp_path / "out")
    assert found.result is not None
    assert found.result.size_bytes == written.size_bytes
    assert found.needs is not None
    assert found.needs.meanwhile_bytes == found.models[1].size_bytes


def test_problems_of_both_stages_of_a_hybrid_are_found(models: Path) -> None:
    recipe = hybrid(models, (("ps", 0, 1.0), ("ps", 7, 1.0)))
    wrong = make_recipe(models, {"deeper": (0.7, 0.5)})
    found = preflight_recipe(HybridMerge(ps=wrong, sources={}, path=recipe.path, scale_target="stream"))
    texts = "\n".join(map(str, found.problems))
    assert "has 3 blocks" in texts
    assert "no block 7" in texts


def test_a_disk_without_room_for_both_stages_is_reported(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = hybrid(models, (("ps", 0, 1.0), ("ps", 1, 1.0)))
    own = preflight_recipe(recipe).result
    assert own is not None
    monkeypatch.setattr(needs, "free_disk_bytes", lambda _: own.size_bytes + 1)
    found = preflight_recipe(recipe, out=tmp_path / "out")
    assert [type(problem) for problem in found.problems] == [NotEnoughRoom]
    assert "meanwhile" in str(found.problems[0])


def test_a_merge_in_parameter_space_is_looked_at_as_before(models: Path) -> None:
    found = preflight_recipe(make_recipe(models, {"math": (0.7, 0.5)}))
    assert found.result is not None
    assert found.result.n_blocks == 2
