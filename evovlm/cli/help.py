"""The help of `evovlm`: the commands in groups, and an example for each."""

from collections.abc import Mapping
from typing import Any

from typer.core import TyperGroup

EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "Start": {
        "demo": "evovlm demo --out demo",
        "init": "evovlm init llm --base zoo:base --source zoo:math-a --source zoo:ja --task word_problems_ja",
        "doctor": "evovlm doctor",
        "zoo": "evovlm zoo",
        "tasks": "evovlm tasks",
        "methods": "evovlm methods",
        "spaces": "evovlm spaces",
        "optimizers": "evovlm optimizers",
    },
    "Search": {
        "check": "evovlm check search.yaml",
        "evolve": "evovlm evolve search.yaml --out runs/first",
        "watch": "evovlm watch runs/first --open",
    },
    "Look": {
        "show": "evovlm show runs/first --top 10",
        "report": "evovlm report runs/first --score --open",
        "score": "evovlm score zoo:ja runs/first/best.yaml --task word_problems_ja",
        "rate": "evovlm rate runs/first --serve",
        "grade": "evovlm grade answers.csv --metric rouge_l_ja",
        "ask": "evovlm ask zoo:ja 'みかんを3個と4個買いました。合わせて何個ですか。'",
    },
    "Publish": {
        "merge": "evovlm merge runs/first/best.yaml --out my-model",
        "convert": "evovlm convert org/old-model --out converted",
        "export": "evovlm export runs/first --pick best --out recipe.yaml",
        "push": "evovlm push my-model me/my-model --dry-run",
    },
}
"""The groups of commands in the order of the help, and an example of each command."""


def example(name: str) -> str:
    """Return the end of a command's help: its example, which is not broken over lines."""
    line = next(commands[name] for commands in EXAMPLES.values() if name in commands)
    # \b keeps the line ends.
    return f"\b\nExample:\n  {line}"


class GroupedCommands(TyperGroup):
    """The commands in their groups; what they do is never cut off."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (as typer calls it)
        """Write the groups, each with its commands."""
        width = max(map(len, self.commands))
        for group, names in EXAMPLES.items():
            with formatter.section(group):
                formatter.write_dl([(name.ljust(width), self._says(name)) for name in names])

    def _says(self, name: str) -> str:
        """Return the first sentence of a command's help."""
        return (self.commands[name].help or "").partition("\n\n")[0].replace("\n", " ").partition(". ")[0].rstrip(".")
