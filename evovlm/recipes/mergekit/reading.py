"""Reads a mergekit file as the recipe that it means, or refuses it with the lines that have no equivalent in a recipe.

merge_method: slerp
base_model: mistralai/Mistral-7B-v0.1
models: [{model: mistralai/Mistral-7B-v0.1}, {model: augmxnt/shisa-gamma-7b-v1}]
parameters: {t: [{filter: self_attn, value: [0, 0.5, 1]}, {value: 0.5}]}
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from evovlm.errors import ConfigError
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.mergekit.document import MergekitDocument
from evovlm.recipes.mergekit.inputs import Inputs, find_inputs
from evovlm.recipes.mergekit.methods import ALWAYS_IGNORED, MERGEKIT_METHODS, MergekitMethod
from evovlm.recipes.mergekit.numbers import Reading
from evovlm.recipes.mergekit.slices import is_path, path_of_slices
from evovlm.recipes.mergekit.values import Refusal
from evovlm.recipes.model_ref import ModelRef, parse_model_ref, weights_dtype
from evovlm.recipes.problems import did_you_mean, line_of, report_places, report_problems
from evovlm.recipes.recipe import Dtype, MergeSettings, ParameterMerge, Vocabulary
from evovlm.recipes.source_values import SourceParameters, numbers_of
from evovlm.recipes.yaml_text import KeyPath

_LAMBDA = "lambda"


def is_mergekit(document: object) -> bool:
    """Return whether the content of a YAML file is a mergekit config."""
    return isinstance(document, Mapping) and "merge_method" in document and "kind" not in document


def refuse_other_tools(document: object, path: Path) -> None:
    """Raise ConfigError, naming it, for a file of mergekit-moe, mergekit-evolve or mergekit-extract-lora."""
    if not isinstance(document, Mapping) or "kind" in document:
        return
    if "experts" in document:
        raise ConfigError(
            f"{path}: is a config of mergekit-moe, which builds a mixture of experts out of whole models; evovlm does "
            "not build one, it merges models of one architecture."
        )
    if "genome" in document:
        raise ConfigError(
            f"{path}: is a config of mergekit-evolve, so it describes a search and not one merge.\n"
            "    `evovlm evolve` runs it, and `evovlm convert` writes it as a config of evovlm."
        )


def recipe_from_mergekit(
    text: object,
    path: Path,
    *,
    methods: Collection[str] = (),
    on_note: Callable[[str], None] | None = None,
) -> ParameterMerge | LayerPathMerge:
    """Return the recipe that `text`, read from the mergekit file `path`, means.

    Relative model paths start at the file's folder.

    Gradients, filters and slices are read for the model whose config.json is on this machine. mergekit's command-line
    options (--random-seed, --allow-crimes) are not part of its file; masks of DARE and DELLA are drawn from the
    recipe's seed. Slices of one model after another become a path. `methods` are the names that a recipe's method may
    have (empty: any); `on_note` gets what is left out because it changes nothing. Raises ConfigError with all problems
    of the file: what mergekit would refuse too, what it would ignore in silence, and what a recipe cannot say.
    """
    try:
        document = MergekitDocument.model_validate(text)
    except ValidationError as error:
        raise report_problems(path, error, model=MergekitDocument) from error
    known = {name for name in MERGEKIT_METHODS if not methods or name in methods}
    if document.merge_method not in known:
        hint = did_you_mean(document.merge_method, known)
        reason = f"merge_method: '{document.merge_method}' has no equivalent here{hint}"
        raise report_places(path, [(("merge_method",), reason)])
    try:
        reader = _Reader(path, document)
        recipe = reader.path_recipe() if is_path(document, path.parent) else reader.recipe()
    except Refusal as refusal:
        raise report_places(path, [(refusal.place, refusal.reason)]) from refusal
    except ConfigError as error:
        if str(error).startswith(str(path)):
            raise
        raise ConfigError(f"{path}: {error}") from error
    if on_note is not None:
        for place, note in reader.notes:
            on_note(f"{path}:{line_of(path, place)}: {note}")
    return recipe


@contextmanager
def _gathered(problems: list[Refusal]) -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        problems.append(refusal)


class _Reader:
    """Reads one file; problems that do not hide others are gathered."""

    def __init__(self, path: Path, document: MergekitDocument) -> None:
        self.path = path
        self.document = document
        self.method: MergekitMethod = MERGEKIT_METHODS[document.merge_method]
        self.problems: list[Refusal] = []
        self.notes: list[tuple[KeyPath, str]] = []

    def path_recipe(self) -> LayerPathMerge:
        recipe = path_of_slices(self.document, self.path.parent)
        recipe = replace(recipe, dtype=self._dtype(recipe.host), chat_template=self.document.chat_template)
        if self.problems:
            raise report_places(self.path, [(problem.place, problem.reason) for problem in self.problems])
        return recipe

    def recipe(self) -> ParameterMerge:
        inputs = find_inputs(self.document, self.method)
        refs = {text: parse_model_ref(text, relative_to=self.path.parent) for text in inputs.models}
        reading = Reading.open(self.document, inputs, refs)
        self._refuse_ignored(inputs)
        parameters = self._parameters(inputs, reading)
        settings = self._settings(reading, parameters)
        host, vocabulary, config_from = self._host(inputs)
        dtype = self._dtype(refs[host])
        if self.problems:
            raise report_places(self.path, [(problem.place, problem.reason) for problem in self.problems])
        dropped = self._silent_host(inputs, parameters)
        sources = [text for text in inputs.sources if text != dropped]
        if config_from is not None and config_from == dropped:
            raise Refusal(("tokenizer_source",), "tokenizer_source: the config would come from a model of weight 0.")
        return ParameterMerge(
            base=refs[inputs.base] if inputs.base is not None else None,
            host=refs[host],
            sources={inputs.names[text]: refs[text] for text in sources},
            method=self.document.merge_method,
            settings=settings,
            seed=self.document.evovlm.seed,
            vocabulary=vocabulary,
            config_from=inputs.names.get(config_from, "base") if config_from is not None else None,
            chat_template=self.document.chat_template,
            dtype=dtype,
            parameters={inputs.names[text]: parameters[text] for text in sources},
        )

    def _parameters(self, inputs: Inputs, reading: Reading) -> dict[str, SourceParameters]:
        found: dict[str, SourceParameters] = {}
        for source in inputs.sources:
            numbers: dict[str, object] = {"weight": 1.0}
            if self.method.weight is not None:
                with _gathered(self.problems):
                    numbers["weight"] = reading.values(
                        self.method.weight,
                        source=None if self.method.weight_is_shared else source,
                        default=self.method.weight_default,
                        missing_for=source,
                    )
            for name in self.method.parameters:
                with _gathered(self.problems):
                    value = reading.parameter(name, source)
                    if value is not None:
                        numbers[name] = value
            found[source] = SourceParameters(**numbers)  # type: ignore[arg-type]
        return found

    def _settings(self, reading: Reading, parameters: Mapping[str, SourceParameters]) -> MergeSettings:
        found: dict[str, object] = {}
        for own, setting in self.method.settings.items():
            with _gathered(self.problems):
                value = reading.setting(setting)
                if value is not None:
                    found[own] = value
        if self.method.rescales:
            with _gathered(self.problems):
                found["rescale"] = "none" if reading.shared("rescale", kind="flag") is False else "l1"
        keeps_all = all(set(numbers_of(each.density)) == {1.0} for each in parameters.values())
        for name, fixed in self.method.fixed.items():
            with _gathered(self.problems):
                given = reading.shared(name, kind="flag" if isinstance(fixed, bool) else "number")
                if given not in (None, fixed) and not (name == "rescale" and keeps_all):
                    shown = str(fixed).lower()
                    raise Refusal(
                        reading.place_of(name),
                        f"{name}: has no equivalent here except {shown} (found {str(given).lower()}).",
                    )
        return MergeSettings(**found)  # type: ignore[arg-type]

    def _silent_host(self, inputs: Inputs, parameters: Mapping[str, SourceParameters]) -> str | None:
        """Return the base_model of an average in which it weighs nothing: it gives the config, and is not a source."""
        host = inputs.default_host
        averaged = self.document.merge_method == "linear" and host == self.document.base_model
        if not averaged or len(inputs.sources) == 1 or host in self.document.evovlm.sources.values():
            return None
        return host if set(numbers_of(parameters[host].weight)) == {0.0} else None

    def _refuse_ignored(self, inputs: Inputs) -> None:
        """Note every parameter that mergekit would ignore at its location: most often a mistake."""
        of_sources, shared = set(self.method.source_parameters), set(self.method.shared_parameters)
        harmless = ALWAYS_IGNORED | self.method.no_effect
        levels: list[tuple[KeyPath, Mapping[str, object], set[str]]] = [
            (("parameters",), self.document.parameters or {}, of_sources | shared)
        ]
        for each_slice in inputs.slices:
            levels.append(((*each_slice.place, "parameters"), each_slice.parameters, of_sources | shared))
            levels += [((*each.place, "parameters"), each.parameters, of_sources) for each in each_slice.sources]
        for place, given, used in levels:
            for name in sorted(set(given) - used - harmless):
                why = f"mergekit's {self.document.merge_method} ignores it here"
                if name == _LAMBDA and name not in shared:
                    # Shared by many files as part of a block of settings, it changes nothing there either.
                    self.notes.append(((*place, name), f"{name}: {why}, and so does the recipe"))
                    continue
                hint = "; it belongs above the models" if name in shared else did_you_mean(name, used)
                self.problems.append(Refusal((*place, name), f"{name}: {why}{hint}"))

    def _host(self, inputs: Inputs) -> tuple[str, Vocabulary | None, str | None]:
        """Return the host, the vocabulary policy, and the model that the config comes from (None: the host)."""
        tokenizer = self.document.tokenizer
        key: KeyPath = ("tokenizer_source",) if tokenizer is None else ("tokenizer", "source")
        source = self.document.tokenizer_source if tokenizer is None else tokenizer.source
        if tokenizer is not None and self.document.tokenizer_source is not None:
            self.problems.append(Refusal(key, "tokenizer: give this or tokenizer_source, not both."))
        host = inputs.default_host
        if source is None:
            return host, None, None
        if source == "union":
            return host, "union", None
        if source == "base":
            if self.document.base_model is None:
                self.problems.append(Refusal(key, f"{key[-1]}: base needs a base_model."))
            return host, "host", None
        if source not in inputs.models:
            self.problems.append(Refusal(key, f"{key[-1]}: '{source}' is not one of the models that are merged."))
            return host, "host", None
        return source, "host", (host if self.document.base_model is not None and source != host else None)

    def _dtype(self, host: ModelRef) -> Dtype | None:
        """Return the dtype that the file asks for; None where the host's weights have it, as a merge keeps that."""
        asked = self.document.out_dtype or self.document.dtype
        if asked is None or asked == weights_dtype(host):
            return None
        if asked == "float64":
            key = "out_dtype" if self.document.out_dtype else "dtype"
            self.problems.append(
                Refusal((key,), f"{key}: float64 has no equal here; a merge is computed in float32. Remove the line.")
            )
            return None
        return asked
