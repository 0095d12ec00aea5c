"""Names of tasks of the lm-evaluation-harness: `lm_eval:NAME_OR_FILE[#METRIC[,FILTER]]`."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from evovlm.errors import TaskError
from evovlm.foreign_code import ForeignCode, read_start

HARNESS = "lm_eval:"

_FUNCTION = re.compile(r"!function\s+[\"']?(?P<module>[\w.]+)\.\w+")
_INCLUDE = re.compile(r"^[\"']?include[\"']?[ \t]*:(?P<files>.*(?:\n[ \t]*-.*)*)", re.MULTILINE)
_FILE = re.compile(r"[^\s\"',\[\]#]+")
_MOST_FILES = 32


def is_harness_name(text: str) -> bool:
    """Return whether a task's name is one of the harness."""
    return text.startswith(HARNESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessName:
    """A task of the harness, by its name there or its YAML file, with the metric and filter that count.

    An empty metric or filter means the task's first.
    """

    spec: str
    metric: str = ""
    filter_name: str = ""

    @classmethod
    def parse(cls, text: str) -> "HarnessName":
        """Parse a name."""
        named = text.removeprefix(HARNESS)
        spec, _, chosen = named.rpartition("#") if "#" in named else (named, "", "")
        metric, _, filter_name = chosen.partition(",")
        return cls(spec=spec, metric=metric, filter_name=filter_name)

    @property
    def file(self) -> Path | None:
        """The task's file; None for a task that is built into the harness."""
        return Path(self.spec) if Path(self.spec).suffix in (".yaml", ".yml") else None

    def absolute(self, folder: Path) -> "HarnessName":
        """Return the task with the path of its file, if it has one, made absolute; relative paths start at `folder`."""
        return self if self.file is None else replace(self, spec=str((folder / self.file).resolve()))

    @property
    def code(self) -> tuple[ForeignCode, ...]:
        """The task file, the files that it includes, and the modules whose functions they name; none of a shipped task.

        Templates in a task file are code, too. Runs nothing. Raises TaskError for a file that cannot be read.
        """
        if self.file is None:
            return ()
        if not self.file.is_file():
            raise TaskError(f"{self}: this file was not found. Name the task's YAML file, or a task of the harness.")
        used_for, unread = {self.file: f"the task {self}"}, [self.file]
        while unread and len(used_for) < _MOST_FILES:
            file = unread.pop()
            text = read_start(file)
            for found in _FUNCTION.finditer(text):
                module = file.parent / f"{found['module'].replace('.', '/')}.py"
                used_for.setdefault(module, f"imported by {file.name}")
            for name in (name for found in _INCLUDE.finditer(text) for name in _FILE.findall(found["files"])):
                included = file.parent / name
                if included not in used_for and included.is_file():
                    used_for[included] = f"included by {file.name}"
                    unread.append(included)
        return tuple(ForeignCode(file=str(file), used_for=why) for file, why in used_for.items())

    def __str__(self) -> str:
        chosen = ",".join(part for part in (self.metric, self.filter_name) if part)
        return f"{HARNESS}{self.spec}#{chosen}" if chosen else f"{HARNESS}{self.spec}"
