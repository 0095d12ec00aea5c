"""The plan of a path through layers as an ordinary checkpoint, without the numbers themselves.

It says from which tensor each tensor of the result comes, how scales change it, the config, and what does not fit.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evovlm.errors import ConfigError, EvovlmError, IncompatibleModels
from evovlm.merging.checkpoint.safetensors_file import TensorPlace
from evovlm.merging.checkpoint.safetensors_writer import PlannedTensor
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.chat_change import chat_warnings
from evovlm.merging.models.compatibility import NamedCheckpoint, differing_settings
from evovlm.merging.models.config_check import check_config
from evovlm.merging.models.matching import match_models
from evovlm.merging.models.structure import EMBEDDING, HEAD
from evovlm.merging.models.tensor_names import natural_order, unit_index
from evovlm.merging.paths.config import attention_kinds, kind_in, path_config
from evovlm.merging.paths.fold import UNCHANGED, Change, PathFold, fold_path, running_products
from evovlm.merging.paths.host import PathHost
from evovlm.merging.paths.places import place_problems
from evovlm.recipes.families import MEANING_OF_SHAPES, TextFamily, text_family
from evovlm.recipes.language_config import n_deepstack_blocks
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.model_ref import ModelRef

_BLOCKS = "model.layers."
_FINAL_NORM = "model.norm.weight"
# Scaling by c acts like dividing eps by c squared: by 400 or 1 / 400, it is no longer small beside the stream.
_FAR = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PathTensor:
    """A tensor of the result, the location of its numbers, their change, and whether it is the language model's."""

    planned: PlannedTensor
    place: TensorPlace
    change: Change
    is_backbone: bool = True

    @property
    def is_copy(self) -> bool:
        """Whether its bytes equal those of its source."""
        return self.change.is_none and self.planned.dtype_code == self.place.dtype_code


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathPlan:
    """A path as a checkpoint: its config.json, its tensors (the language model's first) and its host.

    Tensors have the dtype in which the host stores those of its first block; `fold.py` explains how scales are folded
    in. `warnings` lists what can be written but may be harmful.
    """

    recipe: LayerPathMerge
    path_host: PathHost
    config: Mapping[str, Any]
    tensors: tuple[PathTensor, ...]
    warnings: tuple[str, ...]

    @staticmethod
    def open(recipe: LayerPathMerge) -> "PathPlan":
        """Open the host and the sources of the path, and check that they fit together.

        Raises ConfigError for a block that does not exist or a scale that no weights can express, ModelError for a
        model that cannot be found, read or combined with the others.
        """
        opened: dict[ModelRef, Checkpoint] = {}
        named = {}
        for name, ref in recipe.models().items():
            if ref not in opened:
                opened[ref] = Checkpoint.open_model(ref, declared=recipe.backbone)
            named[name] = NamedCheckpoint(name=name, text=ref.text, checkpoint=opened[ref])
        named["host"] = named["host"].stored_in(recipe.dtype)
        models = match_models(named, declared=recipe.backbone)
        for problem in path_problems(recipe, models):
            raise problem
        for checkpoint in opened.values():
            check_config(checkpoint)
        return PathPlan.of(recipe, models)

    @staticmethod
    def of(recipe: LayerPathMerge, models: Mapping[str, NamedCheckpoint]) -> "PathPlan":
        """Return the plan for models that fit (see `path_problems`).

        Raises ConfigError for scales that do not, and what `PathHost.of` raises.
        """
        path_host = PathHost.of(recipe, models)
        host = path_host.checkpoint
        warnings = path_warnings(recipe, models, path_host)
        models = {**models, "host": replace(models["host"], checkpoint=host)}
        fold = fold_of(recipe, host)
        untied = host.layout.tied and fold.embedding != 1.0
        kinds = {name: attention_kinds(each.checkpoint.layout) for name, each in models.items()}
        hop_kinds = [kind_in(host, kinds[f"sources.{step.source}"][step.layer]) for step in recipe.path.steps]
        backbone = _backbone(recipe, models, fold, untied=untied)
        others = (
            PathTensor(
                planned=_planned(name, host.places[name], like=host.places[name]),
                place=host.places[name],
                change=UNCHANGED,
                is_backbone=False,
            )
            for name in host.other_names()
            if not name.startswith(host.layout.blocks_prefix)
        )
        return PathPlan(
            recipe=recipe,
            path_host=path_host,
            config=path_config(host, hop_kinds, untied=untied),
            tensors=(*backbone, *others),
            warnings=warnings,
        )

    @property
    def host(self) -> Checkpoint:
        """The host, with the rows and the config that the result chats with."""
        return self.path_host.checkpoint

    @property
    def size_bytes(self) -> int:
        """The size of all weights of the result."""
        return sum(tensor.planned.size_bytes for tensor in self.tensors)

    @property
    def n_parameters(self) -> int:
        """The number of weights of the result."""
        return sum(math.prod(tensor.planned.shape) for tensor in self.tensors)


def fold_of(recipe: LayerPathMerge, host: Checkpoint) -> PathFold:
    """Return the changes of weights for the path's scales in this host. Raises ConfigError if there are none."""
    n_added = n_deepstack_blocks(host.config)
    if len(recipe.path) < n_added:
        raise ConfigError(
            f"path: {len(recipe.path)} hops, but the host's vision encoder adds to the stream after the first "
            f"{n_added}."
        )
    return fold_path(recipe.path, recipe.scale_target, sees=host.layout.is_vlm, n_added=n_added)


def path_problems(recipe: LayerPathMerge, models: Mapping[str, NamedCheckpoint]) -> Iterator[EvovlmError]:
    """Yield the reasons why the blocks of the path do not fit together in the host; some `models` may be missing."""
    host = models.get("host")
    for number, step in enumerate(recipe.path.steps):
        source = models.get(f"sources.{step.source}")
        if source is not None and step.layer >= source.checkpoint.layout.n_blocks:
            yield ConfigError(
                f"path[{number}]: {source} has {source.checkpoint.layout.n_blocks} blocks and no block {step.layer}."
            )
    used = ("host", *(f"sources.{name}" for name in recipe.path.sources))
    for model in {id(models[name].checkpoint): models[name] for name in used if name in models}.values():
        yield from place_problems(model)
    if host is None:
        return
    kind = host.checkpoint.layout.text_model_type
    if not text_family(kind).is_known and any(step.scale != 1.0 for step in recipe.path.steps):
        yield ConfigError(
            f"path: it is not known here how the norms of {host} ({kind}) scale, so that scales cannot be folded into "
            "weights.\n    Leave every scale at 1; in a search, take `scales: none`."
        )
    for name in recipe.path.sources:
        source = models.get(f"sources.{name}")
        if source is not None and source.checkpoint is not host.checkpoint:
            layers = sorted({step.layer for step in recipe.path.steps if step.source == name})
            yield from _misfits(source, host, [n for n in layers if n < source.checkpoint.layout.n_blocks])


def _misfits(source: NamedCheckpoint, host: NamedCheckpoint, layers: list[int]) -> Iterator[IncompatibleModels]:
    ours, theirs = host.checkpoint.layout, source.checkpoint.layout
    for key in MEANING_OF_SHAPES:
        values = theirs.text_config.get(key), ours.text_config.get(key)
        if None not in values and values[0] != values[1]:
            yield IncompatibleModels(f"{key} is {values[0]} in {source} and {values[1]} in {host}; a path needs one.")
    families = text_family(theirs.text_model_type), text_family(ours.text_model_type)
    if families[0].norm_adds_one != families[1].norm_adds_one or families[0].post_norms != families[1].post_norms:
        yield IncompatibleModels(
            f"{source} ({families[0].architecture}) and {host} ({families[1].architecture}) use different norms; a "
            "path needs blocks of one kind."
        )
        return
    wanted = _tensors_of_block(host.checkpoint, 0)
    for layer in layers:
        found = _tensors_of_block(source.checkpoint, layer)
        for name in sorted({*wanted, *found}):
            shapes = found.get(name), wanted.get(name)
            if shapes[0] != shapes[1]:
                yield IncompatibleModels(
                    f"{_BLOCKS}{layer}.{name} {_shown(shapes[0])} in {source}, and in the blocks of {host} it "
                    f"{_shown(shapes[1])}; a path needs blocks of one shape."
                )


def path_warnings(
    recipe: LayerPathMerge, models: Mapping[str, NamedCheckpoint], path_host: PathHost
) -> tuple[str, ...]:
    """Return what can be written but may be harmful: settings in which sources differ from the host, and its chat."""
    # The head is the host's, tied or not.
    differing = [pair for pair in differing_settings(models.values()) if pair[0] != "tie_word_embeddings"]
    notes = [f"{model}: {note}." for model in models.values() for note in model.checkpoint.notes]
    found = [*notes, *(f"{key} is {values}; every hop takes the host's." for key, values in differing)]
    products = [abs(product) for product in running_products(recipe.path)]
    furthest = max(products, key=lambda product: abs(math.log(product)) if product else math.inf)
    if recipe.scale_target == "stream" and not 1 / _FAR <= furthest <= _FAR:
        found.append(
            f"the product of the scales is {furthest:.3g} at one hop: so far from 1, the norms' eps matters, which no "
            "weights can compensate; compare the checkpoint's answers with the path's."
        )
    sources = [model for name, model in models.items() if name != "host"]
    found += chat_warnings(recipe, host=models["host"], sources=sources, can_add_tokens=False)
    return (*found, *(path_host.chat.notes if path_host.chat is not None else ()))


def _backbone(
    recipe: LayerPathMerge, models: Mapping[str, NamedCheckpoint], fold: PathFold, *, untied: bool
) -> Iterator[PathTensor]:
    host = models["host"].checkpoint
    family = text_family(host.layout.text_model_type)
    changes = {EMBEDDING: Change(factor=fold.embedding), _FINAL_NORM: fold.change_of_final_norm(family)}
    around = [name for name in host.backbone_names() if not name.startswith(_BLOCKS)]
    before = [name for name in around if unit_index(name, host.layout.n_blocks) == 0]
    after = [name for name in around if name not in before and name != HEAD]
    for name in before:
        yield _of_host(host, name, changes.get(name, UNCHANGED))
    for number, step in enumerate(recipe.path.steps):
        yield from _hop(number, models[f"sources.{step.source}"].checkpoint, step.layer, host, fold, family)
    for name in after:
        yield _of_host(host, name, changes.get(name, UNCHANGED))
    if untied or not host.layout.tied:
        yield _of_host(host, HEAD, UNCHANGED)


def _hop(
    number: int, source: Checkpoint, layer: int, host: Checkpoint, fold: PathFold, family: TextFamily
) -> Iterator[PathTensor]:
    for tensor in _tensors_of_block(source, layer):
        place = source.plain_place(f"{_BLOCKS}{layer}.{tensor}")
        name = host.layout.disk_name(f"{_BLOCKS}{number}.{tensor}")
        yield PathTensor(
            planned=_planned(name, place, like=host.plain_place(f"{_BLOCKS}0.{tensor}")),
            place=place,
            change=fold.change_in_hop(number, tensor, family),
        )


def _of_host(host: Checkpoint, name: str, change: Change) -> PathTensor:
    place = host.plain_place(name)
    return PathTensor(planned=_planned(host.layout.disk_name(name), place, like=place), place=place, change=change)


def _planned(name: str, place: TensorPlace, *, like: TensorPlace) -> PlannedTensor:
    return PlannedTensor(name=name, dtype_code=like.dtype_code, shape=place.shape)


def _tensors_of_block(checkpoint: Checkpoint, layer: int) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a block's tensors by their names in it, in the model's order."""
    prefix = f"{_BLOCKS}{layer}."
    names = sorted((name for name in checkpoint.backbone_names() if name.startswith(prefix)), key=natural_order)
    return {name.removeprefix(prefix): checkpoint.shape(name) for name in names}


def _shown(shape: tuple[int, ...] | None) -> str:
    return "is missing" if shape is None else f"is {' x '.join(map(str, shape))}"
