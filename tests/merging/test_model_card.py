"""The card of a merged model: whom it is made from, under which licence, and nothing that a stranger slips in."""

import shutil
from pathlib import Path

import pytest
import yaml

from evovlm.merging.model_card import model_card
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.recipes.writing import recipe_to_yaml
from tests.hub_fixtures import OpenHub, open_hub
from tests.hub_server import commit_of
from tests.merging.test_licences import card as write_card

__all__ = ["open_hub"]


def front_of(card: str) -> dict[str, object]:
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def recipe_of(host: ModelRef, **sources: ModelRef) -> ParameterMerge:
    return ParameterMerge(
        host=host,
        sources=sources,
        method="linear",
        parameters={name: SourceParameters(weight=0.5) for name in sources},
    )


def card_of(recipe: ParameterMerge) -> str:
    return model_card(recipe, recipe_text=recipe_to_yaml(recipe), warnings=["rope_theta is 1 in a and 2 in b"])


@pytest.fixture
def published(models: Path, tmp_path: Path) -> dict[str, Path]:
    fronts = {
        "org/ja": "license: apache-2.0",
        "org/math": "license: other\nlicense_name: microsoft-research-license\nlicense_link: https://example.org/l",
        "org/silent": "language: ja",
    }
    folders = {name: shutil.copytree(models / "ja", tmp_path / name) for name in fronts}
    return {name: write_card(folder, fronts[name]) for name, folder in folders.items()}


def test_models_are_named_with_revisions_and_licences(open_hub: OpenHub, published: dict[str, Path]) -> None:
    open_hub(published)
    ja, math = ModelRef(text="org/ja"), ModelRef(text="org/math@main")
    for ref in (ja, math):
        ref.resolve()
    card = card_of(recipe_of(ja, ja=ja, math=math))
    assert front_of(card) == {
        "library_name": "transformers",
        "tags": ["merge", "evovlm"],
        "base_model": ["org/ja", "org/math"],
        "license": "other",
        "license_name": "microsoft-research-license",
        "license_link": "https://example.org/l",
    }
    commit = commit_of(published["org/math"])
    assert f"| source `math` | `org/math@main` | `{commit}` | microsoft-research-license |" in card
    assert "org/math@main is under microsoft-research-license: non-commercial; the merge inherits it." in card


def test_a_known_licence_is_written_as_its_identifier(open_hub: OpenHub, published: dict[str, Path]) -> None:
    folder = ModelRef(text=str(published["org/ja"]))
    card = card_of(recipe_of(folder, ja=folder))
    assert front_of(card)["license"] == "apache-2.0"
    assert "base_model" not in front_of(card)


def test_an_unknown_licence_is_said_and_not_guessed(open_hub: OpenHub, published: dict[str, Path]) -> None:
    silent, ja = ModelRef(text=str(published["org/silent"])), ModelRef(text=str(published["org/ja"]))
    card = card_of(recipe_of(ja, ja=ja, other=silent))
    assert front_of(card)["license"] == "unknown"
    assert f"{silent.text} names no licence; ask its authors" in card
    gone = ModelRef(text="./gone")
    assert front_of(card_of(recipe_of(gone, gone=gone)))["license"] == "unknown"


def test_a_stranger_s_text_stays_text(models: Path, tmp_path: Path) -> None:
    evil = shutil.copytree(models / "ja", tmp_path / "evil")
    name = "x | `y`](http://evil)\\n---\\nlicense: mit <b>"
    write_card(evil, f'license: other\nlicense_name: "{name}"\nlicense_link: "z\\n---\\n# Evil"')
    ref = ModelRef(text=str(evil))
    card = card_of(recipe_of(ref, ja=ref))
    assert front_of(card)["license"] == "unknown"
    assert card.count("\n---\n") == 1
    assert "\n# Evil" not in card
    assert "<b>" not in card.replace("\\<b\\>", "")
    row = next(line for line in card.splitlines() if line.startswith("| source `ja`"))
    assert row.replace("\\|", "").count("|") == 5
