"""Components that only some architectures have: with numbers of their own, or with those of the usual ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from evovlm.errors import ConfigError
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.tensor_names import component_of, further_components
from evovlm.recipes.source_values import ByComponent, SourceParameters, value_at
from evovlm.recipes.space_kinds import search_space
from evovlm.runs.config.hybrid import search_from_text
from tests.any_family import save_pair

PLAIN = ByComponent(attention=0.1, mlp=0.2, norms=0.3, rest=0.4)


@pytest.mark.parametrize(
    ("tensor", "component"),
    [
        ("model.layers.0.linear_attn.in_proj_qkv.weight", "linear_attention"),
        ("model.layers.0.linear_attn.A_log", "linear_attention"),
        ("model.layers.0.linear_attn.norm.weight", "norms"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.3.cross_attn.q_proj.weight", "cross_attention"),
        ("model.layers.0.mlp.experts.3.gate_proj.weight", "experts"),
        ("model.layers.0.mlp.experts.gate_up_proj", "experts"),
        ("model.layers.0.block_sparse_moe.gate.weight", "router"),
        ("model.layers.0.mlp.gate.e_score_correction_bias", "router"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "mlp"),
        ("model.layers.0.mlp.gate_proj.weight", "mlp"),
        ("model.layers.0.ln_1.weight", "norms"),
        ("model.wpe.weight", "rest"),
    ],
)
def test_a_tensor_belongs_to_a_component(tensor: str, component: str) -> None:
    assert component_of(tensor) == component


def test_without_a_number_that_of_the_usual_component_counts() -> None:
    found = {each: value_at(PLAIN, 1, each) for each in ("linear_attention", "cross_attention", "experts", "router")}
    assert found == {"linear_attention": 0.1, "cross_attention": 0.1, "experts": 0.2, "router": 0.2}
    own = replace(PLAIN, further=(("experts", (0.5, 0.6, 0.7, 0.8)),))
    assert [value_at(own, 1, each) for each in ("experts", "router", "mlp")] == [0.6, 0.2, 0.2]
    assert SourceParameters(weight=own).as_values()["weight"]["experts"] == [0.5, 0.6, 0.7, 0.8]


def test_a_space_by_component_has_genes_for_them() -> None:
    plain = search_space("component", ["ja"], 4, parameters=["weight"])
    space = search_space("component", ["ja"], 4, parameters=["weight"], further=["router", "experts"])
    assert [gene.name for gene in plain.genes] == [
        f"ja.weight.{part}" for part in ("attention", "mlp", "norms", "rest")
    ]
    assert [gene.name for gene in space.genes[4:]] == ["ja.weight.experts", "ja.weight.router"]
    genome = np.linspace(0.1, 0.9, space.dim)
    decoded = space.decode(genome)
    assert np.allclose(space.encode(decoded), genome)
    assert value_at(decoded["ja"].weight, 1, "experts") != value_at(decoded["ja"].weight, 1, "mlp")
    with pytest.raises(ConfigError, match=r"ja\.weight \(router"):
        plain.encode(decoded)


def test_a_resolved_search_names_the_components_of_its_models(tmp_path: Path) -> None:
    base, tuned = save_pair(tmp_path, "qwen3_moe")
    assert further_components(Checkpoint.open(base).backbone_names()) == ("experts", "router")
    document = {
        "format": 1,
        "kind": "evolve",
        "seed": 1,
        "merge": {"base": str(base), "host": str(base), "sources": {"a": str(tuned)}, "method": "linear"},
        "space": {"kind": "component"},
        "budget": {"candidates": 60},
        "tasks": [{"name": "word_problems_ja", "limit": 2}],
    }
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(document))
    config = search_from_text(document, file).resolved(relative_to=tmp_path)
    assert config.as_mapping()["space"]["components"] == ["experts", "router"]
    assert [gene.name for gene in config.space_for({"a": 4}).genes][4:] == ["a.weight.experts", "a.weight.router"]
    # Without such components, nothing is said of them: journals stay as they were.
    document["merge"] = {"base": "zoo:base", "host": "zoo:base", "sources": {"a": "zoo:ja"}, "method": "linear"}
    plain = search_from_text(document, file).resolved(relative_to=tmp_path)
    assert "components" not in plain.to_yaml()
    assert "components" not in plain.as_mapping()["space"]
