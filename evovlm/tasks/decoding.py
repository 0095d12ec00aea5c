"""How answers are generated: the most likely ones or drawn ones, and what a config or a command changes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from evovlm.errors import TaskError
from evovlm.recipes.documents import Document
from evovlm.seeding import derive_seed

MOST_TOKENS = 1_000_000
_BITS = 63
_OF_DRAWS = ("top_p", "top_k", "seed", "repeats")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How an answer is generated: greedily with one beam, else by beam search. It ends before any `stop` string.

    With a `temperature` above 0, each token is drawn from the `top_k` likeliest ones (0: all), and of these from the
    fewest that have the share `top_p` of the probability. A draw depends on the `seed`, the sample, the repeat and the
    position alone. Each sample is asked `repeats` times.
    """

    max_new_tokens: int
    beams: int = 1
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    # Not in the text of a decoding, which is part of the fingerprints of earlier scorings.
    temperature: float = field(default=0.0, repr=False)
    top_p: float = field(default=1.0, repr=False)
    top_k: int = field(default=0, repr=False)
    seed: int = field(default=0, repr=False)
    repeats: int = field(default=1, repr=False)

    @property
    def drawn(self) -> str:
        """What is drawn, as text; empty for answers that are the most likely ones."""
        if self.temperature == 0:
            return ""
        parts = [f"temperature {self.temperature:g}"]
        parts += [f"top_p {self.top_p:g}"] if self.top_p < 1 else []
        parts += [f"top_k {self.top_k}"] if self.top_k else []
        parts += [f"seed {self.seed}"]
        parts += [f"{self.repeats} repeats"] if self.repeats > 1 else []
        return ", ".join(parts)

    def draw_of(self, sample: str, repeat: int) -> int:
        """Return the key of an answer's draws, for a sample's id and the number of the repeat, from 0."""
        return derive_seed("answer", self.seed, sample, repeat) >> (64 - _BITS)


class DecodingChanges(Document):
    """What replaces parts of a task's decoding; a key that is not given keeps the task's. A bare word is `like`.

    `like` names one of the task's cheaper decodings, which the other keys then change.
    """

    like: str | None = None
    max_new_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    beams: int | None = Field(default=None, ge=1, le=1_000)
    repetition_penalty: float | None = Field(default=None, gt=0, le=1_000)
    stop: list[str] | None = None
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    repeats: int | None = Field(default=None, ge=1, le=1_000)

    later: ClassVar[frozenset[str]] = frozenset(
        {"like", "max_new_tokens", "beams", "repetition_penalty", "stop", "temperature", *_OF_DRAWS}
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, given: Any) -> Any:
        return {"like": given} if isinstance(given, str) else given

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, plain: SerializerFunctionWrapHandler) -> Any:
        given = {key: value for key, value in plain(self).items() if value is not None}
        return given["like"] if given.keys() == {"like"} else given

    def applied(self, decoding: Decoding) -> Decoding:
        """Return a decoding with these changes; drawn answers have one beam.

        Raises TaskError for draws with several beams, and for what has no effect without a temperature.
        """
        given = dict(self.given)
        given.pop("like", None)
        if self.stop is not None:
            given["stop"] = tuple(self.stop)
        changed = replace(decoding, **given)
        if changed.temperature > 0 and self.beams is None:
            changed = replace(changed, beams=1)
        if changed.temperature > 0 and changed.beams > 1:
            raise TaskError(
                f"decoding: a temperature draws one answer, and beams is {changed.beams}. Leave one of them out."
            )
        if changed.temperature == 0 and (idle := next((key for key in _OF_DRAWS if key in self.given), None)):
            raise TaskError(
                f"decoding: {idle} has no effect on the most likely answers. Set a temperature, or leave {idle} out."
            )
        return changed

    @property
    def given(self) -> Mapping[str, Any]:
        """The keys that are given, with their values."""
        values = {key: getattr(self, key) for key in type(self).model_fields}
        return {key: value for key, value in values.items() if value is not None}
