"""The command line as a whole: quick, light, and with every command in its place."""

import re
import shlex
import subprocess
import sys
import time
from typing import Any

import click
import pytest
import typer

from evovlm import __version__
from evovlm.cli.app import app
from evovlm.cli.help import EXAMPLES
from tests.cli.conftest import Command, commands

# What a command needs and is not given: nothing of that name is there.
NOTHING = "./no-such-folder/no-such-file"
COMMANDS = {words: command for words, command in commands().items() if not hasattr(command, "commands")}


def required(command: click.Command) -> list[str]:
    """Return arguments that give a command all that it requires, and name nothing that exists."""
    found: list[str] = []
    for parameter in command.params:
        if parameter.required:
            found += [NOTHING] if parameter.param_type_name == "argument" else [parameter.opts[0], NOTHING]
    return found


NUMBERS = {"int": {"N", "SECONDS"}, "float": {"X", "GB", "SECONDS", "COSINE"}}
"""How the help calls numbers."""
HEAVY = ("torch", "transformers", "datasets", "open_clip", "cma", "numpy", "rich.console")
LIST_MODULES = """
import sys
from evovlm.cli.app import main
sys.argv = ["evovlm", "--help"]
try:
    main()
except SystemExit:
    pass
print("modules:", *sys.modules)
"""


def test_help_lists_every_command(evovlm: Command) -> None:
    shown = evovlm("--help")
    assert shown.code == 0
    assert {"evolve", "init", "doctor", "push", "zoo"} <= commands().keys()
    for words in commands():
        if " " not in words:
            assert f"\n  {words} " in shown.out


def test_help_shows_the_commands_in_groups_and_cuts_nothing(evovlm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = evovlm("-h").out
    assert shown == evovlm("--help").out
    titles = [line.removesuffix(":") for line in shown.splitlines() if line.endswith(":")]
    assert titles == ["Options", *EXAMPLES]
    grouped = [name for names in EXAMPLES.values() for name in names]
    assert sorted(grouped) == sorted(name for name in commands() if " " not in name)
    _, *groups = re.split(r"\n\n(?=[A-Z][a-z]+:\n)", shown)[1:]
    # One line each: nothing is cut, and nothing goes on in a second line.
    assert sum(len(group.strip().splitlines()) - 1 for group in groups) == len(grouped)
    assert "..." not in "".join(groups)


@pytest.mark.parametrize("words", commands())
def test_help_names_values_as_users_do_and_breaks_no_word(
    evovlm: Command, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown, _, _ = evovlm(*words.split(), "-h").out.partition("Example:\n")
    assert not re.search(r"<(str|int|float|path|list)|list\[", shown)
    assert all(len(line) < 80 and not line.endswith("-") for line in shown.splitlines())
    parameters: list[Any] = list(commands()[words].params)
    for option in parameters:
        if option.param_type_name == "option" and not getattr(option, "is_flag", False):
            word = re.search(rf"^  (?:-\w, )?{max(option.opts, key=len)} (\S+)", shown, re.MULTILINE)
            kind = option.display_type(None).strip("<>").removesuffix(" range")
            assert word is not None, option
            assert word[1] in NUMBERS.get(kind, {word[1]} - {"N", "X"})


@pytest.mark.parametrize("words", commands())
def test_every_command_has_an_example_that_can_be_typed(evovlm: Command, words: str) -> None:
    shown = evovlm(*words.split(), "-h").out
    typed = shlex.split(shown.partition("Example:\n")[2])
    assert typed[: 1 + len(words.split())] == ["evovlm", *words.split()]
    group = typer.main.get_command(app)
    with group.make_context("evovlm", typed[1:]) as context:
        name, command, rest = group.resolve_command(context, typed[1:])
        if " " in words:
            name, command, rest = command.resolve_command(context, rest)
        # Refuses options that the command does not have, and values of the wrong type.
        assert command.make_context(name, rest, parent=context) is not None


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_refuses_an_unknown_option(evovlm: Command, words: str) -> None:
    refused = evovlm(*words.split(), "--colour")
    assert (refused.code, refused.out) == (2, "")
    assert "--colour" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize("words", [words for words, command in COMMANDS.items() if required(command)])
def test_every_command_reports_a_missing_file_in_one_message(evovlm: Command, words: str) -> None:
    refused = evovlm(*words.split(), *required(COMMANDS[words]))
    assert (refused.code, refused.out) == (2, "")
    assert "no-such-f" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.slow
def test_help_answers_in_half_a_second() -> None:
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "evovlm", "--help"], check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.5


def test_help_and_import_load_nothing_heavy() -> None:
    shown = subprocess.run([sys.executable, "-c", LIST_MODULES], check=True, capture_output=True, text=True)
    loaded = shown.stdout.rsplit("modules:", 1)[1].split()
    assert "evovlm.cli.evolve" in loaded
    assert [name for name in HEAVY if name in loaded] == []


FREE_AT_THE_END = """
import os, sys
from evovlm.__main__ import main

class Kept:
    def __del__(self):
        os.write(1, b"freed")

kept = Kept()
sys.argv = ["evovlm", "--version"]
main()
"""


def test_a_command_ends_without_freeing_its_objects() -> None:
    ended = subprocess.run([sys.executable, "-c", FREE_AT_THE_END], check=True, capture_output=True, text=True)
    assert ended.stdout == f"evovlm {__version__}\n"


def test_version_is_the_package_s(evovlm: Command) -> None:
    assert evovlm("--version").out.strip() == f"evovlm {__version__}"


def test_an_unknown_command_or_option_is_an_error_of_the_user(evovlm: Command) -> None:
    for arguments in (["evolv"], ["evolve", "--colour"], ["evolve"]):
        outcome = evovlm(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize("endpoint", ["http://[bad", "huggingface.co", "ftp://hub", "http://"])
def test_an_endpoint_that_is_not_an_address_is_said(
    evovlm: Command, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    found = evovlm("methods")
    assert found.code == 2
    assert f"HF_ENDPOINT is '{endpoint}', which is not an address" in found.err
