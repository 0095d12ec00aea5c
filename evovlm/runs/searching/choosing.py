"""A search whose fitness is a person's choice: of each generation's answers, the person chooses the best.

RUN/choices.jsonl     {"generation": 3, "sample": "17", "answers": ["...", "..."], "chosen": ["..."]}

A candidate's score on a sample is 1 if its answer was chosen, else 0, so fitnesses compare the candidates of one
generation, which is all that the optimizer needs. The distribution's mean at the end is compared with the best of the
last generation. Choices are written before the search continues; a run that was stopped reads them again.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from evovlm.errors import RunMismatch
from evovlm.evaluation.objective import Objective
from evovlm.evaluation.workers.jobs import Job, Workers
from evovlm.files import read_foreign
from evovlm.foreign_json import LIMIT_BYTES, JsonObject, parse_json
from evovlm.json_lines import append_row, repaired_lines, whole_lines
from evovlm.recipes.candidate import Candidate, Evaluation, Genome, Outcome
from evovlm.recipes.kinds import Recipe
from evovlm.runs.folder.entries import Entry
from evovlm.seeding import derive_seed
from evovlm.tasks.sample import Sample
from evovlm.thoughts import split_thought

CHOICES_FILE = "choices.jsonl"
_MEAN = "mean"
"""The generation of the questions about the distribution's mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceQuestion:
    """The different `answers` of a generation to a sample, in an order that does not say whose they are.

    `number` counts the questions of the generation from 1, of `n` in all.
    """

    generation: str
    sample: Sample
    answers: tuple[str, ...]
    number: int
    n: int


class Person(Protocol):
    """Asks a person, and waits for the choice."""

    def choose(self, question: ChoiceQuestion) -> frozenset[str]:
        """Return the answers that the person finds best: one, several, or none."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Choosing:
    """Scores generations by a person's choice, and keeps the choices in `file`.

    `samples` are those of the only task, in its order; `decode` gives the recipe of a genome.
    """

    workers: Workers
    objective: Objective
    samples: tuple[Sample, ...]
    file: Path
    person: Person
    decode: Callable[[Genome], Recipe]
    _last: list[Entry] = field(default_factory=list, init=False)

    def remember(self, entry: Entry) -> None:
        """Remember the candidates of the last generation, with which the mean is compared."""
        if entry.kind == "candidate":
            same = self._last and self._last[-1].generation == entry.generation
            self._last = [*(self._last if same else []), entry]

    def candidates(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        """Return the outcomes of one generation's candidates, in their order."""
        return self._scored([each.recipe for each in candidates], generation=str(candidates[0].generation))

    def mean(self, recipe: Recipe) -> Outcome:
        """Return the outcome of the distribution's mean beside the best candidate of the last generation."""
        evaluated = [(-entry.evaluation.fitness, entry.index, entry) for entry in self._last if entry.evaluation]
        rivals = [self.decode(min(evaluated, key=lambda each: each[:2])[2].genome)] if evaluated else []
        return self._scored([recipe, *rivals], generation=_MEAN)[0]

    def _scored(self, recipes: Sequence[Recipe], *, generation: str) -> list[Outcome]:
        different = {recipe.recipe_id: recipe for recipe in recipes}
        outcomes = dict(
            zip(different, self.workers.outcomes([Job(recipe=each) for each in different.values()]), strict=True)
        )
        found = [outcomes[recipe.recipe_id] for recipe in recipes]
        texts = [[_final(text) for text in each.evaluation.texts] if each.evaluation else None for each in found]
        chosen = self._chosen([each for each in texts if each is not None], generation=generation)
        return [
            each
            if each.evaluation is None or answers is None
            else self._evaluation(each.evaluation, [float(a in best) for a, best in zip(answers, chosen, strict=True)])
            for each, answers in zip(found, texts, strict=True)
        ]

    def _evaluation(self, evaluation: Evaluation, values: Sequence[float]) -> Evaluation:
        ((name, score),) = evaluation.scores.items()
        mean = sum(values) / len(values)
        scores = {name: replace(score, score=mean, ungated=mean, per_sample=tuple(values), low=None)}
        return self.objective.evaluation(scores, seconds=evaluation.seconds, tokens=evaluation.tokens)

    def _chosen(self, texts: Sequence[Sequence[str]], *, generation: str) -> list[frozenset[str]]:
        """Return the best answers to each sample; where all answers are equal, nobody is asked."""
        known = self._known()
        found: list[frozenset[str]] = []
        asked = [
            (sample, _mixed({answers[place] for answers in texts}, generation, sample.id))
            for place, sample in enumerate(self.samples)
        ]
        open_questions = [sample.id for sample, answers in asked if len(answers) > 1]
        for sample, answers in asked:
            if len(answers) < 2:
                found.append(frozenset(answers))
                continue
            if known.get((generation, sample.id), ((), frozenset()))[0] != answers:
                question = ChoiceQuestion(
                    generation=generation,
                    sample=sample,
                    answers=answers,
                    number=open_questions.index(sample.id) + 1,
                    n=len(open_questions),
                )
                chosen = self.person.choose(question) & frozenset(answers)
                row = {"generation": generation, "sample": sample.id}
                append_row(self.file, {**row, "answers": list(answers), "chosen": sorted(chosen)})
                known[generation, sample.id] = answers, chosen
            found.append(known[generation, sample.id][1])
        return found

    def _known(self) -> dict[tuple[str, str], tuple[tuple[str, ...], frozenset[str]]]:
        """Return the choices in the file. Raises RunMismatch, with the line, for one that was changed."""
        repaired_lines(self.file)
        content = read_foreign(self.file, limit_bytes=LIMIT_BYTES) if self.file.exists() else b""
        known = {}
        for number, line in enumerate(whole_lines(content), start=1):
            try:
                row = JsonObject.of(parse_json(line))
                place = row.text("generation"), row.text("sample")
                known[place] = row.texts("answers"), frozenset(row.texts("chosen"))
            except ValueError as error:
                raise RunMismatch(
                    f"{self.file}:{number}: is not a choice ({error}).\n    Put back the file as it was."
                ) from error
        return known


def _mixed(answers: Collection[str], generation: str, sample: str) -> tuple[str, ...]:
    """Return answers in an order drawn for this question: any other would favour some language or candidate."""
    return tuple(sorted(answers, key=lambda answer: derive_seed(generation, sample, answer)))


def _final(text: str) -> str:
    final = split_thought(text).final
    return (text if final is None else final).strip()
