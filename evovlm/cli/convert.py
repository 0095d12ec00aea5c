"""`evovlm convert MODEL --out DIR`: rewrite pickles as safetensors, LLaVA-1.6 for one view, mergekit-evolve's file."""

from pathlib import Path
from typing import Annotated

import typer

from evovlm.cli.rendering import echo, echo_json


def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder or a hub id with pickled weights (*.bin), or a config of mergekit-evolve (*.yaml); with "
            "--single-view a LLaVA-1.6."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The new folder for the model, or the new file for the search.")],
    single_view: Annotated[
        bool,
        typer.Option(
            "--single-view",
            help="Rewrite a LLaVA-1.6 (LLaVA-NeXT) as a LLaVA that sees one view of a picture, without tiles.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Rewrite pickled weights (*.bin) as safetensors.

    Pickles that contain more than tensors are refused, and nothing in them is run. A config of mergekit-evolve becomes
    the config of a search. With --single-view, a LLaVA-1.6 becomes a LLaVA, as in the paper's evaluation.
    """
    from evovlm.cli.progress import Waiting
    from evovlm.files import refuse_existing
    from evovlm.recipes.model_ref import parse_model_ref

    if Path(model).suffix in (".yaml", ".yml") and not single_view:
        from evovlm.runs.config.genome import convert_genome

        convert_genome(Path(model), out)
        if as_json:
            echo_json({"file": str(out)})
        else:
            echo(f"{out}\n\nNext:\n  evovlm check {out}")
        return

    ref = parse_model_ref(model, relative_to=None)
    # A wrong name is reported before torch is loaded, which takes seconds.
    ref.find()
    refuse_existing(out)
    with Waiting(f"rewriting {model}"):
        from evovlm.merging.checkpoint.conversion import convert_checkpoint
        from evovlm.merging.checkpoint.single_view import write_single_view

        converted = (write_single_view if single_view else convert_checkpoint)(ref, out)
    for note in converted.notes:
        echo(f"warning: {note}", err=True)
    if as_json:
        result = {
            "folder": str(converted.folder),
            "files": list(converted.files),
            "n_tensors": converted.n_tensors,
            "size_bytes": converted.size_bytes,
        }
        echo_json(result)
        return
    echo(
        f"{converted.folder}\n  {converted.n_tensors} tensors in {len(converted.files)} safetensors "
        f"file{'s' if len(converted.files) > 1 else ''}, {converted.size_bytes / 1e6:.1f} MB"
    )
