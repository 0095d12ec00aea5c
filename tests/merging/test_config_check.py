"""A config.json that contradicts the weights beside it is found before a merge."""

import json
import shutil
from pathlib import Path

import pytest

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.config_check import check_config
from evovlm.merging.models.tensor_names import EMBEDDING
from evovlm.recipes.families import TEXT_FAMILIES
from tests.pico import pico_llm, pico_vlm
from tests.pico_families import TEXT_PICOS, VLM_PICOS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pico LLM and a pico VLM."""
    folder = tmp_path_factory.mktemp("models")
    pico_vlm(folder / "vlm", like=pico_llm(folder / "llm"))
    return folder


def changed(folder: Path, to: Path, **changes: object) -> Checkpoint:
    """Copy a model, change its (text) config, and open it."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text(encoding="utf-8"))
    (config.get("text_config") or config).update(changes)
    (to / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return Checkpoint.open(to)


@pytest.mark.parametrize(
    ("key", "stated", "found"),
    [
        ("num_hidden_layers", 7, "2 blocks"),
        ("num_hidden_layers", 1, "2 blocks"),
        ("vocab_size", 5, "551 rows"),
        ("hidden_size", 64, "32 columns"),
        ("intermediate_size", 40, "48 rows"),
        ("num_key_value_heads", 4, "16 rows (which needs 32)"),
        ("head_dim", 16, "32 rows (which needs 64)"),
    ],
)
@pytest.mark.parametrize("name", ["llm", "vlm"])
def test_both_values_and_the_file_are_named(
    models: Path, tmp_path: Path, name: str, key: str, stated: int, found: str
) -> None:
    checkpoint = changed(models / name, tmp_path / "m", **{key: stated})
    with pytest.raises(BrokenCheckpoint) as raised:
        check_config(checkpoint)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'm' / 'config.json'}: contradicts the weights")
    where = "text_config." if name == "vlm" else ""
    named = "num_attention_heads is 4" if key == "head_dim" else f"{key} is {stated}"
    assert f"{where}{named}, but " in message
    assert found.replace("551", str(checkpoint.shape(EMBEDDING)[0])) in message


@pytest.mark.parametrize("family", [name for name in TEXT_PICOS if TEXT_FAMILIES[name].architecture == name])
def test_a_sound_text_model_of_each_family_passes(tmp_path: Path, family: str) -> None:
    check_config(Checkpoint.open(pico_llm(tmp_path / "m", family=family)))


@pytest.mark.parametrize("family", sorted(VLM_PICOS))
def test_a_sound_vlm_of_each_family_passes(tmp_path: Path, family: str) -> None:
    check_config(Checkpoint.open(pico_vlm(tmp_path / "m", family=family)))
