"""What a model reference leads to."""

from pathlib import Path

import pytest

from evovlm.errors import ModelNotFound
from evovlm.recipes.model_ref import ModelRef, parse_model_ref


def test_a_folder_is_taken_against_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "a").mkdir(parents=True)
    assert parse_model_ref("models/a", relative_to=tmp_path).resolve() == tmp_path / "models" / "a"
    assert (
        parse_model_ref("../a", relative_to=tmp_path / "models" / "a").resolve().resolve() == tmp_path / "models" / "a"
    )
    assert parse_model_ref(str(tmp_path), relative_to=Path("/elsewhere")).resolve() == tmp_path


def test_a_zoo_name_that_does_not_exist_is_named() -> None:
    with pytest.raises(ModelNotFound, match=r"'zoo:nothing'.*the zoo has no such model"):
        parse_model_ref("zoo:nothing", relative_to=None).resolve()


def test_a_missing_folder_is_never_looked_for_on_the_hub(tmp_path: Path) -> None:
    for text in ("./a", "../a/b", "/a/b", "a/b/c", "a"):
        with pytest.raises(ModelNotFound, match=r"there is no folder[\s\S]*hub id"):
            parse_model_ref(text, relative_to=tmp_path).resolve()


def test_a_hub_id_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for text in ("org/model", "org/model@main"):
        with pytest.raises(ModelNotFound, match=r"'org/model[\s\S]*offline mode is on[\s\S]*Unset HF_HUB_OFFLINE"):
            parse_model_ref(text, relative_to=tmp_path).resolve()


def test_identity_is_the_same_however_a_folder_is_written(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    written = [("a", tmp_path), ("../a", tmp_path / "b"), (str(tmp_path / "a"), None)]
    assert len({ModelRef(text=text, origin=origin).identity for text, origin in written}) == 1
    assert ModelRef(text="org/name@v1", origin=tmp_path).identity == "org/name@v1"
