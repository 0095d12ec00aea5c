"""The journal of what people preferred, one line per decision, flushed to disk before the next question.

    {"kind": "header", "format": 1}
    {"kind": "choice", "rater": "ann", "task": "emoji_ja", "sample": "17", "left": "1f2e3d4c5b6a",
     "right": "0a1b2c3d4e5f", "chosen": "left"}
    {"kind": "undo", "rater": "ann"}

The sides are models by their keys: a candidate's recipe id, or the identity of a model's weights. `undo` takes back the
rater's last choice. Several people, and several processes, may append to one file.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from evovlm.errors import RunMismatch
from evovlm.evaluation.preferences import Agreement, Outcome, Strength, agreement, strengths
from evovlm.files import read_foreign
from evovlm.foreign_json import LIMIT_BYTES, JsonObject, parse_json
from evovlm.json_lines import append_row, repaired_lines, whole_lines

FORMAT = 1
RATINGS_FOLDER = "ratings"
RATINGS_FILE = "ratings.jsonl"

Chosen = Literal["left", "right", "tie"]
CHOICES: Mapping[Chosen, float] = {"left": 1.0, "right": 0.0, "tie": 0.5}
"""What a person can choose, and what that is worth to the left side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a `rater` chose between the answers of two models, `left` and `right`, to one sample of a task."""

    rater: str
    task: str
    sample: str
    left: str
    right: str
    chosen: Chosen

    @property
    def question(self) -> tuple[str, str, frozenset[str]]:
        """What was compared, whatever was on which side: the task, the sample, the two models."""
        return self.task, self.sample, frozenset((self.left, self.right))

    @property
    def preferred(self) -> str:
        """The key of the preferred model; empty for a tie."""
        return {"left": self.left, "right": self.right, "tie": ""}[self.chosen]


@dataclass(slots=True, kw_only=True, eq=False)
class Ratings:
    """All choices in a file, in the order in which they were made."""

    path: Path
    choices: list[Choice]

    @classmethod
    def read(cls, path: Path) -> "Ratings":
        """Read a file, which may still be growing; one that does not exist has no choices.

        Raises RunMismatch for a file that is not a journal of ratings, or was changed.
        """
        try:
            lines = whole_lines(read_foreign(path, limit_bytes=LIMIT_BYTES))
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise RunMismatch(f"{path}: cannot be read ({error.strerror or error}).") from error
        return cls(path=path, choices=_choices(path, lines))

    @classmethod
    def open(cls, path: Path) -> "Ratings":
        """Read a file that will be continued, after cutting off a torn last line."""
        ratings = cls.read(path)
        if not repaired_lines(path):
            append_row(path, {"kind": "header", "format": FORMAT})
        return ratings

    def append(self, choice: Choice) -> None:
        """Add a choice and wait until it is on disk."""
        append_row(self.path, {"kind": "choice", **asdict(choice)})
        self.choices.append(choice)

    def undo(self, rater: str) -> bool:
        """Take back the last choice of a person. Returns False if there is nothing to take back."""
        if not any(choice.rater == rater for choice in self.choices):
            return False
        append_row(self.path, {"kind": "undo", "rater": rater})
        _take_back(self.choices, rater)
        return True

    def strengths(self) -> Mapping[str, Strength]:
        """Return the strength of each model that was compared, by its key, the strongest first."""
        keys = list(dict.fromkeys(key for choice in self.choices for key in (choice.left, choice.right)))
        outcomes = [
            Outcome(keys.index(choice.left), keys.index(choice.right), CHOICES[choice.chosen])
            for choice in self.choices
        ]
        found = dict(zip(keys, strengths(outcomes, n_contestants=len(keys)), strict=True)) if keys else {}
        return dict(sorted(found.items(), key=lambda each: -each[1].share))

    @property
    def agreements(self) -> Mapping[tuple[str, str], Agreement]:
        """How far each two people agree, on the comparisons that both made."""
        preferred: dict[str, dict[object, str]] = {}
        for choice in self.choices:
            preferred.setdefault(choice.rater, {})[choice.question] = choice.preferred
        found = {}
        for one, other in itertools.combinations(sorted(preferred), 2):
            shared = [question for question in preferred[one] if question in preferred[other]]
            if shared:
                first, second = ([preferred[rater][question] for question in shared] for rater in (one, other))
                found[one, other] = agreement(first, second)
        return found


def ratings_file(run: Path) -> Path:
    """Return the file of the ratings of a run's candidates."""
    return run / RATINGS_FOLDER / RATINGS_FILE


def _choices(path: Path, lines: Sequence[bytes]) -> list[Choice]:
    choices: list[Choice] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = JsonObject.of(parse_json(line))
            kind = row.text("kind")
            if number == 1 and kind != "header":
                raise ValueError("it does not begin with a header")
            if kind == "header":
                # Two processes that begin at the same time both write it.
                row.count("format", low=FORMAT, high=FORMAT)
            elif kind == "undo":
                _take_back(choices, row.text("rater"))
            else:
                choices.append(_choice(row))
        except ValueError as error:
            raise RunMismatch(
                f"{path}:{number}: is not a line of a journal of ratings ({error}).\n"
                "    Put back the file as it was, or remove it to rate again."
            ) from error
    return choices


def _choice(row: JsonObject) -> Choice:
    chosen = row.text("chosen")
    if row.text("kind") != "choice" or chosen not in CHOICES:
        raise ValueError(f"kind is {row.text('kind')!r:.40} and chosen is {chosen!r:.40}")
    names = {key: row.text(key) for key in ("rater", "task", "sample", "left", "right")}
    if names["left"] == names["right"]:
        raise ValueError("a model is compared with itself")
    return Choice(**names, chosen=cast("Chosen", chosen))


def _take_back(choices: list[Choice], rater: str) -> None:
    for place in range(len(choices) - 1, -1, -1):
        if choices[place].rater == rater:
            del choices[place]
            return
