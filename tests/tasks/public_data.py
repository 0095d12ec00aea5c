"""Public data that lies beside the checkout on some machines and is never part of it."""

from pathlib import Path

import pytest

PUBLIC_DATA = Path(__file__).parents[3] / "shared" / "data"


def public_file(name: str) -> Path:
    """Return a file of the public data, or skip the test."""
    path = PUBLIC_DATA / name
    if not path.exists():
        pytest.skip(f"the public data {name} is not at {PUBLIC_DATA}")
    return path
