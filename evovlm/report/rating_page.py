"""The page on which a person compares answers of two models, without being shown which model is which."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from evovlm.errors import EvovlmError
from evovlm.report.drawing import page_pen
from evovlm.report.page import render
from evovlm.runs.folder.ratings import CHOICES, Chosen
from evovlm.runs.scores.contest import Contest
from evovlm.tasks.sample import ImageSource
from evovlm.texts.languages import speaker

_SIDE_PX = 640
UNDO = "undo"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingPage:
    """Shows one question after the other to a `rater`, and records each choice; at the end it shows the strengths."""

    contest: Contest
    rater: str
    language: str

    def html(self) -> str:
        """Return the page with the next question, or with the result."""
        question = self.contest.question(self.rater)
        images = question.sample.images if question is not None else ()
        ratings = self.contest.ratings
        return render(
            "rating.html.j2",
            page_pen(speaker(self.language)),
            language=self.language,
            script="rating.js",
            forms=True,
            contest=self.contest,
            rater=self.rater,
            question=question,
            pictures=[uri for image in images if (uri := picture(image)) is not None],
            n_pictures=len(images),
            can_undo=any(choice.rater == self.rater for choice in ratings.choices),
            strengths=ratings.strengths() if question is None else {},
            agreements=ratings.agreements if question is None else {},
        )

    def take(self, form: Mapping[str, str]) -> None:
        """Record a choice, or take the last one back. What was sent for another question (sent twice) is ignored."""
        question, chosen = self.contest.question(self.rater), form.get("chosen")
        number = "end" if question is None else str(question.number)
        if form.get("question") != number:
            return
        if chosen == UNDO:
            self.contest.ratings.undo(self.rater)
        elif question is not None and chosen in CHOICES:
            choice = question.choice(cast("Chosen", chosen), rater=self.rater, task=self.contest.task)
            self.contest.ratings.append(choice)


def picture(image: ImageSource) -> str | None:
    """Return a picture as a data URI; None for one that cannot be read."""
    try:
        picture = image.load()
    except (EvovlmError, OSError):
        return None
    picture.thumbnail((_SIDE_PX, _SIDE_PX))
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
