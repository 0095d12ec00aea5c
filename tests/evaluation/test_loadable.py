"""What is said to load without trying does load; what does not load is refused."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evovlm.errors import BrokenCheckpoint, EvovlmError
from evovlm.evaluation.loadable import check_loads, host_problems
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.plain_models import is_plain
from evovlm.models.loading import check_fit
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.model_config import read_model_config
from evovlm.recipes.model_ref import ModelRef
from tests.pico import pico_llm, pico_vlm

PLAIN = ("llama", "mistral", "qwen2", "qwen3", "llava")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, 5, 64, -1, 0.5, 1.5, 10**6, math.nan),
    *("", "x", "silu", "gleu", "default", "full", "float64", "mistral"),
    *([], [1], ["full_attention", "sliding_attention"], ["chunked_attention"] * 2, {}, {"rope_type": "yarn"}),
    {"rope_type": "default", "rope_theta": "x"},
)
ABSENT = ("rope_scaling", "attention_bias", "mlp_bias", "quantization_config", "num_experts", "attn_implementation")
"""Keys that the config of a pico model does not have."""


@pytest.fixture(scope="module")
def picos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A sound model of each architecture that is recognised, and a tied one."""
    folder = tmp_path_factory.mktemp("picos")
    made = {name: pico_llm(folder / name, family=name) for name in PLAIN[:-1]}
    made["llava"] = pico_vlm(folder / "llava")
    made["tied"] = pico_llm(folder / "tied", tie=True)
    return {name: Checkpoint.open(path) for name, path in made.items()}


def does_load(checkpoint: Checkpoint) -> bool:
    try:
        check_fit(checkpoint.folder, {name: place.shape for name, place in checkpoint.places.items()})
    except EvovlmError:
        return False
    return True


@pytest.mark.parametrize("name", [*PLAIN, "tied"])
def test_sound_models_of_plain_architectures_need_no_trial(picos: dict[str, Checkpoint], name: str) -> None:
    assert is_plain(picos[name])
    assert does_load(picos[name])


@pytest.mark.parametrize("name", ["base", "math-a", "math-b", "ja", "vlm"])
def test_the_embedded_models_need_no_trial(name: str) -> None:
    assert is_plain(Checkpoint.open(ModelRef(text=f"zoo:{name}").resolve()))


def configs(config: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield a config with each of its keys, inner ones too, removed or replaced by each value."""
    for key in (*config, *ABSENT):
        yield key, "(removed)", {other: value for other, value in config.items() if other != key}
        for value in VALUES:
            yield key, value, {**config, key: value}
    for part in (key for key, value in config.items() if isinstance(value, dict)):
        for key, value, inner in configs(config[part]):
            yield f"{part}.{key}", value, {**config, part: inner}


@pytest.mark.slow
def test_no_config_that_does_not_load_passes_without_trial(picos: dict[str, Checkpoint], tmp_path: Path) -> None:
    """Of every value of every key of these architectures."""
    wrong, plain = [], 0
    for name in PLAIN:
        sound = picos[name]
        for key, value, config in configs(dict(sound.config)):
            (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
            try:
                read_model_config(tmp_path)
                changed = Checkpoint._of_folder(tmp_path, lambda _, sound=sound: sound.places)
            except EvovlmError:
                continue
            if is_plain(changed):
                plain += 1
                # What a merge writes: without a quantisation that the tensors do not have.
                (tmp_path / "config.json").write_text(json.dumps(dict(changed.config)), encoding="utf-8")
                if not does_load(changed):
                    wrong.append((name, key, value))
    assert wrong == []
    assert plain > 100


@pytest.mark.parametrize("name", PLAIN)
def test_no_tensors_that_do_not_load_pass_without_trial(picos: dict[str, Checkpoint], name: str) -> None:
    """A tensor is missing, unknown, of another shape or of another dtype."""
    sound = picos[name]
    for tensor, place in sound.places.items():
        others = {other: each for other, each in sound.places.items() if other != tensor}
        assert not is_plain(replace(sound, places=others)), tensor
        assert not is_plain(replace(sound, places={**sound.places, f"{tensor}.more": place})), tensor
        wider = replace(place, shape=(*place.shape[:-1], place.shape[-1] + 1))
        assert not is_plain(replace(sound, places={**others, tensor: wider})), tensor
        assert not is_plain(replace(sound, places={**others, tensor: replace(place, dtype_code="I8")})), tensor


def test_other_architectures_are_tried(tmp_path: Path) -> None:
    folder = pico_llm(tmp_path / "gemma", family="gemma2")
    assert not is_plain(Checkpoint.open(folder))
    check_loads(Checkpoint.open(folder))


def test_a_host_that_does_not_load_is_a_problem_of_the_recipe(picos: dict[str, Checkpoint], tmp_path: Path) -> None:
    folder = pico_llm(tmp_path / "host")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gleu"}), encoding="utf-8")
    with pytest.raises(BrokenCheckpoint, match="gleu"):
        check_loads(Checkpoint.open(folder))
    source = picos["mistral"].folder
    (tmp_path / "recipe.yaml").write_text(
        f"format: 1\nkind: parameter_merge\nhost: {folder}\nsources: {{a: {source}}}\nmethod: linear\n"
        "parameters: {a: {weight: 1.0}}\n"
    )
    problems = [str(each) for each in host_problems(load_recipe(tmp_path / "recipe.yaml"))]
    assert len(problems) == 1
    assert "gleu" in problems[0]


MERGE = """
import sys
from evovlm.cli.app import main
sys.argv = ["evovlm", "merge", sys.argv[1], "--out", sys.argv[2]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended
print("modules:", *sys.modules)
"""


def test_a_plain_merge_loads_no_torch(picos: dict[str, Checkpoint], tmp_path: Path) -> None:
    source = picos["mistral"].folder
    (tmp_path / "recipe.yaml").write_text(
        f"format: 1\nkind: parameter_merge\nhost: {source}\nsources: {{a: {source}}}\nmethod: linear\n"
        "parameters: {a: {weight: 1.0}}\n"
    )
    words = [sys.executable, "-c", MERGE, tmp_path / "recipe.yaml", tmp_path / "out"]
    shown = subprocess.run(words, check=True, capture_output=True, text=True)
    loaded = shown.stdout.rsplit("modules:", 1)[1].split()
    assert "evovlm.merging.merge" in loaded
    assert [name for name in ("torch", "transformers") if name in loaded] == []
