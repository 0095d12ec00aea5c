"""README, CONTRIBUTING and docs/: every YAML block is valid, and every command, file, extra and link exists."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import typer
import yaml
from typer.testing import CliRunner

import evovlm
from evovlm.cli.app import app
from evovlm.merging.arithmetic.methods import METHODS, check_parameters, get_method
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import HybridMerge
from evovlm.recipes.recipe import ParameterMerge
from evovlm.runs.config.hybrid import HybridConfig, load_search
from evovlm.tasks.catalogue import get_task
from evovlm.zoo.catalogue import MAKING, load_catalogue

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "README.ja.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
FILE = re.compile(r"[\w./-]*\w\.py\b|\b(?:evovlm|tests|benchmarks|assets|docs)/[\w./-]*\w")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
GROUP: Any = typer.main.get_command(app)

# A whole search, into which a block of a few lines is inserted.
SEARCH = """
format: 1
kind: evolve
merge: {base: zoo:base, sources: {math: zoo:math-a, ja: zoo:ja}, method: dare_ties}
budget: {candidates: 100}
tasks: [{name: word_problems_ja}]
"""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found, text in BLOCK.findall(text_of(page)):
            if found == kind:
                yield page, text


def numbered(found: Iterator[tuple[str, str]]) -> list[Any]:
    """Return the texts as parameters of a test, each named by its page and its number."""
    return [pytest.param(text, id=f"{page}-{number}") for number, (page, text) in enumerate(found)]


def fenced_commands() -> Iterator[tuple[str, str]]:
    for page, text in blocks(""):
        for line in text.splitlines():
            if line.startswith(("evovlm ", "make ", "python ")):
                yield page, line


def quoted_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found in re.findall(r"`(evovlm [^`]+)`", BLOCK.sub("", text_of(page))):
            if not found.startswith(("evovlm COMMAND", "evovlm --")):
                yield page, " ".join(found.split())


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that these words call, and the remaining words."""
    command = GROUP
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    assert command is not GROUP, f"no command {words}"
    return command, words


def read_recipe(path: Path) -> None:
    recipe = load_recipe(path, methods=METHODS)
    parameters = recipe.ps if isinstance(recipe, HybridMerge) else recipe
    if isinstance(parameters, ParameterMerge):
        get_method(parameters)
        check_parameters(METHODS[parameters.method], parameters)


def read_search(path: Path) -> None:
    config = load_search(path)
    for stage in (config.ps, config.path) if isinstance(config, HybridConfig) else (config,):
        stage.template(relative_to=path.parent)


def read_task(path: Path) -> None:
    assert get_task(str(path)).scoring.metric


def around(folder: Path) -> None:
    """Make the files that blocks name."""
    (folder / "festivals").mkdir()
    for name in ("train", "test"):
        (folder / "festivals" / f"{name}.jsonl").write_text('{"q": "何ですか。", "a": "神輿", "photo": "a.png"}\n')
    (folder / "my-table-folder").mkdir()
    (folder / "my-table-folder" / "sums.csv").write_text("question,answer\n3+4?,7\n4+4?,8\n")
    book = openpyxl.Workbook()
    for line in [("question", "answer"), ("3+4?", 7), ("4+4?", 8)]:
        book.active.append(line)
    book.save(folder / "sums.xlsx")
    (folder / "mine.yaml").write_text(
        "format: 1\nkind: parameter_merge\nbase: zoo:base\nsources: {math: zoo:math-a, ja: zoo:ja}\n"
        "method: dare_ties\nparameters: {math: {weight: 0.5}, ja: {weight: 0.5}}\n"
    )


@pytest.mark.parametrize("text", numbered(blocks("yaml")))
def test_every_yaml_block_is_a_recipe_a_search_a_part_of_a_search_or_a_task(text: str, tmp_path: Path) -> None:
    around(tmp_path)
    values = yaml.safe_load(text)
    path = tmp_path / "block.yaml"
    path.write_text(text, encoding="utf-8")
    match values:
        case {"kind": "evolve"} | {"kind": "hybrid", "tasks": _}:
            read_search(path)
        case {"kind": _}:
            read_recipe(path)
        case {"data": _, "splits": _} | {"data": _, "split": _}:
            read_task(path)
        case _:
            # Insert the block's own text, so that its numbers and words are read as in a search's file.
            base = yaml.safe_load(SEARCH)
            rest = {key: value for key, value in base.items() if key not in values}
            path.write_text(yaml.safe_dump(rest, sort_keys=False) + text, encoding="utf-8")
            read_search(path)


@pytest.mark.parametrize("line", [line for _, line in fenced_commands() if line.startswith("evovlm init ")])
def test_a_search_that_a_page_begins_has_generations_enough_to_evolve(line: str, tmp_path: Path) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index("--out")] if "--out" in words else words
    made = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "search.yaml")])
    # No warning; what takes long is announced.
    assert made.exit_code == 0
    assert made.stderr in ("", "checking the search\n")


@pytest.mark.parametrize("line", numbered(fenced_commands()))
def test_every_command_of_a_block_is_valid(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(words) <= set(targets)
    elif program == "python":
        module = ROOT.joinpath(*words[1].split(".")) if words[0] == "-m" else ROOT / words[0]
        assert any(path.is_file() for path in (module, module.with_suffix(".py"), module / "__main__.py"))
    else:
        command, rest = command_of(words)
        # Raises for an unknown option, a value that is not allowed, a missing argument; runs nothing.
        command.make_context(command.name, rest)
        assert all((ROOT / word).is_file() for word in rest if word.startswith("configs/"))


@pytest.mark.parametrize("line", numbered(quoted_commands()))
def test_every_command_of_a_sentence_has_its_options(line: str) -> None:
    command, rest = command_of(shlex.split(line)[1:])
    command.make_parser(command.context_class(command, info_name=command.name)).parse_args(rest)


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="no command"):
        command_of(["evolv", "search.yaml"])
    command, rest = command_of(["evolve", "search.yaml", "--out", "run", "--resumee"])
    with pytest.raises(Exception, match="No such option"):
        command.make_context(command.name, rest)


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_every_link_config_and_extra_exists(page: str) -> None:
    text = text_of(page)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target
    for config in re.findall(r"configs/[\w-]+\.yaml", text):
        assert (ROOT / config).is_file(), config
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"pip install ['\"]evovlm\[([\w,-]+)\]", text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    """A path starts at the root or in evovlm/; a file name alone is that of any module."""
    modules = [path for folder in ("evovlm", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    names = {path.name for path in modules}
    for named in set(FILE.findall(text_of(page))):
        if named.startswith(("evovlm/", "tests/", "benchmarks/", "assets/", "docs/")):
            assert (ROOT / named).exists(), named
        elif "/" in named:
            assert (ROOT / "evovlm" / named).exists(), named
        else:
            assert named in names, named


def test_the_architecture_has_a_line_for_every_folder_of_the_package() -> None:
    text = text_of("docs/architecture.md")
    for folder in sorted(path.parent.relative_to(ROOT) for path in (ROOT / "evovlm").rglob("*.py")):
        if "evaluate_modules" not in folder.parent.parts and "__pycache__" not in folder.parts:
            assert f"`{folder}" in text, folder


def test_the_architecture_shows_the_floors_that_are_checked() -> None:
    shown = text_of("docs/architecture.md").partition("## The floors")[2].partition("## Wings")[0]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    for module in " | ".join(settings["contracts"][0]["layers"]).split(" | "):
        assert re.search(rf"\b{module}\b", shown), module


def test_contributing_is_short() -> None:
    assert len(text_of("CONTRIBUTING.md").encode()) <= 8192


def test_the_readme_links_to_every_page() -> None:
    readme = text_of("README.md")
    for page in [*PAGES[1:], "CHANGELOG.md"]:
        assert f"]({page})" in readme, page


def test_the_python_of_the_pages_uses_public_names() -> None:
    found = list(blocks("python"))
    assert found
    for page, text in found:
        compile(text, page, "exec")
        for name in re.findall(r"\bevovlm\.(\w+)", text):
            assert name in evovlm.__all__


def test_the_page_of_the_embedded_models_says_how_each_was_made() -> None:
    page = text_of("assets/zoo/README.md")
    for model in load_catalogue():
        assert model.made_from == MAKING[model.name]
        assert f"* `{model.name}`: {model.made_from}\n" in page
