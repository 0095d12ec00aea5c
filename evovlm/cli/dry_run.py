"""`evovlm evolve CONFIG --out RUN --dry-run`: what the search would cost."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from evovlm.cli.memory_lines import memory_lines
from evovlm.cli.rendering import echo

if TYPE_CHECKING:
    from evovlm.runs.before.forecast import Forecast, Span
    from evovlm.runs.config.hybrid import HybridConfig
    from evovlm.runs.config.search import SearchConfig


def dry_run(config: "SearchConfig | HybridConfig", *, relative_to: Path, as_json: bool) -> None:
    """Print what a search, or each stage of a hybrid, would cost."""
    from evovlm.cli.progress import Waiting

    with Waiting("opening the models and trying a few samples"):
        from evovlm.runs.before.forecast import forecast_stages

        stages = forecast_stages(config.resolved(relative_to=relative_to))
    if as_json:
        found = {name: each.as_json() for name, each in stages.items()}
        # A search of one stage does not name it.
        echo(json.dumps(found.get("", found)), whole=True)
        return
    for name, each in stages.items():
        if name:
            echo(f"stage {name}:")
        _print(each)


def _print(found: "Forecast") -> None:
    from evovlm.cli.rendering import counted, duration
    from evovlm.merging.before.needs import gigabytes

    generations = "generations until patience ends it"
    if found.generations is not None:
        generations = counted(found.generations, "generation")
    echo(f"{found.genes} genes, {generations} of {found.population}: {found.candidates} candidates")
    echo(f"samples: {found.samples:,}")
    for task in found.tasks:
        echo(
            f"  {task.name}: {task.samples_per_candidate} a candidate, {task.samples:,} in all, "
            f"{_span(task.tokens_per_sample, '.0f')} tokens and {_span(task.seconds_per_sample, '.3g')} s a sample"
        )
    echo(f"tokens: {_span(found.tokens, ',.0f')}")
    echo(f"time: {duration(found.seconds.low)} to {duration(found.seconds.high)}, after opening the models")
    one, merge = _span(found.candidate_seconds, ".3g"), _span(found.merge_seconds, ".3g")
    echo(f"  a candidate: {one} s, of which merging takes {merge} s")
    for what, size in (
        ("to fetch", found.download_bytes),
        ("the journal", found.journal_bytes),
        ("a checkpoint of the winner", found.checkpoint_bytes),
        ("memory so far", found.memory_bytes),
        ("memory of the GPU so far", found.device_bytes),
    ):
        if size is not None:
            echo(f"{what}: {gigabytes(size)}")
    for line in memory_lines(found.memory) if found.memory is not None else ():
        echo(line)
    echo("assumed:")
    for assumption in found.assumptions:
        echo(f"  {assumption}")


def _span(span: "Span", form: str) -> str:
    low, high = format(span.low, form), format(span.high, form)
    return low if low == high else f"{low} to {high}"
