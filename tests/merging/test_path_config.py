"""The config.json of a path: as many blocks as hops, each attending as at home."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.paths.config import attention_kinds, kind_in, path_config
from tests.paths import shaken
from tests.pico import pico_llm, pico_vlm
from tests.pico_families import TEXT_PICOS, VLM_PICOS

LLMS = [name for name in TEXT_PICOS if "_vl_" not in name]
FULL, SLIDING = "full_attention", "sliding_attention"


def checkpoint(folder: Path, *, family: str = "qwen2", drop: tuple[str, ...] = (), **config: Any) -> Checkpoint:
    """Return a pico model of three blocks whose config.json says more, and less."""
    pico_llm(folder, family=family, n_blocks=3)
    shaken(folder, seed=0, **config)
    stated = json.loads((folder / "config.json").read_text())
    for key in drop:
        del stated[key]
    (folder / "config.json").write_text(json.dumps(stated))
    return Checkpoint.open(folder)


def as_transformers_reads(found: dict[str, Any]) -> Any:
    return AutoConfig.for_model(**found).get_text_config()


@pytest.mark.parametrize("family", LLMS)
@pytest.mark.parametrize("silent", [False, True])
def test_kinds_of_attention_are_read_as_transformers_reads_them(tmp_path: Path, family: str, silent: bool) -> None:
    stated = AutoConfig.for_model(family).to_dict()
    drop = ("layer_types",) if silent and "layer_types" in stated else ()
    host = checkpoint(tmp_path / "m", family=family, drop=drop)
    config = AutoConfig.from_pretrained(tmp_path / "m")
    window = getattr(config, "sliding_window", None)
    wanted = getattr(config, "layer_types", None) or [FULL if window is None else SLIDING] * 3
    assert list(attention_kinds(host.layout)) == wanted


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_window_that_begins_at_a_block_is_read_and_written(tmp_path: Path, family: str, first: int) -> None:
    host = checkpoint(
        tmp_path / "m", family=family, drop=("layer_types",), use_sliding_window=True, sliding_window=6,
        max_window_layers=first,
    )  # fmt: skip
    kinds = attention_kinds(host.layout)
    assert list(kinds) == AutoConfig.from_pretrained(tmp_path / "m").layer_types
    assert [kind_in(host, kind) for kind in kinds] == list(kinds)
    found = path_config(host, [kinds[0], kinds[2], kinds[2], kinds[0]], untied=False)
    assert as_transformers_reads(found).layer_types == [kinds[0], kinds[2], kinds[2], kinds[0]]
    assert found["num_hidden_layers"] == 4


def test_blocks_of_a_window_attend_to_everything_in_a_host_without_one(tmp_path: Path) -> None:
    host = checkpoint(tmp_path / "m")
    assert kind_in(host, SLIDING) == FULL


def test_a_pattern_that_no_longer_holds_is_left_out(tmp_path: Path) -> None:
    host = checkpoint(tmp_path / "m", family="gemma3_text", drop=("layer_types",), sliding_window_pattern=2)
    assert attention_kinds(host.layout) == (SLIDING, FULL, SLIDING)
    kept = path_config(host, [SLIDING, FULL, SLIDING, FULL], untied=False)
    assert kept["sliding_window_pattern"] == 2
    dropped = path_config(host, [FULL, FULL, SLIDING], untied=False)
    assert "sliding_window_pattern" not in dropped
    assert as_transformers_reads(dropped).layer_types == [FULL, FULL, SLIDING]


@pytest.mark.parametrize("family", VLM_PICOS)
def test_a_vlms_config_changes_in_its_language_models_part_alone(tmp_path: Path, family: str) -> None:
    host = Checkpoint.open(pico_vlm(tmp_path / "m", family=family))
    kinds = attention_kinds(host.layout)
    found = path_config(host, [kinds[1], kinds[0], kinds[1]], untied=False)
    text = AutoConfig.for_model(**found).get_text_config()
    assert text.num_hidden_layers == 3
    assert getattr(text, "layer_types", None) in (None, [kinds[1], kinds[0], kinds[1]])
    own = dict(host.config)
    assert {key: value for key, value in found.items() if key != "text_config"} == {
        key: value for key, value in own.items() if key != "text_config"
    }


def test_an_older_config_with_everything_in_one_place_changes_there(tmp_path: Path) -> None:
    folder = pico_vlm(tmp_path / "m", family="qwen2_vl")
    config = json.loads((folder / "config.json").read_text())
    config |= config.pop("text_config") | {"model_type": "qwen2_vl"}
    (folder / "config.json").write_text(json.dumps(config))
    found = path_config(Checkpoint.open(folder), [FULL] * 5, untied=False)
    assert found["num_hidden_layers"] == 5
    assert len(found["layer_types"]) == 5
    assert "text_config" not in found


def test_an_untied_head_is_said_everywhere(tmp_path: Path) -> None:
    host = Checkpoint.open(pico_vlm(tmp_path / "m", tie=True))
    found = path_config(host, [FULL], untied=True)
    assert found["tie_word_embeddings"] is found["text_config"]["tie_word_embeddings"] is False
