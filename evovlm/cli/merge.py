"""`evovlm merge RECIPE --out DIR`: write the model that a recipe describes."""

import re
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.rendering import echo, echo_json
from evovlm.errors import ConfigError

if TYPE_CHECKING:
    from evovlm.merging.writer import WrittenCheckpoint

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}
_SIZE = re.compile(r"\s*(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>[a-z]*)\s*", re.ASCII | re.IGNORECASE)


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML).")],
    out: Annotated[Path, typer.Option("--out", help="The folder for the model.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing model folder, once the new one is complete.")
    ] = False,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", help="The largest size of a weight file: 5GB, 500MB, 2GiB or bytes.")
    ] = "5GB",
    allow_non_finite: Annotated[
        bool, typer.Option("--allow-non-finite", help="Also merge models that contain NaN or infinite numbers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Merge models as a recipe says, into a folder for transformers."""
    from evovlm.cli.progress import WriteProgress
    from evovlm.cli.rendering import result_text
    from evovlm.cli.signals import stopping

    shard_bytes = parse_size(max_shard_size, option="--max-shard-size")
    progress = WriteProgress(title=f"writing {out.name}")
    # Inside `stopping`: users may interrupt the loading of the numerical libraries, too.
    with stopping(f"stopped; nothing was written to {out}."), closing(progress):
        from evovlm.evaluation.loadable import check_loads
        from evovlm.merging.arithmetic.methods import METHODS
        from evovlm.merging.before.preflight import preflight_recipe
        from evovlm.merging.writer import write_checkpoint
        from evovlm.recipes.documents import load_recipe

        loaded = load_recipe(recipe, methods=METHODS, on_note=lambda note: echo(f"warning: {note}", err=True))
        # Models that do not fit are refused before their weights are fetched.
        found = preflight_recipe(loaded, out=out, may_exist=overwrite)
        found.raise_problems()
        # In parameter space the result is as large as its host.
        if found.result is not None and loaded.path is not None:
            echo(f"the result: {result_text(found.result)}", err=True)
        written = write_checkpoint(
            loaded,
            out,
            shard_bytes=shard_bytes,
            overwrite=overwrite,
            allow_non_finite=allow_non_finite,
            check=check_loads,
            observer=progress,
        )
    for warning in written.warnings:
        echo(f"warning: {warning}", err=True)
    if as_json:
        echo_json(_as_json(written))
    else:
        echo(_as_text(written))


def _as_json(written: "WrittenCheckpoint") -> dict[str, object]:
    return {
        "folder": str(written.folder),
        "recipe_id": written.recipe_id,
        "n_merged": written.n_merged,
        "n_copied": written.n_copied,
        "size_bytes": written.size_bytes,
        "warnings": list(written.warnings),
    }


def _as_text(written: "WrittenCheckpoint") -> str:
    return (
        f"{written.folder}\n"
        f"  recipe {written.recipe_id}: {written.n_merged} tensors merged, {written.n_copied} copied from the host, "
        f"{written.size_bytes / 1e6:.1f} MB"
    )


def parse_size(text: str, *, option: str) -> int:
    """Return the number of bytes in `text`; GB are 1000^3 bytes and GiB 1024^3, upper or lower case.

    Raises ConfigError, which names the option, for a text that is not a size of at least one byte.
    """
    found = _SIZE.fullmatch(text)
    if found is None or found["unit"].upper() not in _UNITS:
        raise ConfigError(f"{option}: '{text}' is not a size; write 5GB, 500MB, 2GiB or a number of bytes.")
    size_bytes = int(Decimal(found["number"]) * _UNITS[found["unit"].upper()])
    if size_bytes < 1:
        raise ConfigError(f"{option}: '{text}' is less than a byte; write 5GB, 500MB, 2GiB or a number of bytes.")
    return size_bytes
