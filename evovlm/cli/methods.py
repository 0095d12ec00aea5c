"""`evovlm methods`: list the merge methods."""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.rendering import echo

if TYPE_CHECKING:
    from evovlm.merging.arithmetic.methods import Method

_WIDTH = 100


def methods(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the merge methods. Each with its paper, the models it takes, its parameters and its settings."""
    from evovlm.merging.arithmetic.methods import METHODS

    if as_json:
        echo(json.dumps([_row(method) for method in METHODS.values()], ensure_ascii=False, allow_nan=False), whole=True)
        return
    from rich.console import Console

    from evovlm.cli.tables import plain_table

    # A terminal may be narrower; other outputs take the full width.
    console = Console()
    console.width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    table = plain_table(apart=True)
    table.add_column("method", min_width=18)
    table.add_column("models", min_width=9, max_width=16)
    table.add_column("parameters (default)", min_width=18)
    table.add_column("settings (default)", min_width=19)
    for method in METHODS.values():
        table.add_row(
            f"[bold]{method.name}[/bold]\n{method.summary}\n[dim]{method.paper}[/dim]",
            _models(method),
            "\n".join(_parameters(method)),
            "\n".join(f"{name} ({_shown(value)})" for name, value in _settings(method).items()),
        )
    console.print(table)


def _row(method: "Method") -> Mapping[str, object]:
    from evovlm.recipes.source_values import SOURCE_PARAMETERS

    least, most = method.sources
    return {
        "name": method.name,
        "summary": method.summary,
        "paper": method.paper,
        "base": method.base,
        "needs_base": method.needs_base,
        "sources": {"least": least, "most": most},
        "parameters": [
            {
                "name": name,
                "low": _bound(SOURCE_PARAMETERS[name].low),
                "high": _bound(SOURCE_PARAMETERS[name].high),
                "default": SOURCE_PARAMETERS[name].default,
                "meaning": SOURCE_PARAMETERS[name].meaning,
            }
            for name in method.parameters
        ],
        "settings": [{"name": name, "default": default} for name, default in _settings(method).items()],
    }


def _bound(number: float) -> float | None:
    """Return a bound as JSON can hold it: None for infinity."""
    return number if math.isfinite(number) else None


def _settings(method: "Method") -> Mapping[str, object]:
    """Return the settings that the method uses, by their names in a recipe, with the method's defaults."""
    from evovlm.recipes.recipe import MergeSettings

    defaults = MergeSettings(normalize=method.normalize)
    return {name.rstrip("_"): getattr(defaults, name) for name in sorted(method.settings)}


def _models(method: "Method") -> str:
    least, most = method.sources
    count = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
    if method.base == "optional":
        return f"{count}, base optional"
    return f"base + {count}" if method.needs_base else count


def _parameters(method: "Method") -> list[str]:
    from evovlm.recipes.source_values import SOURCE_PARAMETERS

    shown = []
    for name in method.parameters:
        parameter = SOURCE_PARAMETERS[name]
        bounded = math.isfinite(parameter.low) and math.isfinite(parameter.high)
        span = f"{parameter.low:g} to {parameter.high:g}" if bounded else "any number"
        shown.append(f"{name}: {span}" + ("" if parameter.default is None else f" ({parameter.default:g})"))
    return shown


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
