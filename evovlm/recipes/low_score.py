"""Why a model's score on a task is (almost) 0: what was wrong with its answers, and one example as it was asked."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from evovlm.foreign_json import JsonObject

LOW = 0.02
"""Scores of at most this are explained."""
_MOST_CHARACTERS = 600
_REPEATED = re.compile(r"(<[^<>\s]{1,40}>|\[[A-Z_]{1,20}\])\1{3,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LowScore:
    """The counts of a low score: of `n` answers, how many had `nothing` (no text), how many were not `japanese` where
    that is asked for (None: it is not), and how many reached the limit of `max_new_tokens`.

    `unscored` counts the answers that could not be scored, by reason. `prompt` is what the model was sent, `answer`
    what it answered, both without their ends where they are long.
    """

    n: int
    nothing: int
    not_japanese: int | None
    cut: int
    max_new_tokens: int
    unscored: Mapping[str, int]
    prompt: str
    answer: str

    @property
    def is_only_wrong(self) -> bool:
        """Whether every answer could be scored, has text, is in Japanese where that is asked for, and is complete."""
        return not (self.unscored or self.nothing or self.not_japanese or self.cut)

    @property
    def lines(self) -> tuple[str, ...]:
        """What to tell the user, line by line."""
        counts = [f"{count} unscored ({reason})" for reason, count in self.unscored.items()]
        counts += [f"{self.nothing} empty"] if self.nothing else []
        counts += [f"{self.not_japanese} not Japanese"] if self.not_japanese else []
        counts += [f"{self.cut} cut at the limit of {self.max_new_tokens} tokens"] if self.cut else []
        found = f"of {self.n} answers {', '.join(counts)}"
        if self.is_only_wrong:
            found = f"all {self.n} answers are complete but wrong"
        return (
            f"why so low: {found}",
            f"sent, for example: {self.prompt!r}",
            f"answered: {self.answer!r}",
            *self._hints,
        )

    @property
    def _hints(self) -> list[str]:
        """What to try, for what is true of half of the answers or more."""
        hints = []
        if 2 * self.cut >= self.n:
            hints.append("raise the limit (decoding.max_new_tokens of a task file)")
        if self.not_japanese is not None and 2 * self.not_japanese >= self.n:
            hints.append("ask for Japanese in the prompt, or score without a gate")
        if 2 * self.nothing >= self.n or 2 * sum(self.unscored.values()) >= self.n:
            hints.append("try the prompt that the model was trained with (--prompt, `prompt:`)")
        return [f"try: {'; '.join(hints)}. See docs/own-models.md."] if hints else []

    def as_row(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {
            "n": self.n,
            "nothing": self.nothing,
            "not_japanese": self.not_japanese,
            "cut": self.cut,
            "max_new_tokens": self.max_new_tokens,
            "unscored": dict(self.unscored),
            "prompt": self.prompt,
            "answer": self.answer,
        }

    @classmethod
    def of(cls, row: JsonObject) -> Self:
        """Return what `as_row` gave. Raises ValueError, with the field, for any other values."""
        unscored = row.inside("unscored")
        return cls(
            n=row.count("n", low=1),
            nothing=row.count("nothing"),
            not_japanese=None if row.values.get("not_japanese") is None else row.count("not_japanese"),
            cut=row.count("cut"),
            max_new_tokens=row.count("max_new_tokens"),
            unscored={reason: unscored.count(reason) for reason in unscored.values},
            prompt=row.text("prompt"),
            answer=row.text("answer"),
        )


def joined(parts: Sequence[LowScore | None]) -> LowScore | None:
    """Return what explains answers that were scored in parts, with the first one's example; None if one is not low."""
    lows = [part for part in parts if part is not None]
    if len(lows) < len(parts):
        return None
    unscored = Counter[str]()
    for low in lows:
        unscored.update(low.unscored)
    gated = [low.not_japanese for low in lows if low.not_japanese is not None]
    return replace(
        lows[0],
        n=sum(low.n for low in lows),
        nothing=sum(low.nothing for low in lows),
        not_japanese=sum(gated) if gated else None,
        cut=sum(low.cut for low in lows),
        unscored=dict(unscored.most_common()),
    )


def shortened(text: str) -> str:
    """Return a text that is short enough for a journal: the start and the end of a long one, which both matter."""
    # A picture is hundreds of equal tokens.
    text = _REPEATED.sub(r"\1...", text)
    half = _MOST_CHARACTERS // 2
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:half]} ... {text[-half:]}"
