"""The sections that the configs of all searches share: `tasks:`, `report:`, `guard:`, `racing:` and `budget:`.

budget:
  candidates: 1000          # at most this many
  tokens: 5000000           # no further generation once this many tokens have been generated
  seconds: 3600             # ... or once evaluation has taken this long, by the wall clock
  patience: 10              # ... or after this many generations in a row without an improvement
  min_improvement: 0.001    # the smallest improvement that counts
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from evovlm.errors import EvovlmError, TaskError
from evovlm.evaluation.judging import JudgeChoice
from evovlm.recipes.documents import Document, PathText
from evovlm.recipes.problems import did_you_mean
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal
from evovlm.runs.samples import INFORMATIVE, ORDERS
from evovlm.search.loop import NextGeneration
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.harness_name import HarnessName, is_harness_name
from evovlm.tasks.metrics.answers import EXTRACTORS
from evovlm.tasks.metrics.japanese import GATES
from evovlm.tasks.metrics.scoring import NO_GATE, clip_name_from
from evovlm.tasks.metrics.table import get_metric
from evovlm.tasks.own.task_file import HOW_TO_SPLIT, is_own_task
from evovlm.tasks.prompts import ChatSettings
from evovlm.tasks.published import is_on_hub
from evovlm.tasks.task import Split, Task, TaskSettings
from evovlm.thoughts import check_reasoning, reasoning_from

_BOUNDS = ("candidates", "tokens", "seconds", "patience")
MOST = 1_000_000_000
"""Of samples and candidates: far more than any search has."""


class NamedTask(Document):
    """A task in a config.

    `name` is a task's, or the path of a task's YAML file; `data` replaces its usual data: a file, a folder,
    `hub:ID@REVISION`. `prompt` replaces its prompt: `chat`, a name, or a template. `extractor` and `gate` replace those
    that its answers are scored with; the gate `none` removes it. `chat` fills the model's chat template, `reasoning`
    says what marks a thought (thoughts.py).
    """

    split: ClassVar[Split]
    without_it: ClassVar[str]
    later: ClassVar[frozenset[str]] = frozenset({"extractor", "gate", "chat", "reasoning"})

    name: PathText
    data: PathText | None = None
    extractor: str | None = None
    gate: str | None = None
    chat: ChatSettings | None = None
    reasoning: str | list[str] | None = None
    if TYPE_CHECKING:
        # Keys of every kind of section, in the order that its file has.
        prompt: str | None
        decoding: DecodingChanges | None

    @field_validator("name")
    @classmethod
    def _has_the_split(cls, name: str, info: ValidationInfo) -> str:
        task = task_of(name, info)
        if task is not None and cls.split not in task.splits:
            hint = f"; {HOW_TO_SPLIT}" if is_own_task(name) and cls.split is Split.SEARCH else ""
            raise PydanticCustomError("split", "{reason}", {"reason": f"{cls.without_it}{hint}"})
        return name

    @field_validator("data")
    @classmethod
    def _is_there(cls, data: str | None, info: ValidationInfo) -> str | None:
        folder: Path | None = (info.context or {}).get("folder")
        if data is not None and folder is not None and not is_on_hub(data) and not (folder / data).exists():
            raise PydanticCustomError("data", "no such file or folder")
        return data

    @field_validator("prompt", check_fields=False)
    @classmethod
    def _is_a_prompt(cls, prompt: str | None, info: ValidationInfo) -> str | None:
        task = task_of(info.data["name"], info) if "name" in info.data else None
        if task is not None:
            with problem_of("prompt"):
                task.asked(prompt=prompt, chat=info.data.get("chat"))
        return prompt

    @field_validator("decoding", check_fields=False)
    @classmethod
    def _is_of_the_task(cls, decoding: DecodingChanges | None, info: ValidationInfo) -> DecodingChanges | None:
        task = task_of(info.data["name"], info) if "name" in info.data else None
        if decoding is not None and task is not None:
            if decoding.like is not None:
                known_row(decoding.like, task.cheaper, "decoding")
            with problem_of("decoding"):
                task.asked(decoding=decoding)
        return decoding

    @field_validator("reasoning")
    @classmethod
    def _marks_thoughts(cls, reasoning: str | list[str] | None) -> str | list[str] | None:
        if reasoning is not None:
            with problem_of("reasoning"):
                check_reasoning(reasoning_from(reasoning))
        return reasoning

    @field_validator("extractor", "gate")
    @classmethod
    def _suits_the_task(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or "name" not in info.data:
            return value
        key, name = str(info.field_name), info.data["name"]
        if is_harness_name(name):
            raise PydanticCustomError("scoring", "the harness scores its tasks itself; leave {key} out", {"key": key})
        task = task_of(name, info)
        if key == "gate":
            return value if value == NO_GATE else known_row(value, GATES, key)
        if task is not None and not get_metric(task.scoring.metric).numeric:
            raise PydanticCustomError(
                "extractor",
                "reads the number that an answer ends in, and this task is scored by {metric}; leave it out",
                {"metric": task.scoring.metric},
            )
        return known_row(value, EXTRACTORS, key)

    @property
    def settings(self) -> TaskSettings:
        """What replaces the task's own settings."""
        return TaskSettings(
            prompt=self.prompt,
            chat=self.chat,
            decoding=self.decoding,
            extractor=self.extractor,
            gate=self.gate,
            reasoning=None if self.reasoning is None else reasoning_from(self.reasoning),
        )

    def resolved(self, folder: Path) -> Self:
        """Return the same section with absolute paths; relative ones start at `folder`."""
        changes: dict[str, str] = {}
        if is_harness_name(self.name):
            changes["name"] = str(HarnessName.parse(self.name).absolute(folder))
        elif is_own_task(self.name):
            changes["name"] = str((folder / self.name).resolve())
        if self.data is not None and not is_on_hub(self.data):
            changes["data"] = str((folder / self.data).resolve())
        return self.model_copy(update=changes) if changes else self


class ReportSection(NamedTask):
    """One of `report:`, a task that the winner is reported on; the search's samples are compared with its samples.

    With `limit`, only its first samples are. A task that is searched too is asked and scored as in the search, where
    this section does not say otherwise.
    """

    split: ClassVar[Split] = Split.REPORT
    without_it: ClassVar[str] = "this task has no report split"
    later: ClassVar[frozenset[str]] = NamedTask.later | {"limit", "prompt", "decoding"}

    limit: int | None = Field(default=None, ge=1, le=MOST)
    prompt: str | None = None
    decoding: DecodingChanges | None = None


class TaskSection(NamedTask):
    """One of `tasks:`; the search sees only its search split.

    `decoding` names one of the task's cheaper decodings, or changes it. A task of `weight` 0 is scored, but not part of
    the fitness.
    """

    split: ClassVar[Split] = Split.SEARCH
    without_it: ClassVar[str] = "this task has only a report split, which no search may see; score the winner on it"

    weight: float = Field(default=1.0, ge=0, le=MOST)
    limit: int | None = Field(default=None, ge=1, le=MOST)
    decoding: DecodingChanges | None = None
    prompt: str | None = None


CALLS_FILE = "judge-calls"
"""In a run's folder: a byte for each call to the judge."""


class JudgeSection(Document):
    """`judge:` the model that scores the answers to tasks whose metric asks one, and the `url` of its endpoint.

    The key is read from the environment (OPENAI_API_KEY), never from a config.
    """

    model: str = Field(min_length=1)
    url: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")

    def choice(self, *, budget: int | None, calls_file: Path | None = None) -> JudgeChoice:
        """Return the judge with a budget of calls, which are counted in `calls_file`."""
        return JudgeChoice(model=self.model, url=self.url, budget=budget, calls_file=calls_file)


class GuardSection(Document):
    """`guard:` also compares the search's pictures with reported ones by a model, which takes a while.

    `near_pictures` is an open_clip model (models/pictures/clip.py says how one is named); pairs of pictures with a
    cosine of `threshold` or more are reported.
    """

    near_pictures: PathText
    threshold: float = Field(default=0.95, ge=-1, le=1)

    def resolved(self, folder: Path) -> Self:
        """Return the same section with an absolute path; a relative one starts at `folder`."""
        return self.model_copy(update={"near_pictures": clip_name_from(folder, self.near_pictures)})


class RacingSection(Document):
    """`racing:` candidates are scored on block after block of samples, until their rank is clear (search/racing.py).

    The first block has `first` samples of all tasks together; after each further one a candidate has seen `growth`
    times as many, up to the share `limit` of the samples of a generation. `error` bounds the probability that the worse
    of two candidates is taken for the better one at any time of a race. `order` says which samples come first. With
    `smooth`, the estimate for a candidate also uses what is known of candidates near it.
    """

    first: int = Field(default=10, ge=2, le=MOST)
    growth: float = Field(default=2.0, gt=1, le=MOST)
    error: float = Field(default=0.1, gt=0, lt=1)
    limit: float = Field(default=0.2, gt=0, le=1)
    order: str = INFORMATIVE
    smooth: bool = True

    @field_validator("order")
    @classmethod
    def _known(cls, order: str) -> str:
        return known_row(order, ORDERS, "order")


class BudgetSection(Document):
    """`budget:` when a search ends, at least one bound: before the generation with which the first would be passed.

    What has been spent is read from the journal, so that a resumed run ends where the uninterrupted one would have.
    `patience` is a number of generations in a row without an improvement of more than `min_improvement`.
    """

    candidates: int | None = Field(default=None, ge=1, le=MOST)
    tokens: int | None = Field(default=None, ge=1, le=10**15)
    seconds: float | None = Field(default=None, gt=0, le=MOST)
    patience: int | None = Field(default=None, ge=1, le=MOST)
    min_improvement: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if all(getattr(self, name) is None for name in _BOUNDS):
            raise PydanticCustomError("budget", "needs a bound: {bounds}", {"bounds": ", ".join(_BOUNDS)})
        if self.min_improvement and self.patience is None:
            raise PydanticCustomError("budget", "min_improvement: says what patience waits for; set patience")
        return self

    def spent(self, journal: Journal, upcoming: NextGeneration) -> str | None:
        """Return which bound ends the search before the next generation; None where it continues.

        `journal` holds all entries before that generation, and may hold more.
        """
        if self.candidates is not None and upcoming.before + upcoming.candidates > self.candidates:
            return "candidates"
        if upcoming.number == 0:
            # A search without a candidate has no result, whatever its parents have cost.
            return None
        entries = [entry for entry in journal.entries if _is_before(entry, upcoming)]
        tokens = sum(entry.evaluation.tokens for entry in entries if entry.evaluation)
        if self.tokens is not None and tokens + sum(each.tokens for each in journal.parents.values()) >= self.tokens:
            return "tokens"
        if self.seconds is not None and sum(entry.wall_s for entry in entries) >= self.seconds:
            return "seconds"
        if self.patience is not None and self._waited(entries, upcoming.number) >= self.patience:
            return "patience"
        return None

    def generations(self, *, population: int) -> int | None:
        """Return the largest number of generations; None where it is not known in advance."""
        return None if self.candidates is None else self.candidates // population

    def is_raised_from(self, before: "BudgetSection") -> bool:
        """Return whether a search with the budget `before` can continue with this one, because no bound is lower."""
        for name in _BOUNDS:
            old, new = getattr(before, name), getattr(self, name)
            if new is not None and (old is None or new < old):
                return False
        return self.min_improvement <= before.min_improvement

    def _waited(self, entries: Sequence[Entry], generations: int) -> int:
        """Return the number of generations since the best fitness improved: that of snapshots, where there are any."""
        snapshots = any(entry.kind == "snapshot" for entry in entries)
        found: dict[int, float] = {}
        for entry in entries:
            if entry.kind == ("snapshot" if snapshots else "candidate") and entry.evaluation:
                found[entry.generation] = max(found.get(entry.generation, -math.inf), entry.evaluation.fitness)
        best, waited = -math.inf, 0
        for number in range(generations + snapshots):
            fitness = found.get(number, -math.inf)
            waited = 0 if fitness > best + self.min_improvement else waited + 1
            best = best if waited else fitness
        return waited


def _is_before(entry: Entry, upcoming: NextGeneration) -> bool:
    # The mean's snapshot of a generation is taken before its candidates; a part is within its candidate's line.
    if entry.kind == "candidate":
        return entry.generation < upcoming.number
    return entry.kind == "snapshot" and entry.generation <= upcoming.number


@contextmanager
def problem_of(kind: str) -> Iterator[None]:
    """Raise the TaskError of a setting as one of pydantic's problems, which gets its line."""
    try:
        yield
    except TaskError as error:
        raise PydanticCustomError(kind, "{reason}", {"reason": str(error)}) from error


def task_of(name: str, info: ValidationInfo) -> Task | None:
    """Return the task of that name; None where it is the harness's, or a file of another folder."""
    folder: Path | None = (info.context or {}).get("folder")
    if is_harness_name(name):
        # Only the harness knows whether it has documents to search with, once it has loaded the task.
        return None
    if not is_own_task(name):
        return TASKS[known_row(name, TASKS, "task")]
    try:
        # Absolute: a folder in the current one would lose the slash that distinguishes it from a task's name.
        return get_task(str((folder / name).absolute())) if folder is not None else None
    except EvovlmError as error:
        raise PydanticCustomError("task", "{reason}", {"reason": str(error)}) from error


def known_row(name: str, table: Mapping[str, object], what: str) -> str:
    """Return the name. Raises PydanticCustomError, with the closest name, when it is not in the table."""
    if name not in table:
        raise PydanticCustomError("row", "unknown {what}{hint}", {"what": what, "hint": did_you_mean(name, table)})
    return name
