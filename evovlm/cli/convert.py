"""`evovlm convert MODEL --out DIR`: rewrite pickled weights as safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from evovlm.cli.rendering import echo, json_text


def convert(
    model: Annotated[str, typer.Argument(help="A folder or a hub id with pickled weights (*.bin).")],
    out: Annotated[Path, typer.Option("--out", help="The new folder to write the model to.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Rewrite pickled weights (*.bin) as safetensors; pickles that contain more than tensors are refused."""
    from evovlm.cli.progress import Waiting
    from evovlm.files import refuse_existing
    from evovlm.recipes.model_ref import parse_model_ref

    ref = parse_model_ref(model, relative_to=None)
    # A wrong name is reported before torch is loaded, which takes seconds.
    ref.find()
    refuse_existing(out)
    with Waiting(f"rewriting {model}"):
        from evovlm.merging.checkpoint.conversion import convert_checkpoint

        converted = convert_checkpoint(ref, out)
    for note in converted.notes:
        echo(f"warning: {note}", err=True)
    if as_json:
        result = {
            "folder": str(converted.folder),
            "files": list(converted.files),
            "n_tensors": converted.n_tensors,
            "size_bytes": converted.size_bytes,
        }
        echo(json_text(result))
        return
    echo(
        f"{converted.folder}\n  {converted.n_tensors} tensors in {len(converted.files)} safetensors "
        f"file{'s' if len(converted.files) > 1 else ''}, {converted.size_bytes / 1e6:.1f} MB"
    )
