"""What is warned of when models differ beside their tensors, and which field of the recipe decides."""

import json
import shutil
from pathlib import Path

import pytest

from evovlm.errors import IncompatibleModels
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.models.compatibility import NamedCheckpoint, differing_settings
from evovlm.merging.models.tensor_names import BackboneLayout
from evovlm.recipes.language_config import DEFAULTS_FILE
from tests.config_defaults import every_default
from tests.merging.recipes import make_recipe
from tests.pico import pico_llm


def test_settings_that_differ_are_warned_of_with_both_values_and_what_decides(models: Path) -> None:
    warnings = Merger.open(make_recipe(models, {"other-rope": (0.5, 1.0)})).warnings
    assert warnings == (
        "rope_theta is 10000.0 in host ('base') and base ('base'), and 1000000.0 in sources.other-rope ('other-rope'); "
        "the result takes the host's (`config_from` in the recipe can name base or a source instead).",
        "sliding_window is None in host ('base') and base ('base'), and 64 in sources.other-rope ('other-rope'); "
        "the result takes the host's (`config_from` in the recipe can name base or a source instead).",
    )
    chosen = Merger.open(make_recipe(models, {"other-rope": (0.5, 1.0)}, config_from="other-rope")).warnings
    assert all(w.endswith("the result takes that of other-rope, which `config_from` names.") for w in chosen)


def test_norm_eps_and_rope_scaling_count_too(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "math")
    config = tmp_path / "math" / "config.json"
    text = config.read_text().replace('"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-06')
    config.write_text(text.replace('"rope_type": "default"', '"rope_type": "linear", "factor": 2.0'))
    base = str(models / "base")
    warnings = Merger.open(make_recipe(tmp_path, {"math": (0.5, 1.0)}, base=base, host=base)).warnings
    assert any("rms_norm_eps is 1e-05 in host" in w and "1e-06 in sources.math" in w for w in warnings)
    assert any("rope scaling is default in host" in w and "linear {'factor': 2.0} in sources" in w for w in warnings)


def differing(folder: Path, ours: dict[str, object], theirs: dict[str, object]) -> dict[str, str]:
    """Return the settings that differ between two models of a type, whose configs state these settings besides."""
    named = []
    for name, settings in (("host", ours), ("sources.a", theirs)):
        model_type = settings.get("model_type", "qwen3_moe")
        config = {"model_type": model_type, "rms_norm_eps": 1e-6, **settings}
        checkpoint = Checkpoint(
            folder=folder, config=config, layout=BackboneLayout.from_config(config), places={}, declared=None
        )
        named.append(NamedCheckpoint(name=name, text=name, checkpoint=checkpoint))
    return dict(differing_settings(named))


def test_a_setting_left_to_its_default_equals_the_default_that_is_stated(tmp_path: Path) -> None:
    stated: dict[str, object] = {
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "num_experts_per_tok": 8,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "mlp_only_layers": None,
    }
    assert differing(tmp_path, {}, stated) == {}
    assert differing(tmp_path, stated, {}) == {}
    assert differing(tmp_path, {}, {"norm_topk_prob": True}) == {
        "norm_topk_prob": "False in host ('host'), and True in sources.a ('sources.a')"
    }


def test_a_type_is_not_compared_by_a_setting_that_it_does_not_have(tmp_path: Path) -> None:
    # Inside Qwen3-VL-MoE, the router always normalises.
    inside: dict[str, object] = {"model_type": "qwen3_vl_moe_text", "rope_theta": 10000.0, "num_experts_per_tok": 8}
    assert differing(tmp_path, {"norm_topk_prob": True}, inside) == {}
    assert differing(tmp_path, {}, inside) == {
        "norm_topk_prob": "False in host ('host'), and True in sources.a ('sources.a')"
    }
    assert differing(tmp_path, {"norm_topk_prob": True, "router_scale": 0.5}, inside) == {}
    # Of a type that brings its own code, only what its config states is known.
    own: dict[str, object] = {"model_type": "ours", "hidden_act": "silu", "rope_theta": 10000.0, "logit_scale": 2}
    assert differing(tmp_path, own, {**own, "logit_scale": 2.0}) == {}
    assert differing(tmp_path, own, {**own, "logit_scale": None}) == {
        "logit_scale": "2 in host ('host'), and None in sources.a ('sources.a')"
    }


@pytest.mark.slow
def test_the_table_of_defaults_is_that_of_the_installed_transformers() -> None:
    assert json.loads(DEFAULTS_FILE.read_text(encoding="utf-8")) == every_default()


def test_a_separate_head_on_one_side_is_a_warning(models: Path) -> None:
    for host, source in (("tied", "math"), ("base", "tied2")):
        (warning,) = Merger.open(make_recipe(models, {source: (0.5, 1.0)}, base=host, host=host)).warnings
        assert warning.startswith(f"tie_word_embeddings is {host == 'tied'} in host ('{host}')")


@pytest.mark.parametrize("key", ["num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"])
def test_what_gives_the_tensors_their_meaning_is_an_error(models: Path, tmp_path: Path, key: str) -> None:
    shutil.copytree(models / "math", tmp_path / "math")
    config = tmp_path / "math" / "config.json"
    config.write_text(config.read_text().replace(f'"{key}": ', f'"{key}": 1'))
    base = str(models / "base")
    with pytest.raises(IncompatibleModels, match=rf"{key} is 1\d+ in sources\.math .* in host"):
        Merger.open(make_recipe(tmp_path, {"math": (0.5, 1.0)}, base=base, host=base))


def test_another_number_of_layers_is_an_error(models: Path, tmp_path: Path) -> None:
    pico_llm(tmp_path / "deep", n_blocks=4)
    base = str(models / "base")
    with pytest.raises(IncompatibleModels, match="has 4 blocks"):
        Merger.open(make_recipe(tmp_path, {"deep": (0.5, 1.0)}, base=base, host=base))
