"""The values of a mergekit file's parameters for every tensor, with mergekit's precedence of scopes."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.recipes.language_config import language_model_type
from evovlm.recipes.mergekit.document import MergekitDocument
from evovlm.recipes.mergekit.inputs import Inputs
from evovlm.recipes.mergekit.methods import MERGEKIT_METHODS, SharedSetting
from evovlm.recipes.mergekit.values import (
    Found,
    Kind,
    Refusal,
    Scalar,
    Scope,
    Tensor,
    is_plain,
    resolve,
    tensors_of,
    values_of,
)
from evovlm.recipes.model_ref import ModelRef, count_blocks, read_config
from evovlm.recipes.source_values import SOURCE_PARAMETERS, Values, numbers_of
from evovlm.recipes.yaml_text import KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The parameters of one file, and the tensors for which they are read."""

    document: MergekitDocument
    inputs: Inputs
    tensors: tuple[Tensor, ...]

    @staticmethod
    def open(document: MergekitDocument, inputs: Inputs, refs: Mapping[str, ModelRef]) -> "Reading":
        """Find out how many blocks the models have, where anything depends on it.

        Raises Refusal when no config.json on this machine says it, or when the slices are not the whole model.
        """
        varying = _place_of_varying(document, inputs)
        if varying is None:
            return Reading(document=document, inputs=inputs, tensors=tensors_of("any", [1]))
        for ref in refs.values():
            config = read_config(ref)
            n_blocks = count_blocks(config) if config is not None else None
            if config is not None and n_blocks is not None:
                model_type = language_model_type(config)
                lengths = [each.n_blocks or n_blocks for each in inputs.slices]
                if sum(lengths) != n_blocks:
                    raise Refusal(
                        (*inputs.slices[-1].sources[0].place, "layer_range"),
                        f"layer_range: the slices have {sum(lengths)} blocks, '{ref.text}' has {n_blocks}; a recipe "
                        "merges whole models.",
                    )
                return Reading(document=document, inputs=inputs, tensors=tensors_of(model_type, lengths))
        raise Refusal(
            varying,
            "what a gradient, a filter or a slice means depends on the model's blocks, and no config.json of "
            f"{', '.join(refs)} is on this machine. Download one first: hf download ID config.json",
        )

    @property
    def n_units(self) -> int:
        """Embedding, blocks, head."""
        return self.tensors[-1].unit + 1

    def values(self, name: str, *, source: str | None, default: float | None, missing_for: str) -> Values:
        """Return a number of a source (None: one that all share); raises Refusal when it is missing somewhere."""

        def lookup(tensor: Tensor) -> Found:
            found = resolve(self._scopes(name, tensor.part, source), tensor, kind="number")
            if found is None and default is None:
                place = self._place_of_source(missing_for) if source else ("parameters",)
                raise Refusal(place, f"{name}: missing for {tensor.name} of '{missing_for}'.")
            return found or Found(default or 0.0, ())

        return values_of(self.tensors, lookup, n_units=self.n_units)

    def parameter(self, name: str, source: str) -> Values:
        """Return a density, gamma or epsilon; raises Refusal when it is out of range."""
        row = SOURCE_PARAMETERS[name]
        values = self.values(name, source=source, default=row.default, missing_for=source)
        wrong = [number for number in numbers_of(values) if not row.low <= number <= row.high]
        if wrong:
            raise Refusal(
                self.place_of(name, source), f"{name}: {wrong[0]} is not in [{row.low:g}, {row.high:g}]; {row.meaning}."
            )
        return values

    def shared(self, name: str, *, kind: Kind) -> Scalar | None:
        """Return the one value that all tensors share, None when none is given; raises Refusal when they differ."""
        found = [resolve(self._scopes(name, tensor.part, None), tensor, kind=kind) for tensor in self.tensors]
        values = {each.value if each is not None else None for each in found}
        if len(values) > 1:
            raise Refusal(self.place_of(name), f"{name}: differs between tensors; a recipe has one for all.")
        return values.pop()

    def setting(self, setting: SharedSetting) -> object:
        """Return the setting as a recipe states it, None when it is not given."""
        value = self.shared(setting.name, kind="flag" if setting.kind in ("flag", "inverse") else "number")
        if value is None:
            return None
        if setting.kind == "inverse":
            return not value
        if setting.kind == "whole":
            if value != int(value) or value < 1:
                raise Refusal(self.place_of(setting.name), f"{setting.name}: {value} is not a whole number above 0.")
            return int(value)
        if setting.name == "select_topk" and not 0 <= value <= 1:
            raise Refusal(self.place_of(setting.name), f"{setting.name}: {value} is not in [0, 1].")
        return value

    def place_of(self, name: str, source: str | None = None) -> KeyPath:
        """Return where the parameter is first given, for a message."""
        for part in range(len(self.inputs.slices)):
            for scope in self._scopes(name, part, source):
                return scope.place
        return ("parameters",)

    def _scopes(self, name: str, part: int, source: str | None) -> list[Scope]:
        here = self.inputs.slices[part]
        levels: list[tuple[KeyPath, Mapping[str, object]]] = [
            ((*each.place, "parameters"), each.parameters) for each in here.sources if each.model == source
        ]
        levels.append(((*here.place, "parameters"), here.parameters))
        levels.append((("parameters",), self.document.parameters or {}))
        return [Scope((*place, name), given[name]) for place, given in levels if name in given]

    def _place_of_source(self, source: str) -> KeyPath:
        return next(each.place for each in self.inputs.slices[0].sources if each.model == source)


def _place_of_varying(document: MergekitDocument, inputs: Inputs) -> KeyPath | None:
    """Return the first place where a parameter that counts has more than one value; slices always have."""
    if inputs.slices[0].n_blocks is not None:
        return inputs.slices[0].place
    method = MERGEKIT_METHODS[document.merge_method]
    counting = {*method.source_parameters, *method.shared_parameters}
    levels: list[tuple[KeyPath, Mapping[str, object]]] = [
        ((*source.place, "parameters"), source.parameters)
        for source in inputs.slices[0].sources
        if source.model != inputs.base
    ]
    levels.append((("parameters",), document.parameters or {}))
    return next(
        (
            (*place, name)
            for place, given in levels
            for name, setting in given.items()
            if name in counting and not is_plain(setting)
        ),
        None,
    )
