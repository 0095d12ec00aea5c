"""The type Task: samples of two splits, and how they are asked, answered and scored."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

from evovlm.errors import TaskError
from evovlm.tasks.decoding import Decoding, DecodingChanges
from evovlm.tasks.hub import is_cached
from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.prompts import CHAT, ChatSettings, Question, ask, check_prompt
from evovlm.tasks.published import CACHED
from evovlm.tasks.sample import ImageSource, Sample, Split, parse_split
from evovlm.thoughts import Reasoning

__all__ = [
    "Decoding",
    "ImageSource",
    "Sample",
    "Split",
    "SplitRead",
    "Task",
    "TaskSettings",
    "absence_lines",
    "parse_split",
]


class TaskSettings(TypedDict, total=False):
    """What replaces a task's own settings; None, or a key that is left out, keeps the task's."""

    prompt: str | None
    chat: ChatSettings | None
    decoding: DecodingChanges | None
    metric: str | None
    extractor: str | None
    gate: str | None
    reasoning: Reasoning | None


class SplitRead(NamedTuple):
    """The samples of a split, and how many others are left out because this machine cannot have them, by reason."""

    samples: tuple[Sample, ...]
    absent: Mapping[str, int]


def absence_lines(name: str, absent: Mapping[str, int]) -> list[str]:
    """Return a line for each reason for which samples of the task `name` are left out, with what to do about it."""
    return [
        f"{name}: samples left out, because this machine cannot draw their pictures: {n}. {reason} Compare the scores "
        "with those of other machines only by artist."
        for reason, n in absent.items()
    ]


def _no_notes(_split: Split, _data: Path | None) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A set of questions, and everything needed to score a model on them.

    `prompt` names a row of PROMPTS; `chat` fills the prompt `chat`. `decoding` is the default; `cheaper` holds others
    by name. `load` takes a split and, optionally, another location of the data (see published.py). `hub_id` and
    `licence` belong to the data; they are None for embedded data and for the user's own. `contaminated` names models
    known to have been trained on it. `sizes` holds the number of samples of a published set, if it is known without
    loading. `is_local` means that the data is on this machine. `notes` takes what `load` takes, and says what was
    decided about a user's data.
    """

    name: str
    description: str
    prompt: str
    scoring: Scoring
    decoding: Decoding
    cheaper: Mapping[str, Decoding] = field(default_factory=dict)
    load: Callable[[Split, Path | None], tuple[Sample, ...]]
    needs_images: bool
    splits: frozenset[Split]
    hub_id: str | None = None
    licence: str | None = None
    contaminated: tuple[str, ...] = ()
    sizes: Mapping[Split, int] = field(default_factory=dict)
    is_local: bool = False
    notes: Callable[[Split, Path | None], tuple[str, ...]] = _no_notes
    chat: ChatSettings | None = None

    def samples(self, split: Split, *, limit: int | None = None, data: Path | None = None) -> tuple[Sample, ...]:
        """Return the samples of a split in their fixed order, the first `limit` of them when it is given.

        `data` is a file or folder to read instead of the usual location, or `hub:ID@REVISION`, or `cached:`. Raises
        TaskError when the task does not have the split, the limit is below 1, the data is missing or broken, or this
        machine can have none of the samples.
        """
        return self.read(split, limit=limit, data=data).samples

    def read(self, split: Split, *, limit: int | None = None, data: Path | None = None) -> SplitRead:
        """Return the samples as `samples` does, with those that were left out. Raises what `samples` raises."""
        self.check_split(split)
        if limit is not None and limit < 1:
            raise TaskError(f"The task {self.name} was limited to {limit} samples. Ask for at least 1.")
        loaded = self.load(split, data)
        absent = Counter(sample.absent for sample in loaded if sample.absent is not None)
        samples = tuple(sample for sample in loaded if sample.absent is None)
        if not samples:
            raise TaskError(f"The task {self.name} has no samples on this machine: {next(iter(absent))}")
        return SplitRead(samples=samples[:limit], absent=absent)

    def check_split(self, split: Split) -> None:
        """Raise TaskError when the task does not have the split."""
        if split not in self.splits:
            existing = ", ".join(sorted(self.splits))
            raise TaskError(
                f"The task {self.name} has no split '{split.value}', only: {existing}. Name that (--split), or "
                "another task (`evovlm tasks` lists them)."
            )

    def samples_at_hand(self, split: Split) -> tuple[Sample, ...] | None:
        """Return the samples of a split if they need no network: embedded, the user's own, or in the hub's cache.

        Raises TaskError for broken data on this machine.
        """
        if self.is_local:
            return self.samples(split)
        if not self.is_cached:
            return None
        try:
            return self.samples(split, data=CACHED)
        except TaskError:
            # The cache holds another config or split of the set.
            return None

    @property
    def is_cached(self) -> bool:
        """Whether any part of the data set is in the hub's cache."""
        return self.hub_id is not None and is_cached(self.hub_id)

    def ask(self, sample: Sample) -> Question:
        """Return the question that a model is asked about a sample."""
        return ask(self.prompt, sample, chat=self.chat)

    def asked(self, **settings: Unpack[TaskSettings]) -> "Task":
        """Return the task with other settings; a `chat` without a prompt is asked by the prompt `chat`.

        Raises TaskError for an unknown prompt or decoding, and for settings that contradict each other.
        """
        chat, decoding = settings.get("chat"), settings.get("decoding")
        scoring = self.scoring.changed(
            metric=settings.get("metric"),
            extractor=settings.get("extractor"),
            gate=settings.get("gate"),
            reasoning=settings.get("reasoning"),
        )
        prompt = settings.get("prompt") or (CHAT if chat is not None else self.prompt)
        if chat is not None and prompt != CHAT:
            raise TaskError(
                f"chat: fills the model's chat template, and the prompt is '{prompt}'. Leave out the prompt or `chat`."
            )
        check_prompt(prompt, with_pictures=self.needs_images)
        return replace(
            self,
            prompt=prompt,
            chat=self.chat if chat is None else chat,
            scoring=scoring,
            decoding=self.decoding if decoding is None else decoding.applied(self.decoding_named(decoding.like)),
        )

    def decoding_named(self, name: str | None) -> Decoding:
        """Return the decoding of that name, the task's default for None. Raises TaskError for an unknown name."""
        if name is None:
            return self.decoding
        if name not in self.cheaper:
            known = ", ".join(self.cheaper) or "only its default, which needs no name"
            raise TaskError(f"The task {self.name} has no decoding '{name}'. It has: {known}.")
        return self.cheaper[name]
