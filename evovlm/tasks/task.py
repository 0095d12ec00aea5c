"""What a task is: samples of two splits, how they are asked, how long the answer may be and how it is scored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.prompts import fill_prompt
from evovlm.tasks.sample import ImageSource, Sample, Split, parse_split

__all__ = ["Decoding", "ImageSource", "Sample", "Split", "Task", "parse_split"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How an answer is generated: greedily for one beam, else by beam search. It ends before any `stop` string."""

    max_new_tokens: int
    beams: int = 1
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A set of questions and all that is needed to score a model on them.

    `prompt` names a row of PROMPTS and `metric` a row of METRICS. `load` takes a split and, optionally, where the data
    lies instead of its usual place.
    """

    name: str
    description: str
    prompt: str
    metric: str
    decoding: Decoding
    load: Callable[[Split, Path | None], tuple[Sample, ...]]
    needs_images: bool
    splits: frozenset[Split]

    def samples(self, split: Split, *, limit: int | None = None, data: Path | None = None) -> tuple[Sample, ...]:
        """Return the samples of a split in their fixed order, the first `limit` of them when it is given.

        `data` is a file or folder to read instead of the usual place. Raises TaskError when the task has no such split,
        the limit is below 1, or the data is missing or broken.
        """
        if split not in self.splits:
            existing = ", ".join(sorted(self.splits))
            raise TaskError(
                f"The task {self.name} has no split '{split.value}', only: {existing}. Name one of its splits or "
                "another task (`evovlm tasks` lists them)."
            )
        if limit is not None and limit < 1:
            raise TaskError(f"The task {self.name} was limited to {limit} samples. Ask for at least 1.")
        return self.load(split, data)[:limit]

    def prompt_text(self, sample: Sample) -> str:
        """Return the text a model is given for a sample."""
        return fill_prompt(self.prompt, sample.question)
