"""What models say of their licences, and which of them binds a merge."""

import os
from pathlib import Path

import pytest

from evovlm.assets import asset_path
from evovlm.merging.checkpoint.licences import KNOWN, UNKNOWN, Licence, forbids_sharing, licence_of, most_restrictive


def card(folder: Path, front: str) -> Path:
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: apache-2.0", Licence(id="apache-2.0")),
        ("license: Apache-2.0\nlanguage: ja", Licence(id="apache-2.0")),
        ("license: [mit, apache-2.0]", Licence(id="mit")),
        (
            "license: other\nlicense_name: microsoft-research-license\nlicense_link: https://example.org/LICENSE",
            Licence(id="microsoft-research-license", link="https://example.org/LICENSE"),
        ),
        ("license: other", Licence(id="other")),
        ("language: en", Licence(id=UNKNOWN)),
        ("license: {a: b}", Licence(id=UNKNOWN)),
        ("license: 'a\n\n  b'", Licence(id="a b")),
        ("license: [", Licence(id=UNKNOWN)),
        ("- a\n- list", Licence(id=UNKNOWN)),
        ("a: &a [*a]", Licence(id=UNKNOWN)),
    ],
)
def test_a_card_says_its_licence(tmp_path: Path, front: str, licence: Licence) -> None:
    assert licence_of(card(tmp_path, front)) == licence


def test_without_a_card_the_config_may_say_it(tmp_path: Path) -> None:
    assert licence_of(tmp_path) == Licence(id=UNKNOWN)
    (tmp_path / "config.json").write_text('{"license": "mit"}')
    assert licence_of(tmp_path) == Licence(id="mit")
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert licence_of(tmp_path) == Licence(id="mit")


def test_the_embedded_models_are_under_the_project_s_own() -> None:
    assert licence_of(asset_path("zoo/base")) == Licence(id="apache-2.0")


def test_the_strictest_licence_is_inherited_and_the_reason_names_its_model() -> None:
    binding = most_restrictive(
        {
            "org/ja": Licence(id="apache-2.0"),
            "org/math": Licence(id="microsoft-research-license"),
            "org/llama": Licence(id="llama2"),
        }
    )
    assert binding.licence == Licence(id="microsoft-research-license")
    assert tuple(map(str, binding.reasons)) == (
        "org/math is under microsoft-research-license: non-commercial; the merge inherits it.",
    )
    assert binding.is_certain


def test_equally_strict_licences_are_all_named() -> None:
    binding = most_restrictive({"a": Licence(id="llama3"), "b": Licence(id="llama2"), "c": Licence(id="mit")})
    assert binding.licence == Licence(id="llama3")
    assert "and so does what is under llama2" in str(binding.reasons[0])


def test_what_is_not_known_is_said_plainly() -> None:
    binding = most_restrictive({"a": Licence(id="mit"), "b": Licence(id=UNKNOWN), "c": Licence(id="own-terms")})
    assert binding.licence == Licence(id="mit")
    assert not binding.is_certain
    assert tuple(map(str, binding.reasons[1:])) == (
        "b names no licence; ask its authors before the merge is shared.",
        "c is under 'own-terms', which evovlm does not know; read it before the merge is shared.",
    )
    assert most_restrictive({"b": Licence(id=UNKNOWN)}).licence is None


def test_the_order_is_the_one_that_people_expect() -> None:
    order = ["apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "openrail", "llama3", "gemma", "cc-by-nc-4.0", "cc-by-nd-4.0"]
    ranks = [KNOWN[name].rank for name in order]
    assert ranks == sorted(set(ranks))
    assert KNOWN["mit"] == KNOWN["apache-2.0"]
    assert forbids_sharing({name: Licence(id=name) for name in KNOWN}) == ["cc-by-nd-4.0", "cc-by-nc-nd-4.0"]


@pytest.mark.parametrize(
    "front", ["!!bool maybe", "!!int abc", "!!timestamp foo", "[" * 2000, "9" * 5000, "!!binary é"]
)
def test_a_card_that_cannot_be_read_names_no_licence(tmp_path: Path, front: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: apache-2.0\nother: {front}\n---\n", encoding="utf-8")
    assert licence_of(tmp_path).id == "unknown"
    (tmp_path / "README.md").unlink()
    os.mkfifo(tmp_path / "README.md")
    assert licence_of(tmp_path).id == "unknown"
