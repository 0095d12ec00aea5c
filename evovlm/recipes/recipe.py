"""What a merge is, as values: a template (everything a search keeps fixed) and a recipe (template and parameters)."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from evovlm.errors import ConfigError
from evovlm.recipes.model_ref import ModelRef

UnitValues = float | tuple[float, ...]
"""One number for the whole model, or one per unit: embedding, block 0..L-1, head (length L + 2)."""

Rescale = Literal["density", "l1", "none"]
Vocabulary = Literal["host", "base_rows"]

_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParameters:
    """A source's numbers: `weight` (any finite factor) and `density` (share of entries kept, in [0, 1]).

    Raises ConfigError for a number that is not finite, a density outside [0, 1] or an empty list.
    """

    weight: UnitValues
    density: UnitValues = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", canonical_values(self.weight, name="weight"))
        object.__setattr__(self, "density", canonical_values(self.density, name="density"))
        densities = self.density if isinstance(self.density, tuple) else (self.density,)
        if not all(0.0 <= density <= 1.0 for density in densities):
            raise ConfigError(f"density: {_shown(self.density)} is not in [0, 1]; it is the share of entries kept.")


def canonical_values(values: UnitValues, *, name: str) -> UnitValues:
    """Return `values` as plain floats, -0.0 as 0.0; raises ConfigError (naming `name`) for what is not finite."""
    numbers = values if isinstance(values, tuple) else (values,)
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ConfigError(f"{name}: {_shown(values)} is not a finite number, nor a list of them.")
    plain = tuple(float(number) + 0.0 for number in numbers)
    return plain if isinstance(values, tuple) else plain[0]


def value_at(values: UnitValues, unit: int) -> float:
    """Return the number that holds for `unit` (0 = embedding, 1..L = blocks, L + 1 = head)."""
    return values[unit] if isinstance(values, tuple) else values


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """What steers a method as a whole.

    `rescale`: what makes up for entries dropped at random; divide by the density, restore the L1 norm, or nothing.
    `normalize`: divide by the sum of weights; None takes the method's own default.
    `lambda_`: the factor on the summed task vectors.
    """

    rescale: Rescale = "density"
    normalize: bool | None = None
    lambda_: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lambda_", canonical_values(self.lambda_, name="lambda"))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeTemplate:
    """A parameter-space merge without its parameters: what a search keeps fixed.

    `host` gives config, tokenizer, processor and unmerged tensors; `base` is what task vectors are taken from;
    `seed` names the random draw of DARE; `vocabulary` says what to do when embeddings differ in rows.
    """

    host: ModelRef
    sources: Mapping[str, ModelRef]
    method: str
    base: ModelRef | None = None
    settings: MergeSettings = field(default_factory=MergeSettings)
    seed: int = 0
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources: a merge needs at least one source.")
        for name in self.sources:
            if not _SOURCE_NAME.fullmatch(name):
                raise ConfigError(f"sources: '{name}' is not a name; letters, digits, '-' and '_' make one.")
        object.__setattr__(self, "sources", dict(self.sources))

    def recipe(self, parameters: Mapping[str, SourceParameters]) -> "ParameterMerge":
        """Return the recipe that this template and `parameters` (one entry per source) make."""
        return ParameterMerge(
            host=self.host,
            sources=self.sources,
            method=self.method,
            base=self.base,
            settings=self.settings,
            seed=self.seed,
            vocabulary=self.vocabulary,
            parameters=parameters,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterMerge(MergeTemplate):
    """A complete statement of one merge in parameter space.

    Raises ConfigError when `parameters` does not have exactly the names of `sources`, or when lists of two lengths
    are given (every list has one number per unit of the same model).
    """

    parameters: Mapping[str, SourceParameters]

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
        return MergeTemplate(
            host=self.host,
            sources=self.sources,
            method=self.method,
            base=self.base,
            settings=self.settings,
            seed=self.seed,
            vocabulary=self.vocabulary,
        )

    @property
    def recipe_id(self) -> str:
        """12 hexadecimal digits that stand for everything the recipe says.

        The order of the sources says nothing, nor does the way in which a local folder is written.
        """
        canonical = {
            "kind": "parameter_merge",
            "base": self.base.identity if self.base else None,
            "host": self.host.identity,
            "sources": {name: ref.identity for name, ref in self.sources.items()},
            "method": self.method,
            "settings": asdict(self.settings),
            "seed": self.seed,
            "vocabulary": self.vocabulary,
            "parameters": {
                name: {"weight": _collapsed(numbers.weight), "density": _collapsed(numbers.density)}
                for name, numbers in self.parameters.items()
            },
        }
        text = json.dumps(canonical, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def with_parameters(self, parameters: Mapping[str, SourceParameters]) -> "ParameterMerge":
        """Return the same merge with other numbers."""
        return replace(self, parameters=parameters)

    def unit_lengths(self) -> frozenset[int]:
        """The lengths of the lists among the parameters; each should be the model's number of units, L + 2."""
        values = (value for numbers in self.parameters.values() for value in (numbers.weight, numbers.density))
        return frozenset(len(value) for value in values if isinstance(value, tuple))


Recipe = ParameterMerge


def _collapsed(values: UnitValues) -> UnitValues:
    return values[0] if isinstance(values, tuple) and len(set(values)) == 1 else values


def _named(what: str, names: list[str]) -> str:
    return f"{what} {', '.join(names)}; " if names else ""


def _shown(values: object) -> str:
    text = str(values)
    return text if len(text) <= 80 else text[:77] + "..."
