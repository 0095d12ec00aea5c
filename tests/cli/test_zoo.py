"""`evovlm zoo` where the embedded models are built, and where they are not."""

import json

import pytest

from evovlm.assets import asset_path
from tests.cli.conftest import Command

NAMES = {"base", "math-a", "math-b", "ja", "lora-math-a", "lora-math-b", "lora-ja", "vlm"}
is_built = asset_path("zoo/catalogue.json").is_file()


@pytest.mark.skipif(not is_built, reason="the embedded models are not built here")
def test_it_lists_the_embedded_models(evovlm: Command) -> None:
    shown, told = evovlm("zoo"), evovlm("zoo", "--json")
    assert shown.code == told.code == 0
    assert {model["name"] for model in json.loads(told.out)} == NAMES
    assert all(f"zoo:{name}" in shown.out for name in NAMES)


@pytest.mark.skipif(is_built, reason="the embedded models are here")
def test_without_them_it_says_how_to_get_them(evovlm: Command) -> None:
    outcome = evovlm("zoo")
    assert outcome.code == 2
    assert "make zoo" in outcome.err


def test_build_says_what_it_takes(evovlm: Command) -> None:
    shown = evovlm("zoo", "build", "--help")
    assert shown.code == 0
    assert "--out" in shown.out
    assert "--seed" in shown.out
