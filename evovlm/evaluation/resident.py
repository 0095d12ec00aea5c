"""Recipes as models in memory: one model is kept there and takes one recipe after another.

An engine takes a parameter merge; a path through layers is built from blocks that no candidate moves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch

from evovlm.errors import ConfigError
from evovlm.evaluation.answers import PreparedTask
from evovlm.evaluation.engines.builtin import BuiltinEngine
from evovlm.evaluation.engines.engine import Engine
from evovlm.evaluation.engines.table import BUILTIN, BUILTIN_ENGINE, ENGINES, EngineId
from evovlm.evaluation.engines.work import Load, load_of
from evovlm.evaluation.opening import computed_weights, load_reference
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.merged_tensors import MergedTensors
from evovlm.merging.models.chat_change import ChatChange
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.models.matching import match_models
from evovlm.merging.models.vocabulary import NewToken, extend_tokenizer
from evovlm.merging.paths.host import PathHost
from evovlm.merging.paths.plan import path_problems
from evovlm.models.layer_stack import LayerStack
from evovlm.models.loading import LoadedModel, Override, load_model
from evovlm.recipes.checkpoint_files import CONFIG_FILE, copy_files
from evovlm.recipes.kinds import PS, HybridMerge, PathTemplate, Recipe, parameter_merge_only
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.model_ref import ModelRef, weights_dtype
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.resources import available_memory_bytes


class Resident(Protocol):
    """A model in memory that takes one recipe after another."""

    @property
    def loaded(self) -> LoadedModel:
        """The model that prompts are made for; on `builtin`, it is the one that answers."""
        ...

    @property
    def engine(self) -> Engine:
        """What holds the current weights and answers."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be merged but may harm the result."""
        ...

    @property
    def blocks(self) -> Mapping[str, int]:
        """The number of decoder blocks of each source, by name."""
        ...

    def check(self, recipe: Recipe) -> None:
        """Raise ConfigError for a recipe of another template."""
        ...

    def merge(self, recipe: Recipe) -> bool:
        """Take the recipe; return whether every weight is finite."""
        ...

    def hand_over(self, engine: EngineId, load: Load) -> None:
        """Have another engine answer from now on; `load` is what it will be asked.

        Raises ConfigError if it cannot.
        """
        ...


def open_resident(template: MergeTemplate | PathTemplate, *, device: str, n_sharing: int) -> Resident:
    """Load what a template's recipes need; `n_sharing` processes share the machine's memory, including this one."""
    if template.keeps_every_source:
        return ResidentStack.open(template, device=device)
    return ResidentModel.open(template, device=device, n_sharing=n_sharing)


@dataclass(slots=True, kw_only=True, eq=False)
class ResidentModel:
    """A template's host in an engine, and the merger of its models; open it with `ResidentModel.open`.

    It also takes recipes with other methods and settings, and with another `config_from` where the engine does.
    """

    engine: Engine
    merger: Merger
    _variants: dict[tuple[str, MergeSettings, str | None], Merger] = field(default_factory=dict)

    @classmethod
    def open(cls, template: MergeTemplate, *, device: str = "auto", n_sharing: int = 1) -> ResidentModel:
        """Open the models to merge and load the host; `n_sharing` such models share the machine's memory.

        Raises what `Merger.open` and `load_model` raise.
        """
        # Half of the free memory: the models, their caches and other programs need the rest.
        merger = Merger.open(template, cache_bytes=(available_memory_bytes() or 0) // 2 // n_sharing)
        loaded = _load_result(merger, device=device)
        return cls(engine=BuiltinEngine.open(loaded, merger), merger=merger)

    def hand_over(self, engine: EngineId, load: Load) -> None:
        """Let another engine answer from now on; `load` is what it will be asked.

        Nothing is changed for the engine that answers already. Raises ConfigError where the engine cannot hold the
        model.
        """
        if engine.name != BUILTIN:
            # Without its writer, which would keep the parameters' memory from the other engine.
            self.engine = BuiltinEngine(loaded=self.engine.loaded)
            self.engine = ENGINES[engine.name].open(self.engine.loaded, self.merger, load, engine.tensor_parallel)

    @property
    def loaded(self) -> LoadedModel:
        """The model that prompts are made for."""
        return self.engine.loaded

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be merged but may harm the result."""
        return self.merger.warnings

    @property
    def blocks(self) -> Mapping[str, int]:
        """The number of decoder blocks of each source, by name."""
        return dict.fromkeys(self.merger.source_names, self.merger.n_blocks)

    def check(self, recipe: Recipe) -> None:
        """Raise ConfigError for a recipe of another template, or one whose lists have a wrong length."""
        merge = parameter_merge_only(recipe)
        self._variant(merge).check(merge)

    def merge(self, recipe: Recipe) -> bool:
        """Have the engine take the merge; return whether every weight is finite."""
        merge = parameter_merge_only(recipe)
        return self.engine.become(MergedTensors(merger=self._variant(merge), recipe=merge))

    def _variant(self, merge: ParameterMerge) -> Merger:
        key = (merge.method, merge.settings, merge.config_from)
        if key not in self._variants or self._variants[key].template != merge.template:
            self._variants[key] = self.merger.variant(merge.template)
        return self._variants[key]


def _load_result(merger: Merger, *, device: str) -> LoadedModel:
    """Return the host, loaded with the config, tokens and number of rows of the merges of `merger`."""
    host, result = merger.host, merger.result
    is_hosts = result.is_hosts and not result.new_tokens and result.chat is None
    if is_hosts and not (host.has_own_config or host.is_computed):
        return load_model(host.folder, device=device)
    override = Override(
        config=result.config,
        head_follows=not result.tied,
        tokenizer=host.tokenizer_folder,
        weights=computed_weights(host),
    )
    return _load_chatting(
        host, override, chat=result.chat, new_tokens=result.new_tokens, rows=merger.token_rows(), device=device
    )


def _load_path_host(recipe: LayerPathMerge, *, device: str) -> LoadedModel:
    """Return the host of a path, loaded with the chat template, tokens and stops that the recipe takes from others."""
    if recipe.chat_template is None and recipe.generation is None:
        return load_reference(recipe.host, device=device, dtype=recipe.dtype)
    refs = {"host": recipe.host, **{f"sources.{name}": recipe.sources[name] for name in recipe.speakers}}
    models = {
        name: NamedCheckpoint(name=name, text=ref.text, checkpoint=Checkpoint.open_model(ref, declared=recipe.backbone))
        for name, ref in refs.items()
    }
    found = PathHost.of(recipe, {**models, "host": models["host"].stored_in(recipe.dtype)})
    host = found.checkpoint
    override = Override(
        config=host.config, head_follows=False, tokenizer=host.tokenizer_folder, weights=computed_weights(host)
    )
    return _load_chatting(host, override, chat=found.chat, new_tokens=found.new_tokens, rows=found.rows, device=device)


def _load_chatting(
    host: Checkpoint,
    override: Override,
    *,
    chat: ChatChange | None,
    new_tokens: Sequence[NewToken],
    rows: Mapping[str, int],
    device: str,
) -> LoadedModel:
    """Return the host, loaded with `new_tokens` in its tokenizer and a chat; `rows` are those of all tokens."""
    if not new_tokens and chat is None:
        return load_model(host.folder, device=device, override=override)
    with TemporaryDirectory() as scratch:
        tokenizer = Path(scratch)
        copy_files(host.support_files().files, tokenizer)
        if new_tokens:
            extend_tokenizer(tokenizer, new_tokens)
        # transformers may look up the model's tokenizer in the config.
        (tokenizer / CONFIG_FILE).write_text(json.dumps(override.config), encoding="utf-8")
        override = replace(override, tokenizer=tokenizer)
        if chat is not None:
            chat.write(tokenizer, rows)
            generation = chat.generation_config(rows)
            override = replace(override, generation=generation, chat_template=chat.template)
        return load_model(host.folder, device=device, override=override)


def load_merged(recipe: ParameterMerge, *, device: str = "auto") -> LoadedModel:
    """Return the model that a recipe describes, merged in memory without writing files.

    Raises ConfigError when its weights are not finite, and what opening and merging the models raises.
    """
    resident = ResidentModel.open(recipe.template, device=device)
    if not resident.merge(recipe):
        raise ConfigError(f"recipe {recipe.recipe_id}: the merged weights are not finite. Lower its weights.")
    return resident.loaded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResidentStack:
    """A template's sources as one stack of blocks inside its host; open it with `ResidentStack.open`."""

    template: PathTemplate
    _stack: LayerStack

    @classmethod
    def open(cls, template: PathTemplate, *, device: str = "auto") -> ResidentStack:
        """Load every source, including a first stage's merge. Raises what `open_recipe_stack` raises."""
        return cls(template=template, _stack=open_recipe_stack(template.first_recipe(), device=device))

    @property
    def loaded(self) -> LoadedModel:
        """The host with the path's blocks."""
        return self._stack.loaded

    @property
    def engine(self) -> Engine:
        """The engine `builtin`, which alone holds a path."""
        return BuiltinEngine(loaded=self._stack.loaded)

    def hand_over(self, engine: EngineId, load: Load) -> None:  # noqa: ARG002 - of parameter merges
        """Raise ConfigError for another engine than `builtin`."""
        if engine.name != BUILTIN:
            raise ConfigError(f"engine: {engine.name} cannot hold a path through layers. Set engine to builtin.")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Empty: models that do not fit are refused."""
        return ()

    @property
    def blocks(self) -> Mapping[str, int]:
        """The number of blocks of each source, in the order in which a search arranges them."""
        return {name: self._stack.count_blocks(name) for name in self.template.source_names}

    def check(self, recipe: Recipe) -> None:
        """Raise ConfigError for a recipe of another template."""
        self._checked(recipe)

    def merge(self, recipe: Recipe) -> bool:
        """Make the recipe's path the model's blocks; return True. Raises ConfigError as `check` does."""
        found = self._checked(recipe)
        self._stack.take(found.path, found.scale_target)
        return True

    def _checked(self, recipe: Recipe) -> LayerPathMerge | HybridMerge:
        if recipe.path is not None:
            own = self.template.recipe(recipe.path)
            if own.recipe_id == recipe.recipe_id:
                return own
        raise ConfigError(f"recipe {recipe.recipe_id} is not a path through the models of this search.")


def open_model(
    recipe: ModelRef | Recipe,
    prepare: Callable[[LoadedModel], Sequence[PreparedTask]],
    *,
    device: str = "auto",
    engine: EngineId = BUILTIN_ENGINE,
) -> tuple[Engine, Sequence[PreparedTask]]:
    """Return an engine that holds the model of a recipe or a reference, and the tasks that `prepare` makes for it.

    Raises what `load_recipe_model` raises, and ConfigError where another engine than `builtin` cannot hold the model.
    """
    if engine.name == BUILTIN:
        loaded = load_recipe_model(recipe, device=device)
        return BuiltinEngine(loaded=loaded), prepare(loaded)
    merge = _whole(recipe) if isinstance(recipe, ModelRef) else parameter_merge_only(recipe)
    resident = ResidentModel.open(merge.template, device=engine.device_to_load(device))
    prepared = prepare(resident.loaded)
    resident.hand_over(engine, load_of(prepared))
    if not resident.merge(merge):
        raise ConfigError(f"recipe {merge.recipe_id}: the merged weights are not finite. Lower its weights.")
    return resident.engine, prepared


def _whole(ref: ModelRef) -> ParameterMerge:
    """Return the merge that copies every tensor of a model."""
    sources = {"model": SourceParameters(weight=1.0)}
    return ParameterMerge(host=ref, base=None, sources={"model": ref}, method="linear", parameters=sources)


def load_recipe_model(recipe: ModelRef | Recipe, *, device: str = "auto") -> LoadedModel:
    """Return the model that a recipe describes, made in memory without writing files, or the model of a reference.

    Raises ConfigError when its weights are not finite or a block does not exist, ModelError when a model cannot be
    reached, read or combined with the others.
    """
    if isinstance(recipe, ModelRef):
        return load_reference(recipe, device=device)
    if recipe.path is None:
        return load_merged(recipe, device=device)
    stack = open_recipe_stack(recipe, device=device)
    stack.take(recipe.path, recipe.scale_target)
    return stack.loaded


def open_recipe_stack(recipe: LayerPathMerge | HybridMerge, *, device: str = "auto") -> LayerStack:
    """Load the sources of a path, including a first stage's result, for any path through them.

    Raises what `load_recipe_model` raises.
    """
    if recipe.first_stage is not None:
        return _open_hybrid(recipe, device=device)
    check_models(recipe)
    used = {name: recipe.sources[name] for name in recipe.path.sources}
    loaded = {recipe.host.identity: _load_path_host(recipe, device=device)}
    for ref in used.values():
        if ref.identity not in loaded:
            loaded[ref.identity] = load_reference(ref, device=device, dtype=recipe.dtype)
    sources = {name: loaded[ref.identity] for name, ref in used.items()}
    stored = _torch_dtype(recipe.dtype or weights_dtype(recipe.host))
    return LayerStack(loaded[recipe.host.identity], sources, stored=stored)


def _open_hybrid(recipe: HybridMerge, *, device: str) -> LayerStack:
    # The first stage's result has its host's shapes, so misfits are found before anything is merged.
    check_models(recipe.path_merge(recipe.ps.host))
    merged = load_merged(recipe.ps, device=device)
    load = partial(load_reference, device=device)
    sources = {name: load(recipe.sources[name]) for name in recipe.path.sources if name != PS}
    host = merged if recipe.host is None else load(recipe.host)
    used = {PS: merged} if PS in recipe.path.sources else {}
    stored = weights_dtype(recipe.host) if recipe.host else recipe.ps.dtype or weights_dtype(recipe.ps.host)
    return LayerStack(host, {**used, **sources}, stored=_torch_dtype(stored))


def check_models(recipe: LayerPathMerge) -> None:
    """Raise the first problem that prevents the path's blocks from running in the host; reads no weights."""
    models = {
        name: NamedCheckpoint(
            name=name, text=ref.text, checkpoint=Checkpoint.open_headers(ref, declared=recipe.backbone)
        )
        for name, ref in recipe.models().items()
    }
    for problem in path_problems(recipe, match_models(models, declared=recipe.backbone)):
        raise problem


def _torch_dtype(name: str | None) -> torch.dtype | None:
    found = getattr(torch, name) if name is not None else None
    return found if isinstance(found, torch.dtype) else None
