"""Compute how long a first search takes on a GPU; nothing is measured (docs/first-real-search.md has the table).

    python -m benchmarks.real_weights.forecast

The assumptions are those of benchmarks/reproduction_costs.py: one A100 with 80 GB, of which a share is reached.
"""

from collections.abc import Iterator

from benchmarks.reproduction_costs import COPY_BYTES_PER_SECOND, Questions

SIZES = (1, 3, 7)
"""Billions of parameters."""
SOURCES = 3
CANDIDATES = 70
SEARCHES = 9
"""Three searches with three seeds each."""
QUESTIONS = Questions(count=120, prompt=120, answer=150)
"""The search samples: short problems, solved step by step."""


def rows() -> Iterator[str]:
    """Yield the rows of the table: all weights in bfloat16, a candidate, one search, all searches."""
    for billions in SIZES:
        weights = (SOURCES + 1) * 2e9 * billions
        candidate = QUESTIONS.seconds(int(1e9 * billions)) + weights / COPY_BYTES_PER_SECOND
        minutes = CANDIDATES * candidate / 60
        costs = f"{candidate:.0f} s | {minutes:.0f} min | {SEARCHES * minutes / 60:.1f} h"
        yield f"| {billions}B | {weights / 1e9:.0f} GB | {costs} |"


if __name__ == "__main__":
    print("\n".join(rows()))
