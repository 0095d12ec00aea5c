"""docs/scaling.md shows the tables that its figures are computed in."""

from pathlib import Path

import pytest

from tests.scaling_figures import tables

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


@pytest.mark.slow
def test_the_computed_tables_are_those_of_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for table in tables().strip().split("\n\n"):
        assert table in text
