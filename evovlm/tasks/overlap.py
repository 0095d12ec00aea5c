"""Finds samples that a search would see and that its winner is also reported on.

Samples count as the same if they are the same question of a published set, in any language (`origin`); if they have the
same words, for questions without a picture; or the same picture, byte for byte. Pictures that only look similar are not
found here.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from evovlm.errors import TaskError
from evovlm.tasks.pictures import content_key
from evovlm.tasks.sample import Sample, Split

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


def split_samples(samples: Sequence[Sample], *, share: float, seed: int) -> Mapping[Split, tuple[Sample, ...]]:
    """Return the samples in two parts, of which a search sees about this share, each in the order of `samples`.

    Samples that count as the same are in the same part. Which part that is depends on the seed and on the samples'
    words and pictures alone, so that a row that is added moves few others. Raises TaskError when a part would be empty.
    """
    groups = _same(samples)
    order = sorted(groups, key=lambda words: hashlib.blake2b(f"{seed}\0{words}".encode(), digest_size=8).digest())
    wanted, searched = share * len(samples), set[int]()
    for group in order:
        if len(searched) >= wanted:
            break
        searched.update(groups[group])
    parts = {
        Split.SEARCH: tuple(sample for place, sample in enumerate(samples) if place in searched),
        Split.REPORT: tuple(sample for place, sample in enumerate(samples) if place not in searched),
    }
    if not all(parts.values()):
        raise TaskError(
            f"split: {len(samples)} samples in {len(groups)} groups (the same question or picture is one) cannot be "
            f"split into {share:g} and {1 - share:g}. Add samples, or write another share."
        )
    return parts


def _same(samples: Sequence[Sample]) -> Mapping[str, list[int]]:
    """Return the places of the samples that count as the same, by the least of their words and pictures."""
    keys = [sorted(key for kind in (_origin, _question, _pictures) for key in kind(each)) for each in samples]
    parents = list(range(len(samples)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place

    first: dict[str, int] = {}
    for place, own in enumerate(keys):
        for key in own:
            parents[root(place)] = root(first.setdefault(key, place))
    found: dict[int, list[int]] = {}
    for place in range(len(samples)):
        found.setdefault(root(place), []).append(place)
    words = {group: min(keys[place] or [samples[place].id] for place in places) for group, places in found.items()}
    return {"\0".join(words[group]): places for group, places in found.items()}


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
