"""The command line as a whole: quick, light, and with every command in its place."""

import subprocess
import sys
import time

from evovlm import __version__
from tests.cli.conftest import Command

COMMANDS = (
    "demo",
    "evolve",
    "show",
    "check",
    "merge",
    "convert",
    "score",
    "methods",
    "optimizers",
    "spaces",
    "tasks",
    "zoo",
)
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
    for command in COMMANDS:
        assert f"\n  {command} " in shown.out


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


def test_version_is_the_package_s(evovlm: Command) -> None:
    assert evovlm("--version").out.strip() == f"evovlm {__version__}"


def test_an_unknown_command_or_option_is_an_error_of_the_user(evovlm: Command) -> None:
    for arguments in (["evolv"], ["evolve", "--colour"], ["evolve"]):
        outcome = evovlm(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert "Traceback" not in outcome.err
