"""Reading config.json files of strangers: every value that the package relies on has the right kind, or is refused."""

import json
from pathlib import Path

import pytest

from evovlm.errors import BrokenCheckpoint
from evovlm.recipes.model_config import check_generation_config, read_model_config, read_model_json


def write(folder: Path, text: str, *, name: str = "config.json") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "llama", "num_hidden_layers": 32, "head_dim": None, "rope_scaling": None, "pad_token_id": -1},
        {"model_type": "gemma3", "text_config": {"sliding_window": 1024, "rope_theta": 1e6, "eos_token_id": [1, 106]}},
        {"vision_config": {"image_size": [336, 336], "patch_size": 14, "hidden_act": "quick_gelu"}, "unknown": [1e300]},
        {"time_step_limit": [0.0, float("inf")]},
    ],
)
def test_a_sound_config_is_returned_as_it_is(tmp_path: Path, config: dict[str, object]) -> None:
    assert read_model_config(write(tmp_path, json.dumps(config))) == config


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it should be a whole number from 1 to 2000"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"hidden_size": "x"}, 'hidden_size is "x"'),
        ({"text_config": []}, "text_config is []; it should be a JSON object, or null"),
        ({"text_config": {"num_attention_heads": 0}}, "text_config.num_attention_heads is 0"),
        ({"vision_config": {"image_size": 10**6}}, "vision_config.image_size is 1000000"),
        ({"rope_parameters": {"rope_theta": float("inf")}}, "rope_parameters.rope_theta is Infinity"),
        ({"rope_theta": 0}, "rope_theta is 0; it should be a number above 0, or null"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1; it should be a number of at least 0, or null"),
        ({"layer_types": [1]}, "layer_types is [1]"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"model_type": {}}, "model_type is {}; it should be a text"),
        ({"image_token_index": -1}, "image_token_index is -1"),
        ({"eos_token_id": ["x"]}, "eos_token_id"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(tmp_path: Path, config: dict[str, object], says: str) -> None:
    with pytest.raises(BrokenCheckpoint) as raised:
        read_model_config(write(tmp_path, json.dumps(config)))
    assert str(raised.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "as JSON"),
        ("[]", "should hold a JSON object"),
        ("{", "as JSON"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "as JSON"),
        ('{"a": ' * 30 + "1" + "}" * 30, "nested more than 20 levels"),
        (" " * 20_000_001, "20000001 bytes, more than the 20000000 allowed"),
    ],
)
def test_a_text_that_is_not_a_config_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BrokenCheckpoint, match=says):
        read_model_config(write(tmp_path, text))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").symlink_to(write(tmp_path, "{}", name="other.json") / "other.json")
    with pytest.raises(BrokenCheckpoint, match="leads out of the model's folder"):
        read_model_json(folder / "config.json")


def test_the_generation_config_is_checked_where_there_is_one(tmp_path: Path) -> None:
    check_generation_config(tmp_path)
    with pytest.raises(BrokenCheckpoint, match=r'generation_config\.json: eos_token_id is "x"'):
        check_generation_config(write(tmp_path, '{"eos_token_id": "x"}', name="generation_config.json"))
