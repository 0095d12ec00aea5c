"""`evovlm doctor`: what evovlm finds on this machine, what is missing, and the command that installs it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.rendering import echo_json

if TYPE_CHECKING:
    from rich.console import Console

    from evovlm.runs.doctor import Examination

FAILED = 2
_MARKS = {"ok": "ok", "optional": "--", "broken": "!!"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine: versions, devices, memory, disk, hub, fonts.

    The exit code is 2 when something essential is broken.
    """
    from evovlm.cli.progress import Waiting

    with Waiting("checking this machine"):
        from evovlm.runs.doctor import examine

        found = examine(Path())
    if as_json:
        echo_json(found.as_json())
    else:
        from rich.console import Console

        _print(Console(), found)
    if not found.can_run:
        raise typer.Exit(FAILED)


def _print(console: "Console", found: "Examination") -> None:
    from evovlm.cli.tables import print_line

    topic = ""
    for finding in found.findings:
        if finding.topic != topic:
            topic = finding.topic
            print_line(console, f"{topic}:")
        print_line(console, f"  {_MARKS[finding.state]}  {finding.name}: {finding.found}")
        if finding.remedy is not None:
            print_line(console, f"        {finding.remedy}")
    broken = sum(finding.state == "broken" for finding in found.findings)
    print_line(
        console,
        f"\n{broken} broken (!!): evovlm cannot run here until this is fixed."
        if broken
        else "\nevovlm can run here; -- marks what is optional.",
    )
