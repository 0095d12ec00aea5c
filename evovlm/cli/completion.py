"""Completions of names on the command line. They run at every press of a key, so torch is never loaded."""


def complete_tasks(incomplete: str) -> list[str]:
    """Return the tasks that begin with the text; in a list with commas, the last one is completed."""
    from evovlm.tasks.catalogue import TASKS

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in TASKS if name.startswith(last)]


def complete_models(incomplete: str) -> list[str]:
    """Return the embedded models that begin with the text, also after `NAME=`; the shell completes folders."""
    from evovlm.assets import asset_path

    before, sign, model = incomplete.rpartition("=")
    names = sorted(f"zoo:{path.parent.name}" for path in asset_path("zoo").glob("*/config.json"))
    return [f"{before}{sign}{name}" for name in names if name.startswith(model)]


def complete_metrics(incomplete: str) -> list[str]:
    """Return the metrics that begin with the text."""
    from evovlm.tasks.metrics.table import METRICS

    return [name for name in METRICS if name.startswith(incomplete)]


def complete_gates(incomplete: str) -> list[str]:
    """Return the language gates, and `none`, that begin with the text."""
    from evovlm.tasks.metrics.japanese import GATES

    return [name for name in (*GATES, "none") if name.startswith(incomplete)]


def complete_prompts(incomplete: str) -> list[str]:
    """Return the prompts that begin with the text."""
    from evovlm.tasks.prompts import CHAT, PROMPTS

    return [name for name in (CHAT, *PROMPTS) if name.startswith(incomplete)]


def complete_extractors(incomplete: str) -> list[str]:
    """Return the ways to read numbers that begin with the text."""
    from evovlm.tasks.metrics.answers import EXTRACTORS

    return [name for name in EXTRACTORS if name.startswith(incomplete)]


def complete_methods(incomplete: str) -> list[str]:
    """Return the merge methods that begin with the text."""
    from evovlm.merging.arithmetic.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]
