"""`log:` of a search: where its course is told besides the journal. No part of what a run is, nor of its journal.

log:
  tensorboard: true                                # RUN/tensorboard
  wandb: {project: my-merges, mode: offline}       # RUN/wandb; `wandb sync` sends it later
"""

from importlib.util import find_spec
from typing import Literal, Self

from pydantic import Field

from evovlm.errors import ConfigError
from evovlm.recipes.problems import did_you_mean
from evovlm.runs.config.sections import Section

_PROJECT = "evovlm"


class WandbSection(Section):
    """`wandb:` of it. The key stands in the environment or in wandb's own file, never in a config."""

    project: str = Field(default=_PROJECT, min_length=1)
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class LogSection(Section):
    """The whole of `log:`."""

    tensorboard: bool = False
    wandb: WandbSection | None = None

    @property
    def packages(self) -> tuple[str, ...]:
        """What it needs, each also the name of an extra of this package."""
        return (*(["tensorboard"] if self.tensorboard else []), *(["wandb"] if self.wandb else []))

    def check_installed(self) -> None:
        """Raise ConfigError, naming the extra, for what is not installed."""
        for package in self.packages:
            if find_spec(package) is None:
                raise ConfigError(
                    f"log.{package}: {package} is not installed.\n    Install it: pip install 'evovlm[{package}]'"
                )

    def besides(self, name: str) -> Self:
        """Return the same with one more place to tell, with its defaults. Raises ConfigError for an unknown one."""
        if name not in type(self).model_fields:
            raise ConfigError(f"--log: unknown place '{name}'{did_you_mean(name, type(self).model_fields)}")
        return self if name in self.packages else self.model_copy(update={name: _DEFAULTS[name]})


_DEFAULTS = {"tensorboard": True, "wandb": WandbSection()}
