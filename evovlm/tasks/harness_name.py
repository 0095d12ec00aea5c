"""How a task of the lm-evaluation-harness is named: `lm_eval:NAME_OR_FILE[#METRIC[,FILTER]]`."""

from dataclasses import dataclass, replace
from pathlib import Path

HARNESS = "lm_eval:"


def is_harness_name(text: str) -> bool:
    """Say whether a task's name is one of the harness's."""
    return text.startswith(HARNESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessName:
    """A task of the harness, by its name there or its YAML file, and what of it counts; empty is its first."""

    spec: str
    metric: str = ""
    filter_name: str = ""

    @classmethod
    def parse(cls, text: str) -> "HarnessName":
        """Take a name apart."""
        named = text.removeprefix(HARNESS)
        spec, _, chosen = named.rpartition("#") if "#" in named else (named, "", "")
        metric, _, filter_name = chosen.partition(",")
        return cls(spec=spec, metric=metric, filter_name=filter_name)

    @property
    def file(self) -> Path | None:
        """The task's file; None for a task that the harness knows by name."""
        return Path(self.spec) if Path(self.spec).suffix in (".yaml", ".yml") else None

    def absolute(self, folder: Path) -> "HarnessName":
        """Return the same task with its file, if it has one, named from anywhere; relative files start at `folder`."""
        return self if self.file is None else replace(self, spec=str((folder / self.file).resolve()))

    def __str__(self) -> str:
        chosen = ",".join(part for part in (self.metric, self.filter_name) if part)
        return f"{HARNESS}{self.spec}#{chosen}" if chosen else f"{HARNESS}{self.spec}"
