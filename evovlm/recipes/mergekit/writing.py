"""Writes a recipe as a mergekit file that gives every tensor exactly the recipe's numbers, or says why it cannot.

Numbers that differ by unit become filters on tensor names with one gradient through the blocks; where rounding would
let the gradient miss a block's number, that block has a separate entry.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

from evovlm.errors import ConfigError
from evovlm.recipes.choices import AUTO, is_template_text
from evovlm.recipes.language_config import has_vision
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.mergekit.chat_templates import SHORTEST_TEMPLATE
from evovlm.recipes.mergekit.methods import MERGEKIT_METHODS, MergekitMethod
from evovlm.recipes.mergekit.values import conditions_of
from evovlm.recipes.model_ref import ModelRef, all_parts, read_config, weights_dtype
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.recipe import MergeSettings, ParameterMerge
from evovlm.recipes.source_values import (
    BASE_COMPONENTS,
    COMPONENTS,
    SOURCE_PARAMETERS,
    ByComponent,
    UnitValues,
    Values,
    numbers_of,
    value_at,
)
from evovlm.recipes.yaml_text import scalar_text


def recipe_to_mergekit(recipe: ParameterMerge, *, n_blocks: int) -> str:
    """Return the text of a mergekit file (0.1.5) that means what `recipe` means for models of `n_blocks` blocks.

    Models on this machine are written as absolute folders. Raises ConfigError, with the reason, for what mergekit
    cannot do.
    """
    if recipe.method not in MERGEKIT_METHODS:
        hint = did_you_mean(recipe.method, MERGEKIT_METHODS)
        raise ConfigError(f"method: mergekit has no equivalent of '{recipe.method}'{hint}")
    wrong = sorted(recipe.unit_lengths() - {n_blocks + 2})
    if wrong:
        raise ConfigError(f"parameters: lists of {wrong[0]} numbers do not fit {n_blocks} blocks.")
    return "\n".join(_Writer(recipe, n_blocks).lines()) + "\n"


class _Writer:
    """Writes one recipe."""

    def __init__(self, recipe: ParameterMerge, n_blocks: int) -> None:
        self.recipe = recipe
        self.n_blocks = n_blocks
        self.method: MergekitMethod = MERGEKIT_METHODS[recipe.method]
        # What deltas are taken from; a method that knows no base has none, whatever the recipe names.
        self.base = recipe.base if self.method.base != "input" else None
        self.dtypes = self._dtypes()

    def lines(self) -> Iterator[str]:
        """Yield the lines of the file."""
        self._check_models()
        self._check_numbers()
        yield from self._head()
        yield f"merge_method: {self.recipe.method}"
        base = self._base_model()
        if base is not None:
            yield f"base_model: {model_text(base)}"
        yield "models:"
        for name in self._order():
            yield f"  - model: {model_text(self.recipe.sources[name])}"
            yield from self._source_numbers(name)
        if self._host_is_silent():
            yield f"  - model: {model_text(self.recipe.host)}"
            yield "    parameters:"
            yield "      weight: 0.0"
        yield from self._shared()
        yield from self._tokenizer()
        yield from choice_lines(self.recipe)
        yield from self.dtypes
        yield "evovlm:"
        yield f"  seed: {self.recipe.seed}"
        yield "  sources:"
        yield from (f"    {_text(name)}: {model_text(ref)}" for name, ref in self.recipe.sources.items())

    def _head(self) -> Iterator[str]:
        yield f"# Written by evovlm from recipe {self.recipe.recipe_id}, for mergekit 0.1.5: mergekit-yaml THIS OUT"
        yield "# mergekit ignores the part `evovlm`; with it, evovlm reads this file as the same recipe again."
        if self.method.rescales:
            yield "# mergekit draws what to drop from a generator of its own: as many entries, but others."
        if not self.dtypes:
            yield "# mergekit computes models stored in bfloat16 in bfloat16; evovlm rounds once. `dtype: float32` and"
            yield "# `out_dtype: bfloat16` have mergekit do the same."
        if self._divides() and any(number < 0 for number in self._weights()):
            yield "# Weights of both signs: evovlm keeps divisors away from 0, mergekit does not."
        if self._base_model() is None and len(self.recipe.sources) > 1:
            yield "# Without a base, mergekit takes config and tokenizer from any of the models; evovlm from the first."

    def _check_models(self) -> None:
        recipe, method = self.recipe, self.method
        if method.base == "required" and recipe.base is None:
            raise ConfigError(f"base: missing; {recipe.method} takes differences from a base model.")
        count, most = len(recipe.sources), method.max_sources
        if count < method.min_sources or (most is not None and count > most):
            raise ConfigError(f"sources: mergekit's {recipe.method} does not merge {count}.")
        places = [("host", recipe.host), *recipe.sources.items(), *([("base", self.base)] if self.base else [])]
        for name, ref in places:
            check_nameable(name, ref)
        written = [_path(ref) for ref in recipe.sources.values()] + ([_path(self.base)] if self.base else [])
        if len(set(written)) < len(written):
            raise ConfigError("sources: a model is given twice, which mergekit refuses.")
        if recipe.vocabulary == "base_rows":
            raise ConfigError("vocabulary: base_rows has no equivalent in mergekit; host and union have.")
        self._check_host()

    def _check_host(self) -> None:
        recipe = self.recipe
        default = self._default_host()
        config_from = recipe.host if recipe.config_from is None else self._named(recipe.config_from)
        if config_from.identity != default.identity:
            raise ConfigError(
                f"{'host' if recipe.config_from is None else 'config_from'}: mergekit takes the config of "
                f"'{default.text}', not of '{config_from.text}'; name that as the host, or set `config_from: base` and "
                "`vocabulary: host` to take only the tokenizer from the host."
            )
        own = {ref.identity for ref in recipe.sources.values()}
        tokenizer_alone = recipe.vocabulary == "host" and recipe.host.identity in own
        if recipe.host.identity == default.identity or tokenizer_alone:
            return
        raise ConfigError(
            f"host: with the config of '{default.text}', mergekit can take no more than the tokenizer of "
            f"'{recipe.host.text}', which takes `vocabulary: host` and the host among the sources."
        )

    def _named(self, name: str) -> ModelRef:
        base = self.recipe.base
        return base if name == "base" and base is not None else self.recipe.sources[name]

    def _default_host(self) -> ModelRef:
        """Return whose config mergekit takes."""
        if self.base is not None:
            return self.base
        same = [ref for ref in self.recipe.sources.values() if ref.identity == self.recipe.host.identity]
        return self.recipe.host if same or self._host_is_silent() else next(iter(self.recipe.sources.values()))

    def _host_is_silent(self) -> bool:
        """Whether the host is to give an average its config with a weight of 0."""
        own = {ref.identity for ref in self.recipe.sources.values()}
        return self.recipe.method == "linear" and self.recipe.host.identity not in own

    def _base_model(self) -> ModelRef | None:
        """Return what to name as `base_model`: for methods that take it for one more input, it says whose config."""
        if self.base is not None:
            return self.base
        names_config = self.method.base == "input" and self.recipe.method != "passthrough"
        return self.recipe.host if names_config else None

    def _order(self) -> list[str]:
        """Return the sources, the host first: without a base, it is read back as the host."""
        host = self.recipe.host.identity
        return sorted(self.recipe.sources, key=lambda name: self.recipe.sources[name].identity != host)

    def _check_numbers(self) -> None:
        recipe, method = self.recipe, self.method
        for name, numbers in recipe.parameters.items():
            for parameter, row in SOURCE_PARAMETERS.items():
                values = numbers_of(getattr(numbers, parameter))
                if parameter != "weight" and parameter not in method.parameters and set(values) != {row.default}:
                    raise ConfigError(f"parameters.{name}.{parameter}: mergekit's {recipe.method} takes none.")
            if method.weight is None and recipe.method != "karcher" and set(numbers_of(numbers.weight)) != {1.0}:
                raise ConfigError(f"parameters.{name}.weight: mergekit's {recipe.method} takes none; it must be 1.")
        if recipe.method == "karcher" and not self._weighs_all_the_same():
            raise ConfigError("parameters: mergekit's karcher weighs all sources the same.")
        taken = {*method.settings, *(["rescale"] if method.rescales else [])}
        for setting in recipe.settings.changed():
            if setting not in taken:
                raise ConfigError(f"settings.{setting.rstrip('_')}: mergekit's {recipe.method} takes none.")
        drops = {number for each in recipe.parameters.values() for number in numbers_of(each.density)} - {0.0, 1.0}
        if method.rescales and recipe.settings.rescale == "density" and drops:
            raise ConfigError(
                "settings.rescale: `density` divides by the density. mergekit does not; it keeps the L1 norm "
                "(`rescale: l1`) or does not rescale (`rescale: none`), which are other models."
            )

    def _weighs_all_the_same(self) -> bool:
        weights = [numbers.weight for numbers in self.recipe.parameters.values()]
        if len({weight.tensors if isinstance(weight, ByComponent) else () for weight in weights}) > 1:
            return False
        cells = ((unit, part) for unit in range(self.n_blocks + 2) for part in (*COMPONENTS, *BASE_COMPONENTS))
        return all(len({value_at(weight, unit, part) for weight in weights}) == 1 for unit, part in cells)

    def _divides(self) -> bool:
        own = self.recipe.settings.normalize
        return self.method.averages if own is None else own

    def _weights(self) -> Iterator[float]:
        for numbers in self.recipe.parameters.values():
            yield from numbers_of(numbers.weight)

    def _source_numbers(self, name: str) -> Iterator[str]:
        numbers = self.recipe.parameters[name]
        found: dict[str, Values] = {}
        if self.method.weight is not None and not self.method.weight_is_shared:
            found[self.method.weight] = numbers.weight
        found |= {parameter: getattr(numbers, parameter) for parameter in self.method.parameters}
        if found:
            yield "    parameters:"
        for parameter, values in found.items():
            yield from self._setting(parameter, values, indent="      ")

    def _shared(self) -> Iterator[str]:
        found: list[str] = []
        if self.method.weight is not None and self.method.weight_is_shared:
            (numbers,) = self.recipe.parameters.values()
            found += self._setting(self.method.weight, numbers.weight, indent="  ")
        settings = self.recipe.settings
        for own, setting in self.method.settings.items():
            value = getattr(settings, own)
            if value != getattr(MergeSettings(), own):
                shown = not value if setting.kind == "inverse" else value
                found.append(f"  {setting.name}: {scalar_text_of(shown)}")
        if self.method.rescales and settings.rescale != "density":
            found.append(f"  rescale: {scalar_text_of(settings.rescale == 'l1')}")
        yield from (["parameters:", *found] if found else [])

    def _setting(self, name: str, values: Values, *, indent: str) -> Iterator[str]:
        conditions = conditions_of(values, self.n_blocks)
        if not isinstance(conditions, tuple):
            yield f"{indent}{name}: {scalar_text_of(conditions)}"
            return
        yield f"{indent}{name}:"
        for part, value in conditions:
            condition = f"filter: {part}, " if part is not None else ""
            yield f"{indent}  - {{{condition}value: {_numbers(value)}}}"

    def _tokenizer(self) -> Iterator[str]:
        if self.recipe.vocabulary == "union":
            yield "tokenizer_source: union"
        elif self.recipe.vocabulary == "host":
            base = self._base_model()
            is_base = base is not None and base.identity == self.recipe.host.identity
            yield f"tokenizer_source: {'base' if is_base else model_text(self.recipe.host)}"

    def _dtypes(self) -> tuple[str, ...]:
        """Return the lines that make mergekit compute as a recipe is computed: in float32, rounded once."""
        return dtype_lines(self.recipe.host, self.recipe.dtype)


def check_nameable(name: str, ref: ModelRef) -> None:
    """Raise ConfigError when mergekit does not take the model called `name`: it sees pictures, or its path misleads."""
    config = read_config(ref)
    if config is not None and has_vision(config):
        raise ConfigError(f"{name}: '{ref.text}' sees pictures; mergekit merges language models only.")
    for part in all_parts(ref):
        if isinstance(part.find(), Path) and not {"+", "@"}.isdisjoint(_path_of_part(part)):
            raise ConfigError(f"{name}: mergekit cannot name the folder {_path_of_part(part)}; it has a '+' or '@'.")


def dtype_lines(host: ModelRef, dtype: str | None) -> tuple[str, ...]:
    """Return the lines that make mergekit compute in float32 and round once to `dtype` (None: the host's).

    None are returned where the host's dtype is not known.
    """
    stored = dtype or weights_dtype(host)
    if stored in (None, "float64"):
        return ()
    return ("dtype: float32",) if stored == "float32" else ("dtype: float32", f"out_dtype: {stored}")


def choice_lines(recipe: ParameterMerge | LayerPathMerge) -> tuple[str, ...]:
    """Return the line for the chat template. Raises ConfigError for a choice that a mergekit file does not have."""
    template = recipe.chat_template
    is_text = template is not None and is_template_text(template) and len(template) >= SHORTEST_TEMPLATE
    if recipe.generation is not None or not (template in (None, AUTO) or is_text):
        raise ConfigError(
            "chat_template: mergekit cannot take a template or generation settings from a model that you name; "
            "export the recipe with `chat_template: auto`, with the text of a template, or without."
        )
    if recipe.backbone is not None:
        raise ConfigError("backbone: mergekit cannot be given the prefixes of tensors; it may not read such models.")
    return () if template is None else (f"chat_template: {scalar_text(template)}",)


def _path(ref: ModelRef) -> str:
    """Return MODEL or MODEL+ADAPTER, which mergekit writes in the same way."""
    return "+".join(map(_path_of_part, all_parts(ref)))


def _path_of_part(ref: ModelRef) -> str:
    folder = ref.local_folder()
    return ref.text if folder is None else folder.resolve().as_posix()


def model_text(ref: ModelRef) -> str:
    """Return a model as mergekit names it: an absolute folder where it is on this machine, else its hub id."""
    return _text(_path(ref))


def _text(text: str) -> str:
    """Return the text as a scalar that YAML 1.1, which mergekit reads, takes for that text too."""
    plain = scalar_text(text)
    return plain if plain.startswith('"') or yaml.safe_load(plain) == text else f'"{plain}"'


def _numbers(value: UnitValues) -> str:
    return f"[{', '.join(map(scalar_text_of, value))}]" if isinstance(value, tuple) else scalar_text_of(value)


def scalar_text_of(value: float | bool) -> str:
    """Return a number that YAML 1.1, which mergekit reads, takes for that number too."""
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    # 1e-05 is text to YAML 1.1; 1.0e-05 is a number.
    return text.replace("e", ".0e") if "e" in text and "." not in text else text
