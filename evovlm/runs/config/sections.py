"""The parts of a search's config that name tasks, `tasks:` and `report:`, and what every part is made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import EvovlmError, TaskError
from evovlm.recipes.problems import did_you_mean
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.harness_name import HarnessName, is_harness_name
from evovlm.tasks.metrics.scoring import clip_name_from
from evovlm.tasks.own.task_file import is_own_task
from evovlm.tasks.published import is_on_hub
from evovlm.tasks.task import Split, Task


class Section(BaseModel):
    """A part of a config: it never changes, and knows all its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ReportSection(Section):
    """One of `report:`, what the winner is to be reported on: the search's samples are held against its samples.

    `name` is a task's, or the path of a task's YAML file; `data` stands in for its usual place: a file, a folder,
    `hub:ID@REVISION`.
    """

    split: ClassVar[Split] = Split.REPORT
    without_it: ClassVar[str] = "this task has no report split"

    name: str
    data: str | None = None

    @field_validator("name")
    @classmethod
    def _has_the_split(cls, name: str, info: ValidationInfo) -> str:
        task = task_of(name, info)
        if task is not None and cls.split not in task.splits:
            raise PydanticCustomError("split", "{reason}", {"reason": cls.without_it})
        return name

    @field_validator("data")
    @classmethod
    def _is_there(cls, data: str | None, info: ValidationInfo) -> str | None:
        folder: Path | None = (info.context or {}).get("folder")
        if data is not None and folder is not None and not is_on_hub(data) and not (folder / data).exists():
            raise PydanticCustomError("data", "there is no such file or folder")
        return data

    def resolved(self, folder: Path) -> Self:
        """Return the same with absolute paths, relative ones from `folder` on."""
        changes: dict[str, str] = {}
        if is_harness_name(self.name):
            changes["name"] = str(HarnessName.parse(self.name).absolute(folder))
        elif is_own_task(self.name):
            changes["name"] = str((folder / self.name).resolve())
        if self.data is not None and not is_on_hub(self.data):
            changes["data"] = str((folder / self.data).resolve())
        return self.model_copy(update=changes) if changes else self


class TaskSection(ReportSection):
    """One of `tasks:`; the search sees the search split alone. `decoding` names a cheaper one of the task's.

    `prompt` asks otherwise than the task does: `chat`, a name, or a template. A task of `weight` 0 is scored,
    and has no share in the fitness.
    """

    split: ClassVar[Split] = Split.SEARCH
    without_it: ClassVar[str] = "this task has only a report split, which no search may see; score the winner on it"

    weight: float = Field(default=1.0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    decoding: str | None = None
    prompt: str | None = None

    @field_validator("prompt")
    @classmethod
    def _is_a_prompt(cls, prompt: str | None, info: ValidationInfo) -> str | None:
        task = task_of(info.data["name"], info) if "name" in info.data else None
        if prompt is not None and task is not None:
            try:
                task.with_prompt(prompt)
            except TaskError as error:
                raise PydanticCustomError("prompt", "{reason}", {"reason": str(error)}) from error
        return prompt

    @field_validator("decoding")
    @classmethod
    def _is_of_the_task(cls, decoding: str | None, info: ValidationInfo) -> str | None:
        task = task_of(info.data["name"], info) if "name" in info.data else None
        return decoding if decoding is None or task is None else known_row(decoding, task.cheaper, "decoding")


class GuardSection(Section):
    """`guard:` asks, too, for pictures of the search that look like reported ones, which takes a while.

    `near_pictures` is an open_clip model (models/clip.py says how one is named), `threshold` the cosine from which two
    pictures are told of.
    """

    near_pictures: str
    threshold: float = Field(default=0.95, ge=-1, le=1)

    def resolved(self, folder: Path) -> Self:
        """Return the same with an absolute path, a relative one from `folder` on."""
        return self.model_copy(update={"near_pictures": clip_name_from(folder, self.near_pictures)})


def task_of(name: str, info: ValidationInfo) -> Task | None:
    """Return the task of that name; None where only another floor or another folder knows it."""
    folder: Path | None = (info.context or {}).get("folder")
    if is_harness_name(name):
        # Whether it has documents to search with is known when the harness has loaded it.
        return None
    if not is_own_task(name):
        return TASKS[known_row(name, TASKS, "task")]
    try:
        # Absolute: a folder of the current one would lose the slash that tells it from a task's name.
        return get_task(str((folder / name).absolute())) if folder is not None else None
    except EvovlmError as error:
        raise PydanticCustomError("task", "{reason}", {"reason": str(error)}) from error


def known_row(name: str, table: Mapping[str, object], what: str) -> str:
    """Return the name. Raises PydanticCustomError, with the closest name, when it is none of the table's."""
    if name not in table:
        raise PydanticCustomError("row", "unknown {what}{hint}", {"what": what, "hint": did_you_mean(name, table)})
    return name
