"""What a merge is, as values: a template (everything a search keeps fixed) and a recipe (template and parameters).

Settings and parameters are also the form of a recipe's file: pydantic checks text against them (documents.py).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from evovlm.errors import ConfigError
from evovlm.recipes.choices import HOST, chat_choices, check_choice, given_choices
from evovlm.recipes.families import BackbonePrefixes
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.source_values import (
    SOURCE_PARAMETERS,
    ByComponent,
    SourceParameters,
    canonical_parameters,
    canonical_values,
    parts_of,
)

Rescale = Literal["density", "l1", "none"]
Vocabulary = Literal["host", "base_rows", "union"]
Dtype = Literal["bfloat16", "float16", "float32"]
"""A dtype that the result may be stored in."""

_FIRST_SETTINGS = ("rescale", "normalize", "lambda_")
# Fields that count for a recipe's id only where they are given.
_LATER_CHOICES = ("config_from", "chat_template", "generation", "dtype", "backbone")

_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """The settings of a method as a whole.

    `rescale`: how entries dropped at random are compensated; divide by the density, restore the L1 norm, or nothing.
    `normalize`: divide by the sum of weights; None takes the method's own default.
    `lambda_`: the factor on the summed task vectors.
    `row_wise`: take angles and lengths row by row, not of the whole tensor (nuslerp, model_stock).
    `select_topk`: the share of entries that SCE keeps, those that vary most among the sources, in [0, 1].
    `max_iterations`, `tolerance`: when the Karcher mean's iteration ends.
    `threshold`: the magnitude up to which an entry of a task vector counts as unchanged (ram).
    Raises ConfigError for a number that is not finite or out of range.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    rescale: Rescale = "density"
    normalize: Annotated[bool | None, Field(strict=True)] = None
    lambda_: Annotated[float, Field(strict=True, alias="lambda")] = 1.0
    row_wise: Annotated[bool, Field(strict=True)] = False
    select_topk: Annotated[float, Field(strict=True, ge=0, le=1)] = 1.0
    max_iterations: Annotated[int, Field(strict=True, ge=1)] = 10
    tolerance: Annotated[float, Field(strict=True, ge=0)] = 1e-5
    threshold: Annotated[float, Field(strict=True, ge=0)] = 1e-5

    def __post_init__(self) -> None:
        for name in ("lambda_", "select_topk", "tolerance", "threshold"):
            object.__setattr__(self, name, canonical_values(getattr(self, name), name=name.rstrip("_")))
        if not 0.0 <= self.select_topk <= 1.0:
            raise ConfigError(f"select_topk: {self.select_topk} is not in [0, 1]; it is the share of entries kept.")
        if self.max_iterations < 1:
            raise ConfigError(f"max_iterations: {self.max_iterations} is below 1.")

    def changed(self) -> Mapping[str, object]:
        """Return the settings that are not at their defaults, by name."""
        defaults = MergeSettings()
        names = (each.name for each in fields(self))
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(defaults, name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeTemplate:
    """A parameter-space merge without its parameters: what a search keeps fixed.

    `host` gives config, tokenizer, processor and unmerged tensors; `base` is what task vectors are taken from;
    `seed` names the random draws of DARE and DELLA; `vocabulary` says what to do when vocabularies differ;
    `config_from` names the model ("base", "host" or a source) whose rope, sliding window, norm eps and tied head the
    result takes (None: the host's); `chat_template` the model, or "auto", whose chat template it takes, or the text of
    a template (None: the host's); `generation` the model, or "auto", whose generation_config.json and stop tokens it
    takes (None: as `chat_template` says, the host's for a text). "auto" is what all sources agree on. `dtype`: what
    every float of the result is stored in (None: what the host's is). `backbone` says where the language model is among
    the tensors of the models that have it there (None: names, shapes and config.json say).
    """

    host: ModelRef
    sources: Mapping[str, ModelRef]
    method: str
    base: ModelRef | None = None
    settings: MergeSettings = field(default_factory=MergeSettings)
    seed: int = 0
    vocabulary: Vocabulary | None = None
    config_from: str | None = None
    chat_template: str | None = None
    generation: str | None = None
    dtype: Dtype | None = None
    backbone: BackbonePrefixes | None = None

    keeps_every_source: ClassVar[Literal[False]] = False
    """Whether a search holds every source in memory, rather than one merged model."""

    def __post_init__(self) -> None:
        known = sorted({*self.sources, *(["base"] if self.base else [])})
        if self.config_from is not None:
            check_choice("config_from", self.config_from, known=[HOST, *known])
            object.__setattr__(self, "config_from", None if self.config_from == HOST else self.config_from)
        for name, choice in chat_choices(self.chat_template, self.generation, known=known).items():
            object.__setattr__(self, name, choice)
        if not self.sources:
            raise ConfigError("sources: a merge needs at least one source.")
        check_source_names(self.sources)
        object.__setattr__(self, "sources", dict(self.sources))

    @property
    def template(self) -> "MergeTemplate":
        """The template itself; of a recipe, what it is without its parameters."""
        return self

    @property
    def source_names(self) -> tuple[str, ...]:
        """The names of all sources, in their order."""
        return tuple(self.sources)

    @property
    def host_model(self) -> ModelRef:
        """The model whose config and tokenizer the result takes."""
        return self.host

    @property
    def shaped_like(self) -> Mapping[str, str]:
        """For each source, the part of the recipe whose model has as many blocks: here always the host."""
        return dict.fromkeys(self.sources, "host")

    def equal_weights(self, weight: float) -> "ParameterMerge":
        """Return the recipe in which every source has the same weight, and nothing is dropped."""
        return self.recipe({name: SourceParameters(weight=weight) for name in self.sources})

    def first_recipe(self) -> "ParameterMerge":
        """Return a recipe of this template that needs every one of its models."""
        return self.equal_weights(1.0)

    def recipe(self, parameters: Mapping[str, SourceParameters]) -> "ParameterMerge":
        """Return the recipe that this template and `parameters` (one entry per source) make."""
        return ParameterMerge(**_fixed(self), parameters=parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterMerge(MergeTemplate):
    """A complete statement of one merge in parameter space.

    Raises ConfigError when `parameters` does not have exactly the names of `sources`, or when lists of two lengths
    are given (every list has one number per unit of the same model).
    """

    parameters: Mapping[str, SourceParameters]

    path: ClassVar[None] = None
    """The path of the recipe's last stage: it does not have one."""
    first_stage: ClassVar[None] = None
    """The merge whose result is a source of a path: it does not have one."""

    def __post_init__(self) -> None:
        MergeTemplate.__post_init__(self)
        missing = sorted(set(self.sources) - set(self.parameters))
        unknown = sorted(set(self.parameters) - set(self.sources))
        if missing or unknown:
            raise ConfigError(
                f"parameters: {_named('missing for', missing)}{_named('given for the unknown', unknown)}"
                f"sources are {', '.join(sorted(self.sources))}."
            )
        lengths = sorted(self.unit_lengths())
        if len(lengths) > 1:
            raise ConfigError(
                f"parameters: lists of {' and of '.join(map(str, lengths))} numbers; "
                "each needs one number per unit (embedding, each block, head)."
            )
        object.__setattr__(self, "parameters", dict(self.parameters))

    @property
    def template(self) -> MergeTemplate:
        """The recipe without its parameters."""
        return MergeTemplate(**_fixed(self))

    @property
    def recipe_id(self) -> str:
        """The hash of everything that the recipe says: 12 hexadecimal digits.

        It does not depend on the order of the sources or on the way in which a local folder is written.
        """
        canonical: dict[str, object] = {
            "kind": "parameter_merge",
            "base": self.base.identity if self.base else None,
            "host": self.host.identity,
            "sources": {name: ref.identity for name, ref in self.sources.items()},
            "method": self.method,
            # Settings that were added to the format later count only where they are used.
            "settings": {**{name: getattr(self.settings, name) for name in _FIRST_SETTINGS}, **self.settings.changed()},
            "seed": self.seed,
            "vocabulary": self.vocabulary,
            "parameters": {name: canonical_parameters(numbers) for name, numbers in self.parameters.items()},
        }
        return recipe_digest(canonical | given_choices(self, _LATER_CHOICES))

    @property
    def made_by(self) -> str:
        """How the result is made, as the end of the sentence "made ..."."""
        return f"by the method `{self.method}`"

    def models(self) -> Mapping[str, ModelRef]:
        """Return every model that the result takes something from, by its part in the recipe (`host`, `sources.ja`)."""
        base = {"base": self.base} if self.base is not None else {}
        return {"host": self.host, **base, **{f"sources.{name}": ref for name, ref in self.sources.items()}}

    def as_values(self, text: Callable[[ModelRef], str] = lambda ref: ref.text) -> dict[str, Any]:
        """Return the recipe as the plain values of its file; `text` says how a model is written."""
        base = {"base": text(self.base)} if self.base is not None else {}
        first = {name: getattr(self.settings, name) for name in _FIRST_SETTINGS}
        return {
            "format": 1,
            "kind": "parameter_merge",
            **base,
            "host": text(self.host),
            "sources": {name: text(ref) for name, ref in self.sources.items()},
            "method": self.method,
            "settings": {name.rstrip("_"): value for name, value in {**first, **self.settings.changed()}.items()},
            "seed": self.seed,
            **given_choices(self, ("vocabulary", *_LATER_CHOICES)),
            "parameters": {name: self.parameters[name].as_values() for name in self.sources},
        }

    def tensor_names(self) -> frozenset[str]:
        """The names (within a block) of the tensors that have numbers of their own."""
        values = (getattr(numbers, name) for numbers in self.parameters.values() for name in SOURCE_PARAMETERS)
        return frozenset(name for value in values if isinstance(value, ByComponent) for name, _ in value.tensors)

    def unit_lengths(self) -> frozenset[int]:
        """The lengths of the lists among the parameters; each should be the model's number of units, L + 2."""
        values = (getattr(numbers, name) for numbers in self.parameters.values() for name in SOURCE_PARAMETERS)
        return frozenset(len(part) for value in values for part in parts_of(value) if isinstance(part, tuple))


def _fixed(template: MergeTemplate) -> dict[str, Any]:
    """Return the fields of a template, also of a recipe's."""
    return {each.name: getattr(template, each.name) for each in fields(MergeTemplate)}


def _named(what: str, names: list[str]) -> str:
    return f"{what} {', '.join(names)}; " if names else ""


def recipe_digest(canonical: Mapping[str, object]) -> str:
    """Return 12 hexadecimal digits for everything that a recipe says, given as plain values."""
    text = json.dumps(canonical, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def check_source_names(names: Iterable[str]) -> None:
    """Raise ConfigError for what is not a name of a source."""
    for name in names:
        if not _SOURCE_NAME.fullmatch(name):
            raise ConfigError(f"sources: '{name}' is not a name; letters, digits, '-' and '_' make one.")
