"""`evovlm push CHECKPOINT REPO_ID`: publish a merged model on the hub, with its model card."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.rendering import echo, echo_json

if TYPE_CHECKING:
    from evovlm.runs.publishing import Publication


def push(
    checkpoint: Annotated[Path, typer.Argument(help="A model folder that `evovlm merge` wrote.")],
    repo_id: Annotated[str, typer.Argument(help="The repository: OWNER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Keep the repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Publish without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Publish a merged model on the hub, with its model card.

    Files, sizes and licence are shown first, and you are asked.
    """
    from evovlm.cli.signals import stopping
    from evovlm.errors import ConfigError
    from evovlm.runs.publishing import check_repo_id, check_sending, look_at_publication, publish

    check_repo_id(repo_id)
    found = look_at_publication(checkpoint)
    _describe(found, repo_id, private=private)
    url: str | None = None
    if not dry_run:
        check_sending(repo_id)
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError(
                    "without a terminal nothing can be asked. Add --yes to publish, or --dry-run to look only."
                )
            typer.confirm(f"publish this as {repo_id}?", abort=True, err=True)
        with stopping():
            _show_progress_on_terminals_only()
            url = publish(found, repo_id, private=private)
    if as_json:
        result = {"repo_id": repo_id, "url": url, "private": private, "published": url is not None}
        about = {"files": dict(found.files), "left_out": list(found.left_out), "size_bytes": found.size_bytes}
        echo_json({**result, **about, "licence": found.licence, "warnings": list(found.warnings)})
    else:
        echo("nothing was sent (--dry-run)." if url is None else url)


def _describe(found: "Publication", repo_id: str, *, private: bool) -> None:
    """Print on the standard error what is going to be sent."""
    from rich.filesize import decimal

    def say(text: str) -> None:
        echo(text, err=True)

    say(f"{found.folder} -> {repo_id} ({'private' if private else 'public'})")
    for name, size_bytes in found.files.items():
        say(f"  {decimal(size_bytes):>12}  {name}")
    say(f"  {decimal(found.size_bytes):>12}  in {len(found.files)} files")
    if found.left_out:
        say(f"left out: {', '.join(found.left_out)}")
    say(f"licence: {found.licence}")
    for warning in found.warnings:
        say(f"warning: {warning}")


def _show_progress_on_terminals_only() -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
