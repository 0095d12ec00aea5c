"""Reads JSON that may come from anyone: bounded in size and depth, its numbers finite, its texts real characters."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from evovlm.files import read_foreign

LIMIT_BYTES = 1_000_000_000
"""Far more than any journal or file of predictions has."""
_DEEPEST = 100
_MOST = 2**53
# More digits than the largest float64 has: int() would take long, or raise an error about a limit of Python.
_LONG = re.compile("[0-9]{301}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(
    text: str | bytes, *, non_finite: bool = False, unique_keys: bool = False, as_cells: bool = False
) -> object:
    """Return what a JSON text says; `non_finite` also reads NaN and Infinity, as Python and pandas write them.

    Raises ValueError for what is not JSON, is nested more than 100 levels deep, has a number that is not finite or too
    large for a float64, half a surrogate pair, bytes that are not UTF-8, or with `unique_keys` a key twice. With
    `as_cells` the caller looks for deep values and half pairs, and can say in which cell they are.
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        found = json.loads(
            decoded,
            parse_float=None if non_finite else _finite,
            parse_int=_whole if _LONG.search(decoded) else None,
            parse_constant=None if non_finite else _not_finite,
            object_pairs_hook=_without_repeats if unique_keys else None,
        )
    except RecursionError as error:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep") from error
    if as_cells:
        return found
    if decoded.count("[") + decoded.count("{") > _DEEPEST:
        _check_depth(found)
    if _SURROGATE.search(decoded):
        # Raises UnicodeEncodeError, a ValueError, unless every half has its other half.
        json.dumps(found, ensure_ascii=False).encode()
    return found


def read_json(path: Path, *, limit_bytes: int = LIMIT_BYTES, non_finite: bool = False) -> object:
    """Return what a JSON file says; see `parse_json`. Raises OSError as `read_foreign` does."""
    return parse_json(read_foreign(path, limit_bytes=limit_bytes), non_finite=non_finite)


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A JSON object whose values are read with a check of their types; `where` says where it is, ending in a dot.

    Every method raises ValueError, which names the key and the value, for a key that is missing or a value of another
    type or outside of the bounds. Values are returned as they are.
    """

    values: Mapping[str, Any]
    where: str = ""

    @classmethod
    def of(cls, found: object) -> Self:
        """Return what was parsed as an object."""
        if not isinstance(found, dict):
            raise ValueError(f"it is {_shown(json.dumps(found))}; it should be a JSON object")
        return cls(found)

    def number(self, key: str, *, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a number."""
        found: float = self._checked(key, lambda value: _is_number(value, low, high), _range("a number", low, high))
        return found

    def numbers(self, key: str, *, low: float = -math.inf, high: float = math.inf) -> tuple[float, ...]:
        """Return a list of numbers."""
        needed = f"a list of numbers{_range('', low, high)}"
        return tuple(self._checked(key, lambda value: _are(value, lambda each: _is_number(each, low, high)), needed))

    def count(self, key: str, *, low: int = 0, high: int = _MOST) -> int:
        """Return a whole number."""
        needed = f"a whole number from {low} to {high}"
        found: int = self._checked(key, lambda value: _is_count(value, low, high), needed)
        return found

    def counts(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers from 0 on."""
        needed = "a list of whole numbers from 0 on"
        return tuple(self._checked(key, lambda value: _are(value, lambda each: _is_count(each, 0, _MOST)), needed))

    def text(self, key: str) -> str:
        """Return a text."""
        found: str = self._checked(key, lambda value: isinstance(value, str), "a text")
        return found

    def optional_text(self, key: str) -> str | None:
        """Return a text, or None for null."""
        return None if key in self.values and self.values[key] is None else self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        needed = "a list of texts"
        return tuple(self._checked(key, lambda value: _are(value, lambda each: isinstance(each, str)), needed))

    def texts_or_numbers(self, key: str) -> tuple[Any, ...]:
        """Return a list of which each part is a text, or a list of numbers."""
        needed = "a list of texts, or of lists of numbers"

        def holds(each: object) -> bool:
            return isinstance(each, str) or _are(each, lambda value: _is_number(value, -math.inf, math.inf))

        return tuple(self._checked(key, lambda value: _are(value, holds), needed))

    def objects(self, key: str) -> "tuple[JsonObject, ...]":
        """Return a list of objects."""
        found = self._checked(key, lambda value: _are(value, lambda each: isinstance(each, dict)), "a list of objects")
        return tuple(JsonObject(each, where=f"{self.where}{key}[{number}].") for number, each in enumerate(found))

    def flag(self, key: str) -> bool:
        """Return true or false."""
        found: bool = self._checked(key, lambda value: isinstance(value, bool), "true or false")
        return found

    def inside(self, key: str) -> "JsonObject":
        """Return the object under a key."""
        found = self._checked(key, lambda value: isinstance(value, dict), "a JSON object")
        return JsonObject(found, where=f"{self.where}{key}.")

    def _checked(self, key: str, holds: Callable[[Any], bool], needed: str) -> Any:
        if key not in self.values:
            raise ValueError(f"{self.where}{key}: missing")
        found = self.values[key]
        if not holds(found):
            raise ValueError(f"{self.where}{key} is {_shown(json.dumps(found))}; it should be {needed}")
        return found


def _are(found: object, holds: Callable[[Any], bool]) -> bool:
    return isinstance(found, list) and all(map(holds, found))


def _is_number(found: object, low: float, high: float) -> bool:
    # Sums of larger ones may not be finite.
    return type(found) in (int, float) and low <= found <= high and abs(found) < 1e300  # type: ignore[operator, arg-type]


def _is_count(found: object, low: int, high: int) -> bool:
    return type(found) is int and low <= found <= high


def _range(what: str, low: float, high: float) -> str:
    if math.isinf(low):
        return what
    return f"{what} of at least {low:g}" if math.isinf(high) else f"{what} in [{low:g}, {high:g}]"


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {_shown(text)} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > 300:
        raise ValueError(f"the number {_shown(text)} is too large")
    return int(text)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"it lists {_shown(twice)} twice")
    return found


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number that JSON has")


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


def _check_depth(found: object) -> None:
    level: list[Any] = [found] if type(found) in (dict, list) else []
    depth = 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        level = [
            value
            for each in level
            for value in (each.values() if type(each) is dict else each)
            if type(value) in (dict, list)
        ]
