"""The help of `evovlm`: the commands in groups, an example for each, and a word for each value."""

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

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

_WORDS: Mapping[str, tuple[str, ...]] = {
    "CANDIDATE": ("pick",),
    "COLUMN": ("prediction_column", "reference_column", "id_column", "image_column", "choices_column"),
    "COSINE": ("near_threshold",),
    "FILE": ("files", "svg"),
    "FOLDER": ("checkpoint", "figures"),
    "FORM": ("table",),
    "FORM=DIR": ("write",),
    "GB": ("gpu_gb",),
    "JSON": ("chat_template_args",),
    "KEY/KEY": ("rows_at",),
    "MODEL": ("base", "clip_model", "host", "judge", "models", "near_pictures"),
    "N": (
        *("beams", "budget", "generations", "judge_calls", "limit", "max_new_tokens", "port", "repeats", "samples"),
        *("seed", "tensor_parallel", "top", "top_k", "workers"),
    ),
    "NAME": ("rater",),
    "NAME=MODEL": ("source",),
    "OWNER/NAME": ("repo_id",),
    "PATH": ("out", "save"),
    "PICTURE": ("image",),
    "PIPELINE": ("only",),
    "RUN": ("runs",),
    "SECONDS": ("every",),
    "SIZE": ("max_shard_size",),
    "TASK=PATH": ("data",),
    "TEXT": ("system",),
    "TOKEN": ("think_end_token",),
    "TRACKER": ("log",),
    "URL": ("judge_url",),
    "X": ("repetition_penalty", "temperature", "top_p"),
}
"""What the help calls the values of parameters; of all others the name says it."""

_HYPHEN = "\u2011"
"""The hyphen at which lines are not broken."""


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


class DescribedCommand(TyperCommand):
    """A command whose help calls values what they are to a user: `--out PATH`, `--limit N`, `MODEL...`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        parameters: list[Any] = self.params
        for each in parameters:
            if each.metavar is None and not getattr(each, "is_flag", False):
                each.metavar = _word(each.name)

    def get_help(self, ctx: Any) -> str:
        """Return the help; names such as --allow-code are not broken at their hyphens."""
        return super().get_help(ctx).replace(_HYPHEN, "-")

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the command in the line "Usage"."""
        arguments = (each for each in self.get_params(ctx) if each.param_type_name == "argument")
        words = [_argument(each) if each.required else f"[{_argument(each)}]" for each in arguments]
        return [self.options_metavar or "", *words]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            shown = [each for each in self.get_params(ctx) if each.param_type_name == kind]
            records = [(each, record) for each in shown if (record := each.get_help_record(ctx)) is not None]
            names = [_argument(each) if kind == "argument" else name for each, (name, _) in records]
            rows = [(name, says.replace("-", _HYPHEN)) for name, (_, (_, says)) in zip(names, records, strict=True)]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _argument(parameter: Any) -> str:
    return f"{parameter.metavar}{'' if parameter.nargs == 1 else '...'}"


def _word(name: str) -> str:
    return next((word for word, names in _WORDS.items() if name in names), name.upper())
