"""The kinds of search, and reading the config of one.

`merge.kind` of a config says which kind it is. A kind is one class, which reads its part of the config and gives the
space that is searched; a further one is one file, and one row of `BUILT_IN_KINDS`.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.plugins import PluginTable
from evovlm.recipes.problems import did_you_mean, problems_in, report_places, report_problems
from evovlm.recipes.yaml_text import read_yaml
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.config.search import SearchConfig

PARAMETERS = "parameters"
"""The kind of a merge that does not name one."""

BUILT_IN_KINDS: Mapping[str, type[SearchConfig]] = {PARAMETERS: EvolveConfig, "layer_path": PathConfig}
"""evovlm's own kinds; the table of spaces lists what each can search."""

SEARCH_KINDS: Mapping[str, type[SearchConfig]] = PluginTable("evovlm.searches", BUILT_IN_KINDS, row_type=type)
"""The class that reads a config, by its `merge.kind`."""


def load_config(path: Path) -> SearchConfig:
    """Return the config in the YAML file `path`. Raises ConfigError with all problems of the file.

    A model must be an existing folder, an embedded model, or what may be a hub id; a task's data must exist.
    """
    return config_from_text(read_yaml(path), path)


def config_from_text(document: object, path: Path) -> SearchConfig:
    """Return the config of `document`, which was read from the YAML file `path`; see `load_config`."""
    model = _model_of(document)
    if model is None:
        hint = did_you_mean(_kind_of(document), SEARCH_KINDS)
        raise report_places(path, [(("merge", "kind"), f"merge.kind: unknown kind '{_kind_of(document)}'{hint}")])
    try:
        config = model.model_validate(document, context={"methods": METHODS, "folder": path.parent})
    except ValidationError as error:
        raise report_problems(path, error, model=model) from error
    check_budget(config, path=path)
    return config


def check_budget(config: SearchConfig, *, path: Path) -> None:
    """Raise ConfigError, naming the file, when the host is unclear or the budget does not hold a whole generation."""
    try:
        # The models may have more blocks, and a generation then more candidates: `check` and `evolve` look again.
        blocks = config.least_blocks(relative_to=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: merge.{error}") from error
    try:
        resolved = config.model_copy(update={"merge": config.resolved_merge(relative_to=path.parent)})
        config.population(dim=resolved.whole_space(blocks).dim)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_from_mapping(mapping: Mapping[str, object]) -> SearchConfig:
    """Return the config that plain values make, as `as_mapping` gives them.

    Raises ConfigError for what this version does not read.
    """
    model = _model_of(mapping)
    if model is None:
        problems = f"merge.kind: unknown kind '{_kind_of(mapping)}'"
    else:
        try:
            return model.model_validate(dict(mapping), context={"methods": METHODS})
        except ValidationError as error:
            problems = "; ".join(text for _, text in problems_in(error))
    raise ConfigError(
        f"this version of evovlm cannot read the recorded config: {problems}.\n"
        "    Continue with the version that wrote it, or start a new run."
    )


def _model_of(document: object) -> type[SearchConfig] | None:
    """Return the class that reads a config; None for a kind that is not in the table."""
    return SEARCH_KINDS.get(_kind_of(document))


def _kind_of(document: object) -> str:
    merge = document.get("merge") if isinstance(document, Mapping) else None
    kind = merge.get("kind") if isinstance(merge, Mapping) else None
    return kind if isinstance(kind, str) else PARAMETERS
