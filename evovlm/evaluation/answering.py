"""Asks a loaded model the questions of tasks: opened before any model, prepared once, answered for each candidate.

Opening a task does not import torch, so that a mistake in a command is reported at once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from evovlm.errors import ModelError
from evovlm.evaluation.answers import OpenTask, PreparedTask, ScoredTask, TaskChoice, ThinkingMeasured
from evovlm.evaluation.batches import Answers, Batches, OnAnswers
from evovlm.evaluation.harness import HarnessTask
from evovlm.evaluation.judging import JudgeChoice, with_judge
from evovlm.evaluation.scorer import Scorer, check_scorer, open_scorer, score_several
from evovlm.foreign_code import require_allowed
from evovlm.models.chat import no_eyes, thought_marks
from evovlm.recipes.candidate import Thinking
from evovlm.recipes.low_score import LOW, LowScore, shortened
from evovlm.tasks.catalogue import code_of_tasks, get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.metrics.japanese import GATES
from evovlm.tasks.metrics.library_metric import PREFIX
from evovlm.tasks.metrics.scoring import Answer, Sent
from evovlm.tasks.task import Decoding, Sample, Split, Task
from evovlm.thoughts import AUTO, ThoughtMarks, reasoning_text, split_thought

_REASONS = 3

if TYPE_CHECKING:
    from evovlm.evaluation.engines.engine import Engine
    from evovlm.models.loading import LoadedModel
    from evovlm.models.pictures.feature_store import FeatureStore
    from evovlm.models.prompt import Prompt, Unanswerable


def open_tasks(choices: Sequence[TaskChoice], split: Split, *, allow_code: bool = False) -> list[OpenTask]:
    """Read the samples of tasks, before any model is loaded.

    Raises CodeNotAllowed, which lists the files of all tasks, for code that would run without `allow_code`; TaskError
    for a task or data that cannot be found.
    """
    own_metric = (choice.name for choice in choices if choice.metric is None)
    require_allowed(code_of_tasks(own_metric), allow_code=allow_code)
    return [open_task(choice, split, allow_code=allow_code) for choice in choices]


def open_task(choice: TaskChoice, split: Split, *, allow_code: bool = False) -> OpenTask:
    """Read the samples of one task. Raises as `open_tasks` does."""
    kind = HarnessTask if is_harness_name(choice.name) else SampleTask
    return kind.open(choice, split, allow_code=allow_code)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleTask:
    """A task with our own samples and prompts, its samples read."""

    task: Task
    name: str
    samples: tuple[Sample, ...]
    absent: Mapping[str, int]
    judge: JudgeChoice | None = None
    thinking: ThinkingMeasured = "never"
    allow_code: bool = False

    @classmethod
    def open(cls, choice: TaskChoice, split: Split, *, allow_code: bool = False) -> SampleTask:
        """Read the samples.

        Raises CodeNotAllowed for a metric script without `allow_code`; TaskError for an unknown task or decoding,
        missing data, or a metric that is missing.
        """
        task = get_task(choice.name).asked(**choice.settings)
        task = replace(task, scoring=with_judge(task.scoring, choice.judge))
        check_scorer(task.scoring, judge=choice.judge)
        if task.scoring.metric.startswith(PREFIX):
            # A script that cannot be loaded is found before a model is loaded.
            open_scorer(task.scoring, allow_code=allow_code)
        found = task.read(split, limit=choice.limit, data=choice.data)
        return cls(
            task=task,
            name=task.name,
            samples=found.samples,
            absent=found.absent,
            judge=choice.judge,
            thinking=choice.thinking,
            allow_code=allow_code,
        )

    @property
    def measured(self) -> str:
        """The metric, extractor and gate."""
        return str(self.task.scoring)

    @property
    def decoding(self) -> Decoding:
        """How answers are generated."""
        return self.task.decoding

    @property
    def fingerprint(self) -> str:
        """A hash of the samples as they are asked, the decoding and the scoring."""
        marks = "" if self.task.scoring.reasoning == AUTO else reasoning_text(self.task.scoring.reasoning)
        digest = hashlib.blake2b(f"{self.decoding} {self.task.scoring!r}{marks}".encode(), digest_size=8)
        digest.update(self.decoding.drawn.encode())
        digest.update((self.task.scoring.judge or "").encode())
        for sample in self.samples:
            asked = self.task.ask(sample)
            row = [sample.id, asked.text, asked.chat, asked.system, [image.key for image in asked.images]]
            template = [dict(asked.template)] if asked.template else []
            digest.update(json.dumps([*row, sample.references, sample.choices, *template]).encode())
        return digest.hexdigest()

    def prepare(self, loaded: LoadedModel, *, store: FeatureStore | None = None) -> PreparedSamples:
        """Turn the samples into prompts. Raises TaskError for a picture task and a model that takes no pictures."""
        if self.task.needs_images and not loaded.sees:
            raise no_eyes(loaded.folder, task=self.name)
        from evovlm.models.prompt import prepare_prompts

        marks = thought_marks(loaded, self.task.scoring.reasoning)
        asked = [self.task.ask(sample) for sample in self.samples]
        prompts = prepare_prompts(loaded, asked, store=store, marks=marks)
        scorer = open_scorer(
            self.task.scoring,
            marks=marks,
            device=str(loaded.device),
            judge=self.judge,
            allow_code=self.allow_code,
        )
        return PreparedSamples(opened=self, prompts=prompts, scorer=scorer, marks=marks)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedSamples:
    """A task's samples as prompts of one model: tokenised, with the projected features of their pictures."""

    opened: SampleTask
    prompts: tuple[Prompt | Unanswerable, ...]
    scorer: Scorer
    marks: ThoughtMarks
    _scored: dict[tuple[int, str], Answer] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.opened.name

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples to ask."""
        return self.opened.samples

    @property
    def n_samples(self) -> int:
        """The number of samples."""
        return len(self.samples)

    def part(self, rows: Sequence[int]) -> PreparedSamples:
        """Return the task with only these samples; nothing is prepared again."""
        samples = tuple(self.samples[row] for row in rows)
        return PreparedSamples(
            opened=replace(self.opened, samples=samples),
            prompts=tuple(self.prompts[row] for row in rows),
            scorer=self.scorer,
            marks=self.marks,
        )

    @property
    def longest(self) -> int:
        """The most tokens of a prompt and its answer."""
        from evovlm.models.prompt import Prompt

        lengths = [len(prompt.ids) for prompt in self.prompts if isinstance(prompt, Prompt)]
        return max(lengths, default=0) + self.opened.decoding.max_new_tokens

    def answer(self, engine: Engine, *, batches: Batches | None = None) -> ScoredTask:
        """Generate and score every answer. Raises FloatingPointError when the logits are not finite."""
        from evovlm.models.prompt import Prompt

        decoding = self.opened.decoding
        asked = {
            (index, repeat): replace(prompt, draw=decoding.draw_of(self.samples[index].id, repeat))
            for index, prompt in enumerate(self.prompts)
            if isinstance(prompt, Prompt)
            for repeat in range(decoding.repeats)
        }
        prompts = tuple(asked.values())

        def generated(rows: Sequence[int], on_answers: OnAnswers) -> Answers:
            chosen = [prompts[row] for row in rows]
            found = engine.answer(chosen, decoding=decoding, marks=self.marks, on_answers=on_answers)
            return Answers([text.strip() for text in found.texts], found.tokens)

        batches = batches or Batches(device=engine.loaded.device)
        answered = batches.ask([len(prompt.ids) for prompt in prompts], generated)
        texts = dict(zip(asked, answered, strict=True))
        scoring = time.perf_counter()
        self._score(dict.fromkeys((index, text) for (index, _), text in texts.items()))
        answers = tuple(
            self._scored_answer(index, texts.get((index, repeat)), repeat=repeat)
            for index in range(self.n_samples)
            for repeat in range(decoding.repeats)
        )
        seconds = {"generate": batches.seconds, "score": time.perf_counter() - scoring}
        return ScoredTask(
            name=self.name,
            metric=self.opened.task.scoring.metric,
            measured=self.opened.measured,
            gate=self.opened.task.scoring.gate,
            answers=answers,
            absent=self.opened.absent,
            low=self._low(engine.loaded, answers),
            thinking=self._thinking(engine.loaded, answers),
            tokens=batches.tokens,
            seconds=seconds,
        )

    def explained(self, scored: ScoredTask, loaded: LoadedModel) -> ScoredTask:
        """See PreparedTask. Counted in the text, so a cut answer may seem a token shorter than the limit."""
        from evovlm.models.prompt import Prompt

        limit, repeats = self.opened.decoding.max_new_tokens, self.opened.decoding.repeats
        answers = []
        for place, answer in enumerate(scored.answers):
            prompt = self.prompts[place // repeats]
            if isinstance(prompt, Prompt):
                n_tokens = len(loaded.tokenizer(answer.text, add_special_tokens=False).input_ids)
                sent = Sent(prompt=loaded.tokenizer.decode(prompt.ids), tokens=n_tokens, cut=n_tokens >= limit - 1)
                answer = replace(answer, sent=sent)
            answers.append(answer)
        return replace(scored, answers=tuple(answers))

    def _low(self, loaded: LoadedModel, answers: Sequence[Answer]) -> LowScore | None:
        """Return why the score of these answers is almost 0; None where it is not."""
        from evovlm.models.prompt import Prompt

        if sum(answer.score for answer in answers) > LOW * len(answers):
            return None
        limit = self.opened.decoding.max_new_tokens
        # Text that is written again has a token more or less at its ends.
        cut = [len(loaded.tokenizer(each.text, add_special_tokens=False).input_ids) >= limit - 1 for each in answers]
        asked = next((place for place, each in enumerate(self.prompts) if isinstance(each, Prompt)), None)
        prompt = None if asked is None else self.prompts[asked]
        sent = loaded.tokenizer.decode(prompt.ids) if isinstance(prompt, Prompt) else ""
        gated = self.opened.task.scoring.gate is not None
        reasons = Counter(each.unscored for each in answers if each.unscored is not None)
        return LowScore(
            n=len(answers),
            nothing=sum(not answer.text.strip() for answer in answers),
            not_japanese=sum(not answer.japanese for answer in answers) if gated else None,
            cut=sum(cut),
            max_new_tokens=limit,
            unscored=dict(reasons.most_common(_REASONS)),
            prompt=shortened(sent),
            answer=shortened(answers[(asked or 0) * self.opened.decoding.repeats].text),
        )

    def _thinking(self, loaded: LoadedModel, answers: Sequence[Answer]) -> Thinking | None:
        """Return how long the answers and their thoughts are, where that is to be measured."""
        if self.opened.thinking == "never":
            return None
        thoughts = [split_thought(answer.text, self.marks).thought for answer in answers]
        n_thoughts = sum(bool(thought) for thought in thoughts)
        if self.opened.thinking == "found" and not n_thoughts:
            return None
        gate = GATES[self.opened.task.scoring.gate or "script"]
        limit = self.opened.decoding.max_new_tokens

        def length(text: str) -> int:
            # Counted in the text, so that it does not depend on how the answer was generated.
            return min(limit, len(loaded.tokenizer(text, add_special_tokens=False).input_ids)) if text else 0

        counts = [[length(answer.text) for answer in answers], [length(thought) for thought in thoughts]]
        tokens, thought_tokens = (sum(each) / len(answers) for each in counts)
        return Thinking(
            tokens=tokens,
            thought_tokens=thought_tokens,
            thoughts=n_thoughts,
            thought_japanese=sum(gate.passes(thought) for thought in thoughts if thought) / max(1, n_thoughts),
        )

    def _score(self, given: Iterable[tuple[int, str]]) -> None:
        new = [key for key in given if key not in self._scored]
        scored = score_several(self.scorer, [(self.samples[index], text) for index, text in new])
        self._scored.update(zip(new, scored, strict=True))

    def _scored_answer(self, index: int, text: str | None, *, repeat: int) -> Answer:
        from evovlm.models.prompt import Unanswerable

        sample, prompt = self.samples[index], self.prompts[index]
        if text is None:
            reason = prompt.reason if isinstance(prompt, Unanswerable) else "no answer"
            return Answer(
                sample=sample, text="", score=0.0, ungated=0.0, japanese=False, unscored=reason, repeat=repeat
            )
        found = self._scored[index, text]
        return replace(found, repeat=repeat) if repeat else found


def score_task(
    opened: OpenTask,
    loaded: LoadedModel,
    *,
    store: FeatureStore | None = None,
    batches: Batches | None = None,
) -> ScoredTask:
    """Score a loaded model as it is on a task. Raises TaskError, and ModelError for logits that are not finite."""
    from evovlm.evaluation.engines.builtin import BuiltinEngine

    return answered(opened.prepare(loaded, store=store), BuiltinEngine(loaded=loaded), batches=batches)


def answered(task: PreparedTask, engine: Engine, *, batches: Batches | None = None) -> ScoredTask:
    """Have an engine answer a task that was prepared for its model. Raises as `score_task` does."""
    import torch

    with torch.inference_mode():
        try:
            return task.answer(engine, batches=batches)
        except FloatingPointError as error:
            raise broken_logits(engine.loaded, error, asked=f"the task {task.name}") from error


def broken_logits(loaded: LoadedModel, error: FloatingPointError, *, asked: str) -> ModelError:
    """Return the error for a model whose logits are not finite when it is `asked` something."""
    return ModelError(
        f"{loaded.folder}: on {asked}, {error}. Its weights are broken, or its numbers exceed the range of its dtype.\n"
        "    Check the checkpoint, or the recipe's weights."
    )


def score_model(
    loaded: LoadedModel, *, tasks: Sequence[TaskChoice], split: Split = Split.REPORT, allow_code: bool = False
) -> tuple[ScoredTask, ...]:
    """Score a loaded model as it is on a split of each task. Raises as `open_tasks` and `score_task` do."""
    from evovlm.models.pictures.feature_store import FeatureStore

    store = FeatureStore()
    return tuple(score_task(task, loaded, store=store) for task in open_tasks(tasks, split, allow_code=allow_code))
