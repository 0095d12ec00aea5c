"""The config of a hybrid: a search in parameter space, whose winner is then the host of a search through layers.

format: 1
kind: hybrid
tasks: [{name: word_problems_ja}]
stages:
  ps:
    merge: {base: zoo:base, sources: {math: zoo:math-a, ja: zoo:ja}, method: dare_ties, seed: 42}
    budget: {candidates: 100}
  path:
    merge: {kind: layer_path, sources: {ja: zoo:ja}, scale_target: pending}
    space: {kind: path, scales: per_position}

Each stage is the config of a search without the keys that both share: seed, tasks, report, guard, device, and how they
are carried out. In the second stage, the winner of the first is called `ps`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from evovlm.errors import ConfigError
from evovlm.evaluation.engines.table import BUILTIN, ENGINES
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.documents import Document, StageDocument
from evovlm.recipes.kinds import PS, Recipe
from evovlm.recipes.model_ref import parse_model_ref
from evovlm.recipes.problems import did_you_mean, problems_in, report_places, report_problems
from evovlm.recipes.yaml_text import KeyPath, read_yaml
from evovlm.runs.config.execution import EXECUTION_KEYS
from evovlm.runs.config.genome import is_genome, search_of_genome
from evovlm.runs.config.kinds import check_budget, config_from_text
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.paths import UNKNOWN_HOST, PathConfig
from evovlm.runs.config.search import SearchConfig

KIND = "hybrid"
_RECIPES = ("parameter_merge", "layer_path")
PATH = "path"
"""What the second stage is called; the first is `ps`."""


class StagesSection(Document):
    """`stages:` of a hybrid, not yet checked."""

    ps: dict[str, Any]
    path: dict[str, Any]


class StagedConfigDocument(Document):
    """A hybrid's config as it is in a file; its stages and what they share are not yet checked."""

    format: Literal[1]
    kind: Literal["hybrid"]
    seed: Any = 0
    tasks: list[Any] = Field(min_length=1)
    report: Any = Field(default=[])
    guard: Any = None
    device: Any = "auto"
    engine: Any = "auto"
    tensor_parallel: Any = None
    workers: Any = 1
    ray: Any = None
    time_limit_s: Any = None
    judge: Any = None
    judge_calls: Any = None
    stages: StagesSection

    def stage(self, name: str) -> Mapping[str, Any]:
        """Return a stage as the config of a separate search."""
        shared = {key: getattr(self, key) for key in (*_SHARED, *EXECUTION_KEYS)}
        own: Mapping[str, Any] = getattr(self.stages, name)
        if name == PATH:
            # A path through layers runs on `builtin`, whatever the first stage runs on.
            shared |= {"engine": BUILTIN if self.engine in ENGINES else self.engine, "tensor_parallel": None}
        return {**own, **shared, "format": 1, "kind": "evolve"}


_SHARED = ("seed", "tasks", "report", "guard", "device", "judge")


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig:
    """Both stages; until the first one's winner is known, the second one's `merge.ps` is a stand-in for it."""

    ps: EvolveConfig
    path: PathConfig

    @property
    def stages(self) -> Mapping[str, SearchConfig]:
        """The searches that are carried out one after the other, by the name of their stage."""
        return {PS: self.ps, PATH: self.path}

    def resolved(self, *, relative_to: Path | None) -> "HybridConfig":
        """Return the same with every path absolute; see `SearchConfig.resolved`."""
        return HybridConfig(
            ps=self.ps.resolved(relative_to=relative_to), path=self.path.resolved(relative_to=relative_to)
        )

    def guarded(self, *, near_pictures: str | None, threshold: float | None) -> "HybridConfig":
        """Return the same with another guard; see `SearchConfig.guarded`."""
        return HybridConfig(
            ps=self.ps.guarded(near_pictures=near_pictures, threshold=threshold),
            path=self.path.guarded(near_pictures=near_pictures, threshold=threshold),
        )

    def with_engine(self, engine: str | None, *, tensor_parallel: int | None = None) -> "HybridConfig":
        """Return the same with another engine for the first stage; paths run on `builtin`."""
        return HybridConfig(ps=self.ps.with_engine(engine, tensor_parallel=tensor_parallel), path=self.path)

    def with_workers(self, workers: int | None) -> "HybridConfig":
        """Return the same with another number of workers; see `ExecutionConfig.with_workers`."""
        return HybridConfig(ps=self.ps.with_workers(workers), path=self.path.with_workers(workers))

    def logged(self, *trackers: str) -> "HybridConfig":
        """Return the same with further trackers for both stages; see `SearchConfig.logged`."""
        return HybridConfig(ps=self.ps.logged(*trackers), path=self.path.logged(*trackers))

    def stage(self, name: str, *, after: Recipe | None = None) -> SearchConfig:
        """Return the config of a stage; the second's is for the recipe that the first has found, `after`."""
        if name == PS or after is None:
            return self.stages[name]
        ps = StageDocument.model_validate(after.as_values(), context={"methods": METHODS})
        return self.path.model_copy(update={"merge": self.path.merge.model_copy(update={"ps": ps})})

    def as_mapping(self) -> Mapping[str, object]:
        """Return the config as plain values, with every default written out."""
        stages = {PS: dict(self.ps.as_mapping()), PATH: dict(self.path.as_mapping())}
        # A judge is written only where there is one.
        shared = {key: stages[PS][key] for key in _SHARED if key in stages[PS]}
        for stage in stages.values():
            for key in ("format", "kind", *shared):
                del stage[key]
        merge = stages[PATH]["merge"]
        if isinstance(merge, dict):
            del merge["ps"]
        return {"format": 1, "kind": KIND, **shared, "stages": stages}

    def to_yaml(self) -> str:
        """Return the config as YAML text that `load_search` reads back."""
        text: str = yaml.safe_dump(dict(self.as_mapping()), sort_keys=False, allow_unicode=True)
        return text


def load_search(path: Path, *, sources: Mapping[str, str] | None = None) -> SearchConfig | HybridConfig:
    """Return the search in the YAML file `path`, with other models in place of some `sources`, by name.

    Raises ConfigError with all problems of the file, and for a name that is not one of its sources.
    """
    return search_from_text(read_yaml(path), path, sources=sources)


def parse_sources(texts: Iterable[str]) -> dict[str, str]:
    """Return the models by source, of texts `NAME=MODEL`; a folder is made absolute.

    Raises ConfigError for another text, ModelNotFound for a folder that does not exist.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, model = text.partition("=")
        if not sign or not name or not model or name in found:
            raise ConfigError(f"--source {text}: write NAME=MODEL, each source once.")
        parse_model_ref(model, relative_to=None).check_parts()
        found[name] = str(Path(model).absolute()) if Path(model).is_dir() else model
    return found


def _with_sources(document: Mapping[str, Any], sources: Mapping[str, str], path: Path) -> Mapping[str, Any]:
    """Return a search's document with other models for sources; a base or host that is the same model changes too."""
    stages = document.get("stages")
    searches = list(stages.values()) if isinstance(stages, Mapping) else [document]
    merges = [each["merge"] for each in searches if isinstance(each, Mapping) and isinstance(each.get("merge"), dict)]
    known = {name for merge in merges if isinstance(merge.get("sources"), dict) for name in merge["sources"]}
    for name in sources:
        if name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"--source {name}={sources[name]}: {path} has no source '{name}'{near}")
    for merge in merges:
        written = merge.get("sources")
        if not isinstance(written, dict):
            continue
        replaced = {written[name]: sources[name] for name in sources if isinstance(written.get(name), str)}
        merge["sources"] = {name: sources.get(name, model) for name, model in written.items()}
        for key in ("base", "host"):
            if merge.get(key) in replaced:
                merge[key] = replaced[merge[key]]
    return document


def search_from_text(
    document: object, path: Path, *, sources: Mapping[str, str] | None = None
) -> SearchConfig | HybridConfig:
    """Return the search of `document`, which was read from the YAML file `path`; see `load_search`.

    A config of mergekit-evolve is read as the search that it means.
    """
    if is_genome(document):
        document = search_of_genome(document, path)
    if isinstance(document, Mapping) and document.get("kind") in _RECIPES and "tasks" not in document:
        raise ConfigError(
            f"{path}: is a recipe of one merge (kind: {document['kind']}), not the config of a search.\n"
            f"    `evovlm merge {path} --out DIR` writes its model; `evovlm init` writes a config."
        )
    if sources and isinstance(document, Mapping):
        document = _with_sources(document, sources, path)
    if not isinstance(document, Mapping) or document.get("kind") != KIND:
        return config_from_text(document, path)
    try:
        hybrid = StagedConfigDocument.model_validate(document)
    except ValidationError as error:
        raise report_problems(path, error, model=StagedConfigDocument) from error
    config = _stages(hybrid, path)
    for name, stage in config.stages.items():
        try:
            check_budget(stage, path=path)
        except ConfigError as error:
            raise ConfigError(str(error).replace(f"{path}: ", f"{path}: stages.{name}.", 1)) from error
    return config


def _stages(hybrid: StagedConfigDocument, path: Path) -> HybridConfig:
    context = {"methods": METHODS, "folder": path.parent}
    problems: list[tuple[KeyPath, str]] = [
        (("stages", name, key), f"stages.{name}.{key}: belongs outside of the stages, as both share it")
        for name in (PS, PATH)
        for key in (*_SHARED, *EXECUTION_KEYS)
        if key in getattr(hybrid.stages, name)
    ]
    if PS in _merge_of(hybrid.stages.path):
        problems.append(
            (("stages", PATH, "merge", PS), f"stages.path.merge.{PS}: is the first stage's winner; leave it out")
        )
    first: EvolveConfig | None = None
    second: PathConfig | None = None
    try:
        first = EvolveConfig.model_validate(hybrid.stage(PS), context=context)
    except ValidationError as error:
        problems += problems_in(error, model=EvolveConfig, moved=lambda place: _moved(place, PS))
    try:
        of_second = {**context, UNKNOWN_HOST: first is None}
        second = PathConfig.model_validate(_with_stand_in(hybrid, first), context=of_second)
    except ValidationError as error:
        problems += problems_in(error, model=PathConfig, moved=lambda place: _moved(place, PATH))
    if first is None or second is None or problems:
        raise report_places(path, problems)
    return HybridConfig(ps=first, path=second)


def _with_stand_in(hybrid: StagedConfigDocument, first: EvolveConfig | None) -> Mapping[str, Any]:
    """Return the second stage with a merge of the first one's models, of the same shapes as any winner."""
    stage, merge = hybrid.stage(PATH), _merge_of(hybrid.stages.path)
    return {**stage, "merge": {**merge, PS: None if first is None else _stand_in(first)}} if merge else stage


def _stand_in(first: EvolveConfig) -> Mapping[str, Any]:
    merge = first.merge.model_dump(mode="json", by_alias=True)
    return {**merge, "kind": "parameter_merge", "parameters": {name: {} for name in first.merge.sources}}


def _merge_of(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    merge = stage.get("merge")
    return merge if isinstance(merge, Mapping) else {}


def _moved(place: KeyPath, stage: str) -> KeyPath:
    return place if place and place[0] in (*_SHARED, *EXECUTION_KEYS) else ("stages", stage, *place)
