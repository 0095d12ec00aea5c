"""Parts of a task: samples, the pictures they ask about, and the two splits."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from evovlm.errors import TaskError

if TYPE_CHECKING:
    from PIL import Image


class Split(StrEnum):
    """SEARCH: samples that a search may see. REPORT: samples that are scored only after the search."""

    SEARCH = "search"
    REPORT = "report"


def parse_split(text: str) -> Split:
    """Return the split of that name. Raises TaskError for any other name."""
    try:
        return Split(text)
    except ValueError as problem:
        raise TaskError(f"Unknown split '{text}'. A split is search or report.") from problem


class ImageSource(Protocol):
    """A picture that is drawn or read when it is needed."""

    @property
    def key(self) -> str:
        """A name for the picture: different pictures have different keys."""
        ...

    def load(self) -> "Image.Image":
        """Return the picture in RGB. Raises TaskError when it is not available."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question with every answer that counts as right.

    `images` are the pictures it asks about, in order; `choices` the options of a multiple-choice question, whose
    references are letters (A for the first). `tags` name the subsets that a report shows separately. `origin` names the
    question of a published set, in any language (`gsm8k-test/17`), so that a search cannot see a translation of a
    reported question. `wording` is the published wording of the question with its options and instruction, where it is
    not the usual one. `context` describes the pictures, for a judge who does not see them. `absent` says why this
    machine cannot have its pictures; such a sample is left out of its split.
    """

    id: str
    question: str
    references: tuple[str, ...]
    images: tuple[ImageSource, ...] = ()
    choices: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    origin: str | None = None
    wording: str | None = None
    context: str | None = None
    absent: str | None = None


def letter_of(index: int) -> str:
    """Return the letter of a choice: A for index 0."""
    return chr(ord("A") + index)


def check_samples(samples: tuple[Sample, ...], *, where: str) -> tuple[Sample, ...]:
    """Return the samples. Raises TaskError, naming `where`, when it is empty or an id occurs twice."""
    if not samples:
        raise TaskError(f"{where}: has no samples. Give a file or folder that holds some.")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise TaskError(f"{where}: two samples have the id '{sample.id}'. Give each sample a different id.")
        seen.add(sample.id)
    return samples
