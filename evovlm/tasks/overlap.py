"""Finds samples that a search would see and that its winner is also reported on.

Samples count as the same if they are the same question of a published set, in any language (`origin`); if they have the
same words, for questions without a picture; or the same picture, byte for byte. Pictures that only look similar are not
found here.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from evovlm.errors import TaskError
from evovlm.tasks.pictures import content_key
from evovlm.tasks.sample import Sample

MOST_PICTURES = 5000
"""Pictures of larger sets are not compared: reading them would delay the search too long."""

_N_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Samples that two sets share: `kind` is "origins", "questions" or "pictures".

    `count` is the number of affected samples of the report; `examples` are a few pairs of ids (search, report).
    """

    kind: str
    count: int
    examples: tuple[tuple[str, str], ...]

    def message(self, *, search: str, report: str) -> str:
        """Return the warning for the user; `search` and `report` name the two sets."""
        pairs = ", ".join(f"{seen} = {reported}" for seen, reported in self.examples)
        return (
            f"a search on {search} sees {self.count} of the report samples of {report} ({_MEANING[self.kind]}): "
            f"{pairs}{', ...' if self.count > len(self.examples) else ''}. The winner's score on {report} would be too "
            "high: use different samples for the search or for the report."
        )


_MEANING: Mapping[str, str] = {
    "origins": "the same questions, perhaps in another language",
    "questions": "the same words",
    "pictures": "the same pictures",
}


def overlaps(search: Sequence[Sample], report: Sequence[Sample]) -> tuple[Overlap, ...]:
    """Return the overlaps between the samples of a search and those of a report; empty if they share nothing.

    Pictures that cannot be read are not compared: their samples will be unscored.
    """
    kinds: list[tuple[str, Callable[[Sample], Iterable[str]]]] = [("origins", _origin), ("questions", _question)]
    if are_few(search) and are_few(report):
        kinds.append(("pictures", _pictures))
    found = (_shared(kind, keys, search, report) for kind, keys in kinds)
    return tuple(overlap for overlap in found if overlap is not None)


def are_few(samples: Sequence[Sample]) -> bool:
    """Return whether the pictures of these samples are few enough to be compared."""
    return sum(len(sample.images) for sample in samples) <= MOST_PICTURES


def _shared(
    kind: str, keys: Callable[[Sample], Iterable[str]], search: Sequence[Sample], report: Sequence[Sample]
) -> Overlap | None:
    seen = {key: sample.id for sample in reversed(search) for key in keys(sample)}
    pairs = [(seen[key], sample.id) for sample in report if (key := next((k for k in keys(sample) if k in seen), None))]
    return Overlap(kind=kind, count=len(pairs), examples=tuple(pairs[:_N_EXAMPLES])) if pairs else None


def _origin(sample: Sample) -> Iterable[str]:
    return () if sample.origin is None else (sample.origin,)


def _question(sample: Sample) -> Iterable[str]:
    # "What is this?" is asked about many pictures, so the pictures are compared instead.
    return () if sample.images else (normalised(sample.question),)


def _pictures(sample: Sample) -> Iterable[str]:
    for image in sample.images:
        with suppress(TaskError):
            yield content_key(image)


def normalised(question: str) -> str:
    """Return only the letters, digits and signs of a question, with widths and case normalised."""
    plain = unicodedata.normalize("NFKC", question).casefold()
    kept = "".join(letter for letter in plain if unicodedata.category(letter)[0] not in "PZC")
    return kept or plain
