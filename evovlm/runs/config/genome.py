"""mergekit-evolve's file as the config of a search.

genome: {models: [org/math, org/ja], merge_method: dare_ties, base_model: org/base, layer_granularity: 8}
tasks: [{name: gsm8k, metric: "exact_match,strict-match"}]
limit: 100

Weights and densities start where mergekit-evolve starts them (one share each, everything kept), CMA-ES has its step,
and DARE restores the L1 norm, as mergekit does. What it takes on the command line has its default: 100 candidates.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from evovlm.files import explained, new_file
from evovlm.recipes.mergekit.document import ModelText
from evovlm.recipes.mergekit.inputs import source_names
from evovlm.recipes.model_ref import count_blocks, parse_model_ref, read_config
from evovlm.recipes.problems import report_places, report_problems
from evovlm.recipes.yaml_text import KeyPath, read_yaml
from evovlm.tasks.harness_name import HARNESS

_CANDIDATES = 100
_COMPONENT_FILTERS = {"self_attn", "mlp"}
_SIGMA = 1 / 6


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GenomeSection(_Document):
    """`genome:`."""

    models: Annotated[list[ModelText], Field(min_length=1)]
    merge_method: Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]
    base_model: ModelText | None = None
    tokenizer_source: ModelText | None = None
    layer_granularity: Annotated[int, Field(ge=0)] = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False


class GenomeTask(_Document):
    """An entry of `tasks:`."""

    name: str
    weight: float = 1.0
    metric: str = "acc,none"


class GenomeDocument(_Document):
    """A file of mergekit-evolve."""

    genome: GenomeSection
    tasks: Annotated[
        list[Annotated[GenomeTask, BeforeValidator(lambda task: {"name": task} if isinstance(task, str) else task)]],
        Field(min_length=1),
    ]
    limit: Annotated[int, Field(ge=1)] | None = None
    num_fewshot: int | None = None
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False


def is_genome(document: object) -> bool:
    """Return whether the content of a YAML file is a config of mergekit-evolve."""
    return isinstance(document, Mapping) and "genome" in document and "kind" not in document


def search_of_genome(text: object, path: Path) -> dict[str, Any]:
    """Return the content of a search's config that means what `text`, read from mergekit-evolve's file `path`, means.

    Raises ConfigError with all problems of the file, and for what no search here does.
    """
    try:
        document = GenomeDocument.model_validate(text)
    except ValidationError as error:
        raise report_problems(path, error, model=GenomeDocument) from error
    problems = _problems(document)
    blocks = _blocks(document.genome, path.parent)
    if blocks is None and document.genome.smooth:
        problems.append(
            (("genome", "smooth"), "genome.smooth: needs the number of blocks, and no config.json of a model is here.")
        )
    if problems:
        raise report_places(path, problems)
    genome = document.genome
    return {
        "format": 1,
        "kind": "evolve",
        "merge": _merge(genome),
        "space": _space(genome, blocks),
        "optimizer": {"kind": "cma", "sigma": _SIGMA},
        "budget": {"candidates": _CANDIDATES},
        "tasks": [_task(task, limit=document.limit) for task in document.tasks],
        **({} if document.random_init or genome.merge_method == "slerp" else {"start": {"equal": _share(genome)}}),
    }


def convert_genome(path: Path, out: Path) -> None:
    """Write the new file `out`: the search that mergekit-evolve's file `path` means, with paths from its own folder.

    Raises OutputExists when the file exists, ConfigError as `search_of_genome` does.
    """
    search = search_of_genome(read_yaml(path), path)
    merge = search["merge"]
    for key in ("base", "host"):
        if key in merge:
            merge[key] = _from(out.parent, merge[key], path.parent)
    merge["sources"] = {name: _from(out.parent, text, path.parent) for name, text in merge["sources"].items()}
    config: str = yaml.safe_dump(search, sort_keys=False, allow_unicode=True)
    with new_file(out) as beside, explained(out):
        beside.write_text(f"# From {path.name}, a config of mergekit-evolve.\n{config}", encoding="utf-8")


def _from(folder: Path, text: str, read_from: Path) -> str:
    """Return a model's text for a file of `folder`."""
    local = parse_model_ref(text, relative_to=read_from).local_folder()
    if local is None or text.startswith("zoo:") or Path(text).is_absolute():
        return text
    relative = os.path.relpath(local.resolve(), folder.resolve())
    return relative if relative.startswith(".") else f"./{relative}"


def _share(genome: GenomeSection) -> float:
    return 1 / len(genome.models)


def _problems(document: GenomeDocument) -> list[tuple[KeyPath, str]]:
    genome = document.genome
    found: list[tuple[KeyPath, str]] = []

    def refuse(key: str, reason: str) -> None:
        found.append((("genome", key) if key in GenomeSection.model_fields else (key,), f"{key}: {reason}"))

    method = genome.merge_method
    if method not in ("linear", "slerp") and genome.base_model is None:
        refuse("base_model", f"missing; {method} takes differences from a base model.")
    if genome.base_model in genome.models and method != "linear":
        refuse("models", f"'{genome.base_model}' is the base, too; its task vector is 0. Remove it from the models.")
    if len(set(genome.models)) < len(genome.models):
        refuse("models", "a model is given twice.")
    if method == "slerp" and len(genome.models) != 2:
        refuse("models", f"slerp merges 2 here, not {len(genome.models)}; mergekit-evolve picks two in each slice.")
    if set(genome.filters or ()) not in (set(), _COMPONENT_FILTERS):
        refuse("filters", "a space by component has [self_attn, mlp], and not other parts of tensor names.")
    if document.num_fewshot is not None:
        refuse(
            "num_fewshot",
            f"a task of the harness has its own number of examples here. Write a task file that includes the task and "
            f"sets num_fewshot: {document.num_fewshot}, and name it as {HARNESS}FILE in a search's config.",
        )
    for key in ("shuffle", "apply_chat_template", "fewshot_as_multiturn"):
        if getattr(document, key):
            refuse(key, "tasks of the harness are asked in their order and as plain text here; remove the line.")
    return found


def _blocks(genome: GenomeSection, folder: Path) -> int | None:
    for text in genome.models:
        config = read_config(parse_model_ref(text, relative_to=folder))
        if config is not None and count_blocks(config) is not None:
            return count_blocks(config)
    return None


def _merge(genome: GenomeSection) -> dict[str, Any]:
    names = source_names(genome.models)
    sources = {names[text]: text for text in genome.models}
    base = genome.base_model
    found: dict[str, Any] = {"sources": sources, "method": genome.merge_method}
    if genome.merge_method == "slerp":
        first = genome.models[0]
        found = {"base": first, "sources": {names[text]: text for text in genome.models[1:]}, "method": "slerp"}
        base = base or first
    elif base is not None:
        found = {"base": base, **found} if genome.merge_method != "linear" else found
    found["host"] = base if base is not None else genome.models[0]
    settings: dict[str, Any] = {}
    if genome.merge_method != "slerp":
        averages = genome.merge_method in ("ties", "dare_ties", "linear")
        settings["normalize"] = averages if genome.normalize is None else genome.normalize
    if genome.merge_method == "dare_ties":
        settings["rescale"] = "l1"
    if settings:
        found["settings"] = settings
    return {**found, **_tokenizer(genome, host=found["host"])}


def _tokenizer(genome: GenomeSection, *, host: str) -> dict[str, Any]:
    source = genome.tokenizer_source
    if source is None:
        return {}
    if source in ("union", "base") or source == host:
        return {"vocabulary": "union" if source == "union" else "host"}
    return {"vocabulary": "host", "host": source}


def _space(genome: GenomeSection, blocks: int | None) -> dict[str, Any]:
    size = genome.layer_granularity
    tie: dict[str, Any] = {"kind": "model"}
    if size and genome.smooth and blocks is not None:
        tie = {"kind": "interpolated", "knots": max(2, blocks // size)}
    elif size == 1:
        tie = {"kind": "layer"}
    elif size:
        tie = {"kind": "grouped", "group": size}
    if genome.filters:
        tie["kind"] = "component" if tie["kind"] == "model" else f"component x {tie['kind']}"
    low = -1.0 if genome.allow_negative_weights and genome.merge_method != "slerp" else 0.0
    density = {"density": [0.0, 1.0]} if genome.merge_method in ("ties", "dare_ties") else {}
    return {**tie, "weight": [low, 1.0], **density}


def _task(task: GenomeTask, *, limit: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": f"{HARNESS}{task.name}#{task.metric}", "weight": task.weight}
    return found if limit is None else {**found, "limit": limit}
