"""Marks that several tests share."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick_and_slow(values: Iterable[Any], *, quick: int) -> list[Any]:
    """Return the parameters of a test: the first ones as they are, and the others, which try the same, marked slow."""
    every = [*values]
    return [*every[:quick], *(_slow(value) for value in every[quick:])]


def _slow(value: Any) -> Any:
    if hasattr(value, "marks"):
        return pytest.param(*value.values, marks=[*value.marks, pytest.mark.slow], id=value.id)
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
