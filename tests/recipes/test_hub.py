"""Models of the hub, fetched from a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from evovlm.errors import BrokenCheckpoint, ModelNotFound, PickledWeights
from evovlm.recipes.hub import HubModel, fetch, hub_commit, missing_bytes
from evovlm.recipes.model_ref import ModelRef
from tests.hub_fixtures import OpenHub, open_hub
from tests.hub_server import commit_of

__all__ = ["open_hub"]


def publish(folder: Path, **files: str) -> Path:
    """Make a folder with these files (`__` stands for a dot) beside a config and weights in two shards."""
    folder.mkdir(parents=True)
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    own = {
        "config.json": "{}",
        "tokenizer.json": "{}",
        "README.md": "# a card",
        "model.safetensors.index.json": json.dumps(index),
        "model-1.safetensors": "first",
        "model-2.safetensors": "second",
    }
    for name, text in {**own, **{name.replace("__", "."): text for name, text in files.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_used_is_fetched(open_hub: OpenHub, tmp_path: Path) -> None:
    surplus = {
        "consolidated__safetensors": "all once more",
        "original/params__json": "{}",
        "pytorch_model__bin": "pickles",
        "modeling_own__py": "code",
        "trainer_state__json": "{}",
        "LICENSE__txt": "a licence",
    }
    published = publish(tmp_path / "published", **surplus)
    open_hub({"org/model": published})
    folder = ModelRef(text="org/model").resolve()
    wanted = {"config.json", "tokenizer.json", "README.md", "LICENSE.txt", "model.safetensors.index.json"}
    assert names(folder) == wanted | {"model-1.safetensors", "model-2.safetensors"}
    assert (folder / "model-2.safetensors").read_text() == "second"
    assert hub_commit(folder) == commit_of(published)
    assert hub_commit(published) is None


def test_a_single_file_is_taken_before_shards(open_hub: OpenHub, tmp_path: Path) -> None:
    open_hub({"org/model": publish(tmp_path / "published", model__safetensors="whole")})
    folder = ModelRef(text="org/model").resolve()
    assert {name for name in names(folder) if "safetensors" in name} == {"model.safetensors"}


def test_the_cache_serves_when_the_hub_is_gone_or_offline(
    open_hub: OpenHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = open_hub({"org/model": publish(tmp_path / "published")})
    folder = ModelRef(text="org/model").resolve()
    sent = hub.sent.total()
    assert ModelRef(text="org/model").resolve() == folder
    assert hub.sent.total() == sent
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ModelRef(text="org/model").resolve() == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.stop()
    # Another address of the same hub: what this process has asked before is not asked again.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url.replace("127.0.0.1", "localhost"))
    assert ModelRef(text="org/model").resolve() == folder
    assert ModelRef(text="org/model").folder_at_hand() == folder
    assert ModelRef(text="org/other").folder_at_hand() is None


def test_a_part_in_the_cache_is_not_taken_for_the_model(
    open_hub: OpenHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hub({"org/model": publish(tmp_path / "published")})
    model = HubModel(id="org/model")
    folder = fetch(model, wanted="headers")
    assert not any(name.endswith(".safetensors") for name in names(folder))
    assert missing_bytes(model) == len("first") + len("second")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(model, wanted="headers") == folder
    with pytest.raises(ModelNotFound, match=r"offline mode is on[\s\S]*HF_HUB_OFFLINE[\s\S]*model-1\.safetensors"):
        fetch(model)


@pytest.mark.parametrize("by", ["tag", "commit"])
def test_a_revision_is_pinned(open_hub: OpenHub, tmp_path: Path, by: str) -> None:
    older = publish(tmp_path / "older", config__json='{"of": "older"}')
    hub = open_hub({"org/model": publish(tmp_path / "newer", config__json='{"of": "newer"}')})
    hub.tags["org/model", "v1"] = older
    revision = "v1" if by == "tag" else commit_of(older)
    folder = ModelRef(text=f"org/model@{revision}").resolve()
    assert json.loads((folder / "config.json").read_text()) == {"of": "older"}
    assert hub_commit(folder) == commit_of(older)
    assert json.loads((ModelRef(text="org/model").resolve() / "config.json").read_text()) == {"of": "newer"}


def test_what_the_hub_refuses_is_explained(open_hub: OpenHub, tmp_path: Path) -> None:
    published = publish(tmp_path / "published")
    hub = open_hub(dict.fromkeys(["org/private", "org/gated", "org/model"], published))
    hub.private.add("org/private")
    hub.gated.add("org/gated")
    refused = {
        "org/none": r"'org/none': there is no such folder[\s\S]*spelling",
        "org/private": r"or it is private[\s\S]*hf auth login",
        "org/gated": r"'org/gated', .*(json|safetensors).*: the model is gated[\s\S]*Accept them on http.*/org/gated",
        "org/model@v9": r"does not have the revision 'v9'[\s\S]*Name a branch",
        "org/a..b": r"'org/a..b': is neither a folder nor a valid hub id",
    }
    for text, match in refused.items():
        with pytest.raises(ModelNotFound, match=match):
            ModelRef(text=text).resolve()


def test_a_hub_out_of_reach_is_named(open_hub: OpenHub) -> None:
    hub = open_hub({})
    hub.stop()
    with pytest.raises(ModelNotFound, match=rf"{hub.url[7:]} cannot be reached[\s\S]*Without a network"):
        ModelRef(text="org/model").resolve()


def test_models_without_safetensors_are_refused_before_any_download(open_hub: OpenHub, tmp_path: Path) -> None:
    pickled, adapter, empty = (publish(tmp_path / name) for name in ("pickled", "adapter", "empty"))
    for folder in (pickled, adapter, empty):
        for path in folder.glob("model*"):
            path.unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (adapter / "adapter_config.json").write_text("{}")
    hub = open_hub({"org/pickled": pickled, "org/adapter": adapter, "org/empty": empty})
    with pytest.raises(PickledWeights, match=r"pytorch_model\.bin[\s\S]*evovlm convert org/pickled --out"):
        ModelRef(text="org/pickled").resolve()
    with pytest.raises(BrokenCheckpoint, match="adapter"):
        ModelRef(text="org/adapter").resolve()
    with pytest.raises(BrokenCheckpoint, match=r"neither model\.safetensors nor"):
        ModelRef(text="org/empty").resolve()
    assert hub.sent.total() == 0


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/etc/passwd", ".."])
def test_an_index_that_leads_out_of_the_model_is_refused(open_hub: OpenHub, tmp_path: Path, shard: str) -> None:
    published = publish(tmp_path / "published")
    (published / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    open_hub({"org/model": published})
    with pytest.raises(BrokenCheckpoint, match="is outside the checkpoint"):
        ModelRef(text="org/model").resolve()


def test_the_environment_says_which_hub_and_cache(open_hub: OpenHub, tmp_path: Path) -> None:
    hub = open_hub({"org/model": publish(tmp_path / "published")})
    code = "from evovlm.recipes.model_ref import ModelRef; print(ModelRef(text='org/model').resolve())"
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | offline, capture_output=True, text=True, check=True
        )
        folder = Path(done.stdout.strip())
        assert folder.is_relative_to(tmp_path / "home")
        assert (folder / "model-1.safetensors").is_file()
    shutil.rmtree(tmp_path / "home")
    refused = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert "offline mode is on" in refused.stderr
