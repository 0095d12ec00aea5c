"""A merge checked before its weights are fetched: all problems at once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evovlm.errors import (
    BrokenCheckpoint,
    ConfigError,
    IncompatibleModels,
    ModelError,
    ModelNotFound,
    NotEnoughRoom,
    OutputExists,
)
from evovlm.merging.before import needs
from evovlm.merging.before.needs import ModelMemory
from evovlm.merging.before.preflight import preflight
from evovlm.merging.merge import Merger
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from tests.hub_fixtures import OpenHub, open_hub
from tests.hub_server import commit_of
from tests.merging.recipes import make_recipe
from tests.merging.test_licences import card
from tests.pico import pico_llm

__all__ = ["open_hub"]


def recipe_of(base: str, *sources: str) -> ParameterMerge:
    refs = {f"s{number}": ModelRef(text=text) for number, text in enumerate(sources)}
    template = MergeTemplate(base=ModelRef(text=base), host=ModelRef(text=base), sources=refs, method="dare_ties")
    return template.first_recipe()


def test_a_fitting_merge_is_described_without_problems(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5), "other-rope": (0.4, 0.9)})
    found = preflight(recipe, out=tmp_path / "out")
    found.raise_problems()
    assert [model.name for model in found.models] == ["base", "host", "sources.math", "sources.other-rope"]
    host = found.models[1]
    assert (host.model_type, host.n_blocks, host.hidden_size, host.dtype) == ("mistral", 2, 32, "F32")
    assert host.licence == "unknown"
    assert (host.commit, host.download_bytes) == (None, 0)
    assert found.warnings == Merger.open(recipe).warnings
    assert any(warning.startswith("rope_theta is") for warning in found.warnings)
    assert found.needs is not None
    assert found.needs.result_bytes == host.size_bytes == found.models[0].size_bytes
    assert json.loads(json.dumps(found.as_json()))["ok"] is True


def test_all_problems_are_reported_in_one_error(models: Path, tmp_path: Path) -> None:
    quantised = shutil.copytree(models / "math", tmp_path / "quantised")
    weights = load_file(quantised / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, quantised / "model.safetensors")
    heads = shutil.copytree(models / "math", tmp_path / "heads")
    config = json.loads((heads / "config.json").read_text()) | {"num_attention_heads": 2}
    (heads / "config.json").write_text(json.dumps(config))
    recipe = ParameterMerge(
        base=ModelRef(text=str(models / "base")),
        host=ModelRef(text=str(models / "base")),
        sources={
            name: ModelRef(text=str(place))
            for name, place in {
                "deeper": models / "deeper",
                "gone": "./gone",
                "heads": heads,
                "quantised": quantised,
            }.items()
        },
        method="dare_ties",
        parameters={
            name: SourceParameters(weight=(0.5, 0.5, 0.5)) for name in ("deeper", "gone", "heads", "quantised")
        },
    )
    (tmp_path / "out").mkdir()
    found = preflight(recipe, out=tmp_path / "out")
    kinds = [type(problem) for problem in found.problems]
    for kind in (ModelNotFound, IncompatibleModels, BrokenCheckpoint, ConfigError, OutputExists):
        assert kind in kinds
    with pytest.raises(Exception, match=r"\d problems:\n  - ") as raised:
        found.raise_problems()
    for part in (
        "there is no folder gone",
        "has 3 blocks",
        "num_attention_heads is 2",
        "stored as I8",
        "a list of 3 numbers, but 4",
        "exists already",
    ):
        assert part in str(raised.value)
    assert len(found.models) == 5


def test_one_problem_stays_the_error_that_it_is(models: Path) -> None:
    with pytest.raises(IncompatibleModels, match="has 3 blocks") as raised:
        preflight(make_recipe(models, {"deeper": (1.0, 1.0)})).raise_problems()
    assert "problems:" not in str(raised.value)


def test_a_shape_that_differs_in_every_block_is_reported_once(models: Path, tmp_path: Path) -> None:
    wide = shutil.copytree(models / "math", tmp_path / "wide")
    weights = load_file(wide / "model.safetensors")
    wider = {name: torch.zeros(96, 32) if "up_proj" in name else weight for name, weight in weights.items()}
    save_file(wider, wide / "model.safetensors")
    found = preflight(recipe_of(str(models / "base"), str(wide)))
    assert len(found.problems) == 1
    assert "layers.0.mlp.up_proj.weight has shape" in str(found.problems[0])
    assert "The same holds for 1 more block." in str(found.problems[0])


def test_a_pair_that_does_not_fit_is_refused_before_the_download(open_hub: OpenHub, tmp_path: Path) -> None:
    base = card(pico_llm(tmp_path / "base", vocab_rows=40_000), "license: apache-2.0")
    other = card(pico_llm(tmp_path / "other", vocab_rows=39_000, n_blocks=3), "license: cc-by-nc-nd-4.0")
    hub = open_hub({"org/base": base, "org/other": other})
    found = preflight(recipe_of("org/base", "org/other"))
    with pytest.raises(ModelError, match="has 3 blocks"):
        found.raise_problems()
    source = found.models[-1]
    assert (source.text, source.commit, source.licence) == ("org/other", commit_of(other), "cc-by-nc-nd-4.0")
    assert source.download_bytes == (other / "model.safetensors").stat().st_size
    assert found.needs is not None
    # The base is host too, and is fetched once.
    assert found.needs.download_bytes == source.download_bytes + (base / "model.safetensors").stat().st_size
    assert "does not allow sharing changed versions" in found.warnings[-1]
    assert found.licence.licence is not None
    assert found.licence.licence.id == "cc-by-nc-nd-4.0"
    assert hub.sent["model.safetensors"] <= 2 * 100_001


def test_a_disk_that_is_too_small_is_named(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "free_disk_bytes", lambda _: 1000)
    recipe = make_recipe(models, {"math": (0.7, 0.5)})
    with pytest.raises(NotEnoughRoom, match=r"out: the result takes .* MB, and 0\.0 MB are free"):
        preflight(recipe, out=tmp_path / "out").raise_problems()
    preflight(recipe).raise_problems()


def test_a_model_kept_in_memory_counts_and_too_little_is_a_warning(models: Path) -> None:
    recipe = make_recipe(models, {"math16": (0.7, 0.5)}, base="base16", host="base16")
    stored = preflight(recipe).models[1].size_bytes
    free = 10 * stored

    def memory(resident: ModelMemory | None) -> int:
        found = preflight(recipe, resident=resident)
        assert found.needs is not None
        assert not any("are available" in warning for warning in found.warnings)
        return found.needs.memory_bytes

    on_cpu = ModelMemory(bytes_per_number=4, where="memory", available_bytes=None)
    assert memory(on_cpu) == memory(None) + 2 * stored
    assert memory(ModelMemory(bytes_per_number=None, where="the GPU", available_bytes=free)) == stored
    marked = replace(recipe, method="dare_ties", settings=MergeSettings(rescale="l1"))
    found = preflight(marked).needs
    assert found is not None
    # A bit for each entry of two bytes.
    assert memory(None) < found.memory_bytes <= memory(None) + stored / 16
    tight = ModelMemory(bytes_per_number=None, where="the GPU", available_bytes=stored - 1)
    assert any("of the GPU are needed" in warning for warning in preflight(recipe, resident=tight).warnings)
