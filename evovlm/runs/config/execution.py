"""How a search is executed and logged, which does not change what it finds.

engine: auto                # what answers: builtin, vllm, or auto (vllm where it is installed and a GPU is used)
tensor_parallel: 2          # GPUs over which vllm divides each model; 1 if it is left out
workers: 4                  # resident models on this machine, each in its own process
time_limit_s: 600           # for one candidate (with racing: for one block of its samples)
judge_calls: 20000          # the most calls to a judge (see `judge:`), in this run altogether

ray: {address: auto, workers: 64, gpus_per_worker: 1, cpus_per_worker: 4}     # instead of `workers`

log:
  tensorboard: true                                # RUN/tensorboard
  wandb: {project: my-merges, mode: offline}       # RUN/wandb; `wandb sync` sends it later

These keys are read from the file of a search. They are not written to its journal or to its folder's config.yaml, and
not compared on --resume. The journal is the same whatever they say, except for candidates that run out of time or
memory, and for `engine` and `tensor_parallel`: another engine than `builtin` is named in the journal with them, and the
run keeps both.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.evaluation.engines.table import AUTO, ENGINES, MOST_PARTS, check_engine_name
from evovlm.recipes.documents import Document
from evovlm.recipes.problems import did_you_mean
from evovlm.runs.config.sections import known_row

EXECUTION_KEYS = ("engine", "tensor_parallel", "workers", "ray", "time_limit_s", "judge_calls")
MOST_WORKERS = 1_000
"""Of one machine; each is a process with its own model."""
_MOST_ACTORS = 100_000
_LONGEST_S = 10_000_000.0


class RaySection(Document):
    """`ray:` the cluster's `address` (`auto`: that of this machine's node; `local`: a cluster for this run only).

    `gpus_per_worker` (None: 1 where the cluster has GPUs, else 0) may be a fraction.
    """

    address: str = "auto"
    workers: int = Field(ge=1, le=_MOST_ACTORS)
    gpus_per_worker: float | None = Field(default=None, ge=0, le=1_000)
    cpus_per_worker: float = Field(default=1.0, gt=0, le=10_000)


class ExecutionConfig(Document):
    """The keys of a search that say how it is carried out.

    `tensor_parallel` None is the number that a run has, and 1 for a new one.
    """

    engine: str = AUTO
    tensor_parallel: int | None = Field(default=None, ge=1, le=MOST_PARTS)
    workers: int = Field(default=1, ge=1, le=MOST_WORKERS)
    ray: RaySection | None = None
    time_limit_s: float | None = Field(default=None, gt=0, le=_LONGEST_S)
    judge_calls: int | None = Field(default=None, ge=1, le=10**9)

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str) -> str:
        return known_row(engine, {AUTO: AUTO, **ENGINES}, "engine")

    @field_validator("ray")
    @classmethod
    def _counts_once(cls, ray: RaySection | None, info: ValidationInfo) -> RaySection | None:
        if ray is not None and info.data.get("workers", 1) != 1:
            raise PydanticCustomError("ray", "has its own workers; leave the other `workers` out")
        return ray

    def with_engine(self, engine: str | None, *, tensor_parallel: int | None = None) -> Self:
        """Return the same config with another engine, or number of GPUs for each model; None changes nothing.

        Raises ConfigError for an unknown engine.
        """
        if engine is not None:
            check_engine_name(engine)
        changes = {"engine": engine, "tensor_parallel": tensor_parallel}
        return self.model_copy(update={key: value for key, value in changes.items() if value is not None})

    def with_workers(self, workers: int | None) -> Self:
        """Return the same config with another number of workers, on Ray where it uses Ray; None changes nothing."""
        if workers is None:
            return self
        changes: Mapping[str, Any] = {"workers": workers}
        if self.ray is not None:
            changes = {"ray": self.ray.model_copy(update=changes)}
        return self.model_copy(update=changes)


class WandbSection(Document):
    """`wandb:` of `log:`. The key is in the environment or in wandb's own file, never in a config."""

    project: str = Field(default="evovlm", min_length=1)
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class LogSection(Document):
    """`log:` the trackers that follow a search, besides its journal."""

    tensorboard: bool = False
    wandb: WandbSection | None = None

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that it needs, each also the name of an extra of this package."""
        return (*(["tensorboard"] if self.tensorboard else []), *(["wandb"] if self.wandb else []))

    def check_installed(self) -> None:
        """Raise ConfigError, naming the extra, for a package that is not installed."""
        for package in self.packages:
            if find_spec(package) is None:
                raise ConfigError(
                    f"log.{package}: {package} is not installed.\n    Install it: pip install 'evovlm[{package}]'"
                )

    def besides(self, name: str) -> Self:
        """Return the same section with a further tracker, with its defaults. Raises ConfigError for an unknown one."""
        if name not in type(self).model_fields:
            raise ConfigError(f"--log: unknown tracker '{name}'{did_you_mean(name, type(self).model_fields)}")
        return self if name in self.packages else self.model_copy(update={name: _DEFAULTS[name]})


_DEFAULTS = {"tensorboard": True, "wandb": WandbSection()}
