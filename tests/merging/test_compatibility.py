"""What is warned of when models differ beside their tensors, and which field of the recipe decides."""

import shutil
from pathlib import Path

import pytest

from evovlm.errors import IncompatibleModels
from evovlm.merging.merge import Merger
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
