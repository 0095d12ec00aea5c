"""How a search is carried out, which changes nothing of what it finds: no part of what a run is.

workers: 4                  # resident models on this machine, each in a process of its own
time_limit_s: 600           # for one candidate (with racing: one block of samples of it)

ray: {address: auto, workers: 64, gpus_per_worker: 1, cpus_per_worker: 4}     # in place of `workers`

These keys stand in the file of a search. They are not in its journal and not in its folder's config.yaml, are not
compared on --resume, and the journal is the same whatever they say, but for candidates that run out of time or memory.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.runs.config.sections import Section

EXECUTION_KEYS = ("workers", "ray", "time_limit_s")


class RaySection(Section):
    """`ray:` the cluster's `address` (`auto`: the one that this machine is a node of; `local`: one for the run alone).

    `gpus_per_worker` is 1 where the cluster has GPUs, unless it says otherwise; parts of a GPU may be given.
    """

    address: str = "auto"
    workers: int = Field(ge=1)
    gpus_per_worker: float | None = Field(default=None, ge=0)
    cpus_per_worker: float = Field(default=1.0, gt=0)


class ExecutionConfig(Section):
    """The keys of a search that say how it is carried out."""

    workers: int = Field(default=1, ge=1)
    ray: RaySection | None = None
    time_limit_s: float | None = Field(default=None, gt=0)

    @field_validator("ray")
    @classmethod
    def _counts_once(cls, ray: RaySection | None, info: ValidationInfo) -> RaySection | None:
        if ray is not None and info.data.get("workers", 1) != 1:
            raise PydanticCustomError("ray", "has workers of its own; leave the other `workers` out")
        return ray

    def with_workers(self, workers: int | None) -> Self:
        """Return the same with so many workers, on Ray where that is asked for; None leaves it as it is."""
        if workers is None:
            return self
        changes: Mapping[str, Any] = {"workers": workers}
        if self.ray is not None:
            changes = {"ray": self.ray.model_copy(update=changes)}
        return self.model_copy(update=changes)
