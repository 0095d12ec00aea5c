"""A first config of a search, with comments: what `evovlm init` writes."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evovlm.errors import ConfigError
from evovlm.files import expanded, explained, new_file
from evovlm.recipes.model_ref import ModelRef, parse_model_ref
from evovlm.recipes.yaml_text import scalar_text
from evovlm.runs.config.hybrid import load_search
from evovlm.tasks.own.task_file import is_own_task

Kind = Literal["llm", "vlm"]
KINDS: tuple[Kind, ...] = ("llm", "vlm")

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSearch:
    """The models (`host` for a VLM), tasks and number of candidates of a new search.

    Models and own tasks are written as seen from the current folder.
    """

    kind: Kind
    base: str
    host: str | None
    sources: Mapping[str, str]
    method: str
    tasks: tuple[str, ...]
    candidates: int


def source_name(model: str) -> str:
    """Return a name for a source, from the last part of its model: `zoo:math-a` -> `math-a`."""
    last = re.split(r"[/:]", model.rstrip("/").partition("@")[0])[-1]
    return _NO_NAME.sub("-", last).strip("-_") or "source"


def write_search(new: NewSearch, path: Path) -> tuple[str, ...]:
    """Write the config to the new file `path`, with paths from its folder on; return what may surprise the user.

    Raises OutputExists when the file exists, OutputError when it cannot be written, ConfigError with all problems of
    the search that can be found without its models; nothing is written then.
    """
    with new_file(path) as beside:
        with explained(path):
            beside.write_text(search_text(new, folder=path.parent, file=path), encoding="utf-8")
        try:
            (config,) = load_search(beside).stages.values()
        except ConfigError as error:
            reasons = str(error).replace(str(beside), str(path))
            raise ConfigError(f"no search can be made of this, and nothing was written. {reasons}") from error
    resolved = config.resolved(relative_to=path.parent)
    return resolved.notes_for(resolved.whole_space(resolved.least_blocks(relative_to=None)))


def search_text(new: NewSearch, *, folder: Path, file: Path) -> str:
    """Return the config as commented YAML for a file of `folder`."""
    about, space = _KINDS[new.kind]
    base, host = _model(new.base, folder), None if new.host is None else _model(new.host, folder)
    host_lines = (
        [f"  host: {host}    # its config, tokenizer, processor and every tensor that is not merged"] if host else []
    )
    sources = [f"    {name}: {_model(model, folder)}" for name, model in new.sources.items()]
    tasks = [f"  - {{name: {_task(task, folder)}}}" for task in new.tasks]
    return "\n".join(
        [
            f"# {about}",
            "#",
            f"#     evovlm check {file}                       # does it all fit? no weights are fetched",
            f"#     evovlm evolve {file} --out runs/{file.stem}",
            "format: 1",
            "kind: evolve",
            "seed: 0                     # the same seed finds the same recipe",
            "merge:",
            f"  base: {base}    # what all sources were fine-tuned from",
            *host_lines,
            "  sources:                  # models of one ancestor; the names are yours",
            *sources,
            f"  method: {scalar_text(new.method)}         # `evovlm methods` lists them",
            "  seed: 42                  # of the random draws of DARE and DELLA",
            f"space: {space}",
            "optimizer: {kind: cma}      # `evovlm optimizers` lists them",
            f"budget: {{candidates: {new.candidates}}}    # each is one merge, scored on every task",
            "tasks:                      # `limit: 100` takes the first samples only; `weight: 2` counts a task twice",
            *tasks,
            "winner: best                # or mean, the distribution's",
            "device: auto                # cpu, cuda, cuda:1",
            "",
        ]
    )


_KINDS: Mapping[Kind, tuple[str, str]] = {
    "llm": (
        "A language model, evolved from several that were fine-tuned from one ancestor.",
        # Better in fewer candidates than numbers per layer (benchmarks/LOG.md).
        "{kind: interpolated, knots: 3, weight: [0, 1], density: [0, 1]}    # curves over layers; or layer, model",
    ),
    "vlm": (
        "A vision-language model: the language model inside a VLM merged with text models; its eyes stay as they are.",
        "{kind: model, weight: [0, 1], density: [0, 1]}    # one pair per source; `kind: layer` searches more",
    ),
}


def _model(text: str, folder: Path) -> str:
    def written(part: ModelRef, local: Path | None) -> str:
        return part.text if local is None else _from(folder, local)

    return scalar_text(parse_model_ref(text, relative_to=None).rewritten(written))


def _task(name: str, folder: Path) -> str:
    return scalar_text(_from(folder, Path(name)) if is_own_task(name) else name)


def _from(folder: Path, path: Path) -> str:
    """Return a path as it is written in a file of `folder`: always with a slash."""
    written = Path(os.path.relpath(expanded(path).resolve(), folder.resolve())).as_posix()
    return written if written.startswith("..") else f"./{written}"
