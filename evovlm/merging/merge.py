"""The merger: models opened once, merged again and again with other numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from evovlm.errors import ConfigError
from evovlm.merging.compatibility import NamedCheckpoint, check_tensors, find_warnings, merged_rows
from evovlm.merging.methods import Method, SourceTensor, TensorInputs, check_parameters, get_method
from evovlm.merging.selection import magnitude_limit, random_limit
from evovlm.merging.sources import Checkpoint
from evovlm.merging.task_vector import TaskVectorStore
from evovlm.merging.tensor_names import EMBEDDING, unit_index
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge, value_at

DEFAULT_CACHE_BYTES = 2 << 30


class NamedTensor(NamedTuple):
    """A merged tensor under its backbone name, in the host's dtype and shape."""

    name: str
    tensor: torch.Tensor


@dataclass(slots=True, kw_only=True, eq=False)
class Merger:
    """Merges the models of one template; open it with `Merger.open`.

    What does not depend on a recipe's numbers is computed once and kept in memory within a budget of bytes; tensors
    beyond it are read from disk each time, one tensor at a time. `source_names` are sorted, and so is every sum over
    sources; `rows` says how many leading rows of each tensor are merged; `warnings` says what merges but may hurt.
    """

    template: MergeTemplate
    method: Method
    host: Checkpoint
    source_names: tuple[str, ...]
    rows: dict[str, int]
    warnings: tuple[str, ...]
    _store: TaskVectorStore
    _host_rows: dict[str, torch.Tensor] = field(default_factory=dict)

    @staticmethod
    def open(
        template: MergeTemplate, *, cache_bytes: int = DEFAULT_CACHE_BYTES, allow_non_finite: bool = False
    ) -> "Merger":
        """Open base, host and sources and check that they fit; a recipe counts as its template.

        With `allow_non_finite`, models that hold NaN or infinities are merged as they are.
        Raises ConfigError for a method that does not exist or does not suit the template, ModelError when a model
        cannot be reached, read or merged with the others.
        """
        plain = template.template if isinstance(template, ParameterMerge) else template
        method = get_method(plain)
        opened: dict[ModelRef, Checkpoint] = {}

        def named(name: str, ref: ModelRef) -> NamedCheckpoint:
            if ref not in opened:
                opened[ref] = Checkpoint.open(ref.resolve())
            return NamedCheckpoint(name=name, text=ref.text, checkpoint=opened[ref])

        base = named("base", plain.base) if plain.base is not None else None
        host = named("host", plain.host)
        names = tuple(sorted(plain.sources))
        sources = [named(f"sources.{name}", plain.sources[name]) for name in names]
        others = [*([base] if base else []), *sources]
        check_tensors(others, host)
        rows = {
            name: merged_rows(name, base=base, host=host, sources=sources, vocabulary=plain.vocabulary)
            for name in host.checkpoint.backbone_names()
        }
        return Merger(
            template=plain,
            method=method,
            host=host.checkpoint,
            source_names=names,
            rows=rows,
            warnings=find_warnings(others, host, rows=rows[EMBEDDING]),
            _store=TaskVectorStore(
                base=base.checkpoint if base and method.needs_base else None,
                sources=[source.checkpoint for source in sources],
                source_names=names,
                rows=rows,
                order=method.order,
                seed=plain.seed,
                cache_bytes=cache_bytes,
                allow_non_finite=allow_non_finite,
            ),
        )

    @property
    def n_blocks(self) -> int:
        """The number of decoder blocks L; a list of parameters has L + 2 numbers."""
        return self.host.layout.n_blocks

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The backbone names of what is merged, in the model's order; a tied head is not among them."""
        return tuple(self.rows)

    def merged(self, recipe: ParameterMerge) -> Iterator[NamedTensor]:
        """Yield every merged tensor: backbone name, host's dtype and shape.

        The tensors are new: whoever takes one may keep it or write into it. Raises ConfigError when the recipe is of
        another template, its lists do not have one number per unit, or an average has no weight left.
        """
        self.check(recipe)
        for name in self.tensor_names:
            yield NamedTensor(name, self._merge_tensor(name, recipe))

    def merged_tensor(self, recipe: ParameterMerge, name: str) -> torch.Tensor:
        """Return one of the tensors that `merged` yields."""
        self.check(recipe)
        return self._merge_tensor(name, recipe)

    def check(self, recipe: ParameterMerge) -> None:
        """Raise ConfigError when the recipe cannot be merged here: another template, lists of a wrong length."""
        if recipe.template != self.template:
            raise ConfigError(f"recipe {recipe.recipe_id} is not of the template that was opened; open its own.")
        check_parameters(self.method, recipe)
        for length in recipe.unit_lengths():
            if length != self.n_blocks + 2:
                raise ConfigError(
                    f"parameters: a list of {length} numbers, but {self.n_blocks + 2} are needed for "
                    f"{self.n_blocks} blocks: embedding, each block, head."
                )

    def _merge_tensor(self, name: str, recipe: ParameterMerge) -> torch.Tensor:
        unit = unit_index(name, self.n_blocks)
        numbers = [recipe.parameters[source] for source in self.source_names]
        weights = [value_at(each.weight, unit) for each in numbers]
        densities = [value_at(each.density, unit) for each in numbers]
        sole = self._sole_source(weights, densities)
        if sole is not None:
            # b + (x - b) is not always x in float32; the source itself is.
            return self._in_host(name, self._store.source_tensor(sole, name))
        return self._in_host(name, self.method.function(self._inputs(name, weights, densities)))

    def _sole_source(self, weights: list[float], densities: list[float]) -> int | None:
        """Return the one source that has weight, where the result is that source: weight 1, density 1, lambda 1."""
        counting = [index for index, weight in enumerate(weights) if weight != 0]
        if len(counting) != 1 or self.template.settings.lambda_ != 1:
            return None
        index = counting[0]
        return index if weights[index] == 1 and densities[index] >= 1 else None

    def _inputs(self, name: str, weights: list[float], densities: list[float]) -> TensorInputs:
        found = self._store.vectors(name, densities)
        limit = magnitude_limit if self.method.order == "magnitude" else random_limit
        settings = self.template.settings
        return TensorInputs(
            base=found.base,
            dtype=self.host.dtype(name),
            sources=tuple(
                SourceTensor(
                    vector=vector, order=order, weight=weight, density=density, limit=limit(density, len(vector))
                )
                for vector, order, weight, density in zip(found.vectors, found.orders, weights, densities, strict=True)
            ),
            rescale=settings.rescale,
            normalize=self.method.normalize if settings.normalize is None else settings.normalize,
            lambda_=settings.lambda_,
        )

    def _in_host(self, name: str, merged: torch.Tensor) -> torch.Tensor:
        """Return the merged rows in the host's dtype, with the host's further rows after them, untouched."""
        shape = self.host.shape(name)
        rows = self.rows[name]
        tensor = merged.view(rows, *shape[1:]).to(self.host.dtype(name))
        if rows == shape[0]:
            return tensor
        if name not in self._host_rows:
            self._host_rows[name] = self.host.read(name)[rows:].clone()
        return torch.cat([tensor, self._host_rows[name]])
