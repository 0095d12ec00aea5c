"""Tokens drawn at a temperature, each from one number that depends on its answer and its position alone.

The numbers come from a counter: no generator's state is shared, so that an answer does not depend on what is decoded
beside it, on the batch, or on the order. Sources: splitmix64 (Steele et al. 2014), nucleus sampling (Holtzman et al.
2020, section 3.1).
"""

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 24


class DrawSettings(Protocol):
    """The part of a decoding that says how tokens are drawn."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def top_k(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How a token is drawn: of the `top_k` likeliest (0: all), from the fewest with the share `top_p`."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0

    @classmethod
    def of(cls, settings: DrawSettings) -> Self | None:
        """Return how the tokens of a decoding are drawn; None where the likeliest ones are taken."""
        if settings.temperature == 0:
            return None
        return cls(temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k)

    def tokens(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Return a token for each row of logits, (rows, vocabulary), by its number in [0, 1), (rows,); int64."""
        scores = logits.float() / self.temperature
        order = None
        if 0 < self.top_k < scores.shape[1]:
            scores, order = scores.topk(self.top_k)
        elif self.top_p < 1:
            scores, order = scores.sort(descending=True, stable=True)
        shares = scores.softmax(-1)
        sums = shares.cumsum(-1)
        last = shares.new_full((len(shares), 1), shares.shape[1] - 1, dtype=torch.long)
        if self.top_p < 1:
            # The token that passes the share is the last one kept.
            last = (sums - shares < self.top_p).sum(-1, keepdim=True) - 1
        reached = numbers[:, None] * sums.gather(1, last)
        place = torch.searchsorted(sums, reached, right=True).minimum(last)
        return (place if order is None else order.gather(1, place))[:, 0]


class Draws:
    """The draws of `n_slots` answers at a time; each answer has its key, and its next position."""

    def __init__(self, draw: Draw, *, n_slots: int, device: torch.device) -> None:
        self._draw = draw
        self._keys = torch.zeros(n_slots, dtype=torch.long, device=device)
        self._positions = torch.zeros_like(self._keys)

    def enter(self, slot: int, key: int) -> None:
        """Begin an answer in a slot."""
        self._keys[slot] = key
        self._positions[slot] = 0

    def tokens(self, logits: Tensor, slots: Any) -> Tensor:
        """Return the next token of each slot's answer; a slot that is named twice gets the same one twice."""
        positions = self._positions[slots]
        self._positions[slots] = positions + 1
        return self._draw.tokens(logits, uniform(self._keys[slots], positions))


def uniform(keys: Tensor, positions: Tensor) -> Tensor:
    """Return a number in [0, 1) for each key and position (int64): splitmix64's, of 24 bits, in float32."""
    mixed = keys + (positions + 1) * _signed(_GAMMA)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(_FIRST)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(_SECOND)
    mixed = mixed ^ _shifted(mixed, 31)
    return _shifted(mixed, 64 - _BITS).float().div(2**_BITS)


def _signed(number: int) -> int:
    """Return the int64 with the bits of an unsigned number; products of int64 wrap around."""
    return number - 2**64 if number >= 2**63 else number


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Shift to the right as unsigned numbers."""
    return numbers.bitwise_right_shift(bits).bitwise_and(2 ** (64 - bits) - 1)
