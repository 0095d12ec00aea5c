"""Samples turned into prompts for one loaded model, once; answered and scored as often as its weights change."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from evovlm.errors import TaskError
from evovlm.evaluation.task_scores import task_score
from evovlm.models.generation import generate
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt, Unanswerable, prepare_prompts
from evovlm.recipes.candidate import TaskScore
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.metrics import score_answer
from evovlm.tasks.scoring import SampleScore
from evovlm.tasks.task import Decoding, Sample, Split, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """A task to score: its name, the first `limit` samples, its `weight` in a fitness, and where its data lies.

    `decoding` names one of the task's cheaper ways to decode; None is its own.
    """

    name: str
    decoding: str | None = None
    limit: int | None = None
    weight: float = 1.0
    data: Path | None = None

    def check(self, split: Split) -> None:
        """Raise TaskError, before any model is loaded, when the task or its data is not there."""
        get_task(self.name).samples(split, limit=self.limit, data=self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sample's answer and what it scored."""

    sample: Sample
    text: str
    score: SampleScore


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTask:
    """All answers to a task, in the task's order, and what it cost."""

    task: Task
    answers: tuple[Answer, ...]
    tokens: int
    seconds: Mapping[str, float]

    @property
    def score(self) -> TaskScore:
        """The means over all samples."""
        return task_score([answer.score for answer in self.answers])

    def tagged(self, tag: str) -> TaskScore | None:
        """The means over the samples with this tag; None where there is none."""
        scores = [answer.score for answer in self.answers if tag in answer.sample.tags]
        return task_score(scores) if scores else None

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag of its samples, sorted."""
        return tuple(sorted({tag for answer in self.answers for tag in answer.sample.tags}))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedTask:
    """A task's samples as prompts of one model: tokenised, with the projected features of their pictures."""

    task: Task
    decoding: Decoding
    samples: tuple[Sample, ...]
    prompts: tuple[Prompt | Unanswerable, ...]
    _scored: dict[tuple[int, str], SampleScore] = field(default_factory=dict)

    @classmethod
    def prepare(cls, choice: TaskChoice, split: Split, loaded: LoadedModel) -> "PreparedTask":
        """Read the samples, draw or load their pictures, and compute everything that no merge changes.

        Raises TaskError for an unknown task, missing data, or a picture task asked of a model that takes none.
        """
        task = get_task(choice.name)
        if task.needs_images and not loaded.sees:
            raise TaskError(
                f"task {task.name}: its samples are pictures, but {loaded.folder} takes none.\n"
                "    Name a vision-language model, or a text task."
            )
        samples = task.samples(split, limit=choice.limit, data=choice.data)
        prompts = prepare_prompts(loaded, [task.ask(sample) for sample in samples])
        return cls(task=task, decoding=task.decoding_named(choice.decoding), samples=samples, prompts=prompts)

    def answer(self, loaded: LoadedModel) -> ScoredTask:
        """Generate and score every answer. Raises FloatingPointError when the logits are not finite."""
        started = time.perf_counter()
        asked = {index: prompt for index, prompt in enumerate(self.prompts) if isinstance(prompt, Prompt)}
        generated = generate(loaded, tuple(asked.values()), decoding=self.decoding)
        texts = dict(zip(asked, generated.texts, strict=True))
        generating = time.perf_counter()
        answers = tuple(
            Answer(sample=sample, text=texts.get(index, ""), score=self._score(index, texts.get(index)))
            for index, sample in enumerate(self.samples)
        )
        seconds = {"generate": generating - started, "score": time.perf_counter() - generating}
        return ScoredTask(task=self.task, answers=answers, tokens=generated.tokens, seconds=seconds)

    def _score(self, index: int, text: str | None) -> SampleScore:
        prompt = self.prompts[index]
        if text is None:
            reason = prompt.reason if isinstance(prompt, Unanswerable) else "no answer"
            return SampleScore(score=0.0, ungated=0.0, japanese=False, unscored=reason)
        key = (index, text)
        if key not in self._scored:
            self._scored[key] = score_answer(self.task.scoring, self.samples[index], text)
        return self._scored[key]


def score_model(
    loaded: LoadedModel, *, tasks: Sequence[TaskChoice], split: Split = Split.REPORT
) -> tuple[ScoredTask, ...]:
    """Score a loaded model as it is on a split of each task."""
    with torch.inference_mode():
        return tuple(PreparedTask.prepare(choice, split, loaded).answer(loaded) for choice in tasks)
