"""The text of a first config of a search, with comments: what `evovlm init` writes."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evovlm.files import expanded
from evovlm.recipes.model_ref import ModelRef, parse_model_ref
from evovlm.recipes.yaml_text import scalar_text
from evovlm.runs.config.sections import MOST
from evovlm.tasks.own.task_file import is_own_task
from evovlm.texts.languages import Say, speaker

Kind = Literal["llm", "vlm"]
KINDS: tuple[Kind, ...] = ("llm", "vlm")

GENERATIONS = 10
"""Of a new search: enough to evolve, and a number to raise."""

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSearch:
    """What is known of a new search; models and own tasks are written as seen from the current folder.

    `host` is None for the base. `chat_template` names the source whose chat template the result takes, `prompts` the
    prompts of tasks that do not keep their own. `blocks` is the models' number of blocks. The budget is a number of
    `generations`, or of `candidates` where that is given. Comments are in the `language`.
    """

    kind: Kind
    base: str
    host: str | None
    sources: Mapping[str, str]
    method: str
    tasks: tuple[str, ...]
    blocks: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    generations: int = GENERATIONS
    candidates: int | None = None
    device: str = "auto"
    language: str = "en"


def source_name(model: str) -> str:
    """Return a name for a source, from the last part of its model: `zoo:math-a` -> `math-a`."""
    last = re.split(r"[/:]", model.rstrip("/").partition("@")[0])[-1]
    return _NO_NAME.sub("-", last).strip("-_") or "source"


def search_text(new: NewSearch, *, folder: Path, file: Path, population: int | None = None) -> str:
    """Return the config as commented YAML for a file of `folder`; without a `population`, its budget is a placeholder.

    `population` is the number of candidates of a generation, which only the config knows.
    """
    base, host = _model(new.base, folder), None if new.host is None else _model(new.host, folder)
    say = speaker(new.language)
    host_lines = [f"  host: {host}    # {say('config_host')}"] if host else []
    if new.chat_template is not None:
        host_lines.append(f"  chat_template: {scalar_text(new.chat_template)}    # {say('config_template')}")
    sources = [f"    {name}: {_model(model, folder)}" for name, model in new.sources.items()]
    return "\n".join(
        [
            f"# {say(f'config_{new.kind}')}",
            "#",
            f"#     evovlm check {file}                       # {say('config_check')}",
            f"#     evovlm evolve {file} --out runs/{file.stem}",
            "format: 1",
            "kind: evolve",
            f"seed: 0                     # {say('config_seed')}",
            "merge:",
            f"  base: {base}    # {say('config_base')}",
            *host_lines,
            f"  sources:                  # {say('config_sources')}",
            *sources,
            f"  method: {scalar_text(new.method)}         # {say('config_method')}",
            f"  seed: 42                  # {say('config_draws')}",
            f"space: {_space(new, say)}",
            f"optimizer: {{kind: cma}}      # {say('config_optimizer')}",
            _budget(new, population, say),
            f"tasks:                      # {say('config_tasks')}",
            *(_task_line(new, task, folder) for task in new.tasks),
            f"winner: best                # {say('config_winner')}",
            f"device: {scalar_text(new.device)}                # auto, cpu, cuda, cuda:1",
            "",
        ]
    )


def _budget(new: NewSearch, population: int | None, say: Say) -> str:
    about = say("config_candidate")
    if new.candidates is not None or population is None:
        return f"budget: {{candidates: {new.candidates or MOST}}}    # {about}"
    candidates = new.generations * population
    about = say("config_budget", generations=new.generations, population=population, candidate=about)
    return f"budget: {{candidates: {candidates}}}    # {about}"


def _task_line(new: NewSearch, task: str, folder: Path) -> str:
    prompt = f", prompt: {scalar_text(new.prompts[task])}" if task in new.prompts else ""
    return f"  - {{name: {_task(task, folder)}{prompt}}}"


_KNOTS = 3


def _space(new: NewSearch, say: Say) -> str:
    if new.kind == "vlm" or new.blocks < 2:
        return f"{{kind: model, weight: [0, 1], density: [0, 1]}}    # {say('config_space_model')}"
    # Better in fewer candidates than numbers per layer (benchmarks/LOG.md).
    knots = min(_KNOTS, new.blocks)
    space = f"{{kind: interpolated, knots: {knots}, weight: [0, 1], density: [0, 1]}}"
    return f"{space}    # {say('config_space_layers')}"


def _model(text: str, folder: Path) -> str:
    def written(part: ModelRef, local: Path | None) -> str:
        return part.text if local is None else path_from(folder, local)

    return scalar_text(parse_model_ref(text, relative_to=None).rewritten(written))


def _task(name: str, folder: Path) -> str:
    return scalar_text(path_from(folder, Path(name)) if is_own_task(name) else name)


def path_from(folder: Path, path: Path) -> str:
    """Return a path as it is written in a file of `folder`: always with a slash."""
    written = Path(os.path.relpath(expanded(path).resolve(), folder.resolve())).as_posix()
    return written if written == "." or written.startswith("..") else f"./{written}"
