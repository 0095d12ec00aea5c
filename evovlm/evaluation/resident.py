"""Recipes as models in memory: one model is kept there and takes one recipe after another.

A parameter merge is written into its parameters; a path through layers is built from blocks that no candidate moves.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from evovlm.devices import Explained, triton_problem
from evovlm.errors import ConfigError
from evovlm.evaluation.opening import computed_weights, load_reference
from evovlm.merging.arithmetic import kernels
from evovlm.merging.arithmetic.buffers import Raw, widen
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.models.chat_change import ChatChange
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.models.matching import match_models
from evovlm.merging.models.structure import HEAD
from evovlm.merging.models.vocabulary import NewToken, extend_tokenizer
from evovlm.merging.paths.host import PathHost
from evovlm.merging.paths.plan import path_problems
from evovlm.models.backbone import ParameterWriter
from evovlm.models.layer_stack import LayerStack
from evovlm.models.loading import LoadedModel, Override, load_like, load_model
from evovlm.recipes.checkpoint_files import CONFIG_FILE, copy_files
from evovlm.recipes.kinds import PS, HybridMerge, PathTemplate, Recipe, parameter_merge_only
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.model_ref import ModelRef, weights_dtype
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge
from evovlm.resources import available_memory_bytes

if TYPE_CHECKING:
    from evovlm.merging.gpu import GpuMerger

_log = logging.getLogger(__name__)


class Resident(Protocol):
    """A model in memory that takes one recipe after another."""

    @property
    def loaded(self) -> LoadedModel:
        """The model in its current state."""
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


def open_resident(template: MergeTemplate | PathTemplate, *, device: str, n_sharing: int) -> Resident:
    """Load what a template's recipes need; `n_sharing` processes share the machine's memory, including this one."""
    if template.keeps_every_source:
        return ResidentStack.open(template, device=device)
    return ResidentModel.open(template, device=device, n_sharing=n_sharing)


@dataclass(slots=True, kw_only=True, eq=False)
class ResidentModel:
    """A template's host, loaded, and the merger of its models; open it with `ResidentModel.open`.

    It also takes recipes with other methods and settings, and with another `config_from`: then `loaded` is another
    model over the same parameters.
    """

    loaded: LoadedModel
    merger: Merger
    _writer: ParameterWriter
    _gpu: GpuMerger | None
    _loaded: dict[str | None, LoadedModel]
    _variants: dict[tuple[str, MergeSettings, str | None], Merger] = field(default_factory=dict)

    @classmethod
    def open(cls, template: MergeTemplate, *, device: str = "auto", n_sharing: int = 1) -> ResidentModel:
        """Open the models to merge and load the host; `n_sharing` such models share the machine's memory.

        Raises what `Merger.open` and `load_model` raise.
        """
        # Half of the free memory: the models, their caches and other programs need the rest.
        merger = Merger.open(template, cache_bytes=(available_memory_bytes() or 0) // 2 // n_sharing)
        loaded = _load_result(merger, device=device)
        layout = merger.host.layout
        writer = ParameterWriter(
            loaded.model,
            {name: layout.disk_name(name) for name in merger.tensor_names},
            shapes={name: merger.host.shape(name) for name in merger.tensor_names},
        )
        resident = cls(
            loaded=loaded,
            merger=merger,
            _writer=writer,
            _gpu=_gpu_merger(loaded, merger, writer),
            _loaded={merger.template.config_from: loaded},
        )
        sink = _ParameterSink(writer)
        if HEAD in merger.result.tensor_names and merger.host.layout.tied:
            # A head that the host does not have starts as the embedding, which the host uses as its head.
            writer.write(HEAD, 0, merger.host.read(HEAD).flatten())
        for name, start, values in merger.new_rows():
            sink.write(name, start, values)
        return resident

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
        """Write the merge into the parameters; return whether every weight is finite.

        The tensors are rounded to the host's stored dtype, so that the model computes what the checkpoint of `evovlm
        merge` would, also on a CPU, where parameters are float32.
        """
        merge, sink = parameter_merge_only(recipe), _ParameterSink(self._writer)
        merger = self._variant(merge)
        self.loaded = self._loaded_as(merger)
        if self._gpu is not None:
            return self._gpu.variant(merger).merge(merge, sink) and sink.finite
        merger.merge(merge, sink)
        return sink.finite

    def _variant(self, merge: ParameterMerge) -> Merger:
        key = (merge.method, merge.settings, merge.config_from)
        if key not in self._variants or self._variants[key].template != merge.template:
            self._variants[key] = self.merger.variant(merge.template)
        return self._variants[key]

    def _loaded_as(self, merger: Merger) -> LoadedModel:
        config_from = merger.template.config_from
        if config_from not in self._loaded:
            self._loaded[config_from] = load_like(self.loaded, config=merger.result.config)
        return self._loaded[config_from]


def _gpu_merger(loaded: LoadedModel, merger: Merger, writer: ParameterWriter) -> GpuMerger | None:
    """Return what merges on the model's device; None where the CPU merges.

    It does for a model that is on a CPU, on several devices, or on a GPU where Triton cannot be used.
    """
    if loaded.device.type != "cuda" or loaded.is_spread:
        return None
    problem = triton_problem()
    if problem is not None:
        _say_that_the_cpu_merges(problem)
        return None
    # Needs Triton, which an installation for a CPU may lack.
    from evovlm.merging.gpu import GpuMerger

    return GpuMerger(merger, writer.on_device())


@cache
def _say_that_the_cpu_merges(problem: Explained) -> None:
    """Log it, once in this process."""
    _log.warning(
        "merges are computed on the CPU and copied to the GPU, which is slower: %s. To merge on the GPU: %s.",
        problem.reason,
        problem.remedy,
    )


@dataclass(slots=True, eq=False)
class _ParameterSink:
    """Writes merged entries into the parameters, and notes whether all are finite."""

    parameters: ParameterWriter
    finite: bool = True

    def write(self, name: str, start: int, values: Raw) -> None:
        target = self.parameters.in_place(name)
        if target is not None:
            part = target[start : start + len(values)]
            widen(values, part)
        else:
            part = np.empty(len(values), dtype=np.float32)
            widen(values, part)
            bits = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if values.dtype == np.uint16 else None
            self.parameters.write(name, start, torch.from_numpy(values) if bits is None else bits)
        if not kernels.is_finite(part):
            # Only ever set to False, so that threads need no lock.
            self.finite = False


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
