"""The page on which a person chooses the best answers of each generation, while the search waits."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from evovlm.report.drawing import page_pen
from evovlm.report.page import render
from evovlm.report.rating_page import picture
from evovlm.runs.searching.choosing import ChoiceQuestion
from evovlm.texts.languages import speaker

_RELOAD_S = 2
ANSWER = "answer"


@dataclass(slots=True, kw_only=True, eq=False)
class ChoicePage:
    """Shows one question at a time to the person who has the page open, and gives the search the answer."""

    language: str
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _question: ChoiceQuestion | None = field(default=None, init=False)
    _chosen: frozenset[str] | None = field(default=None, init=False)

    def choose(self, question: ChoiceQuestion) -> frozenset[str]:
        """See Person."""
        with self._changed:
            self._pose(question)
            self._changed.wait_for(lambda: self._chosen is not None)
            return self._chosen or frozenset()

    def _pose(self, question: ChoiceQuestion) -> None:
        self._question, self._chosen = question, None

    def html(self) -> str:
        """Return the page with the question; between questions, one that reloads itself."""
        with self._changed:
            question = None if self._chosen is not None else self._question
        images = question.sample.images if question is not None else ()
        return render(
            "choice.html.j2",
            page_pen(speaker(self.language)),
            language=self.language,
            script="choice.js",
            forms=True,
            reload_s=_RELOAD_S if question is None else None,
            question=question,
            token=_token(question),
            pictures=[uri for image in images if (uri := picture(image)) is not None],
            n_pictures=len(images),
        )

    def take(self, form: Mapping[str, str]) -> None:
        """Take the chosen answers; what was sent for another question (sent twice) is ignored."""
        with self._changed:
            question = self._question
            if question is None or self._chosen is not None or form.get("question") != _token(question):
                return
            self._chosen = frozenset(
                answer for number, answer in enumerate(question.answers) if f"{ANSWER}{number}" in form
            )
            self._changed.notify_all()


def _token(question: ChoiceQuestion | None) -> str:
    return "" if question is None else f"{question.generation}/{question.sample.id}"
