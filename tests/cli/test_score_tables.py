"""Scores shown at any width, whatever stands in the names."""

import io

import pytest
from rich.console import Console

from evovlm.cli.tables import comparison_text, print_scores, unscored_lines
from evovlm.evaluation.comparison import compare
from evovlm.recipes.candidate import TaskScore

HOSTILE = "[red]数学[/]\x1b]0;owned\x07"
SCORE = TaskScore(score=0.5, ungated=1.0, japanese=0.5, per_sample=(1.0, 0.0), n=2, unscored=1)


def printed(width: int) -> str:
    """Return what is printed of a score on a terminal of this width."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, no_color=True)
    print_scores(console, HOSTILE, [(HOSTILE, SCORE), ("  [/]", SCORE)], of="model")
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_every_figure_and_name_is_shown_at_any_width(width: int) -> None:
    text = printed(width)
    for name in ("[red]数学[/]", "  [/]"):
        assert name in text
    # A narrow terminal gets lines that end between words.
    words = " ".join(text.split())
    for figure in ("50.0", "9.5 - 90.5", "100.0", "50 %", "unscored"):
        assert figure in words
    assert "…" not in text
    assert "\x1b]" not in text
    assert "\x07" not in text


def test_columns_of_full_width_names_are_aligned() -> None:
    from rich.cells import cell_len

    rows = [line for line in printed(120).splitlines() if "90.5" in line]
    assert len({cell_len(line[: line.index("90.5")].replace("\x1b[0m", "")) for line in rows}) == 1


def test_a_comparison_shows_which_way_it_goes() -> None:
    text = comparison_text("a", "b", compare([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], binary=True))
    assert text.startswith("a - b: +33.3 (95 % interval +0.0 to +")
    assert text.endswith("p = 1 (McNemar, exact); better on 1, worse on 0, equal on 2 of 3 samples")


def test_reasons_are_reported_with_their_samples_and_many_are_summed_up() -> None:
    assert unscored_lines({}, n=3) == []
    assert unscored_lines({"no number found": ("a", "b", "c", "d")}, n=9) == [
        "4 of 9 unscored: no number found (a, b, c, ...)"
    ]
    lines = unscored_lines({f"reason {number}": (str(number),) for number in range(40)}, n=50)
    assert len(lines) == 6
    assert lines[-1] == "35 of 50 unscored for other reasons (--save lists all)"
