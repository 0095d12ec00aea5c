"""The merger: models opened once, merged again and again with other numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from evovlm.errors import ConfigError
from evovlm.merging.compatibility import NamedCheckpoint, check_tensors, find_warnings
from evovlm.merging.methods import Method, SourceTensor, TensorInputs, check_parameters, get_method
from evovlm.merging.result_layout import ResultLayout
from evovlm.merging.row_plan import RowPlan
from evovlm.merging.selection import magnitude_limit, random_limit
from evovlm.merging.sources import Checkpoint
from evovlm.merging.task_vector import TaskVectorStore
from evovlm.merging.tensor_names import unit_index
from evovlm.merging.vocabulary_policy import plan_rows, vocabulary_warnings
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
    sources; `result` says what the merged model is beside its numbers, `rows` how the rows of each of its tensors are
    made; `warnings` says what merges but may hurt.
    """

    template: MergeTemplate
    method: Method
    host: Checkpoint
    source_names: tuple[str, ...]
    result: ResultLayout
    rows: dict[str, RowPlan]
    warnings: tuple[str, ...]
    _store: TaskVectorStore
    _opened: dict[str, Checkpoint] = field(default_factory=dict)
    _host_rows: dict[str, torch.Tensor] = field(default_factory=dict)

    @staticmethod
    def open(template: MergeTemplate, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> "Merger":
        """Open base, host and sources and check that they fit; a recipe counts as its template.

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
        result = ResultLayout.plan(
            base=base, host=host, sources=sources, vocabulary=plain.vocabulary, config_from=plain.config_from
        )
        rows = {
            name: plan_rows(name, base=base, host=host, sources=sources, vocabulary=plain.vocabulary)
            for name in result.tensor_names
        }
        return Merger(
            template=plain,
            method=method,
            host=host.checkpoint,
            source_names=names,
            result=result,
            rows=rows,
            warnings=(
                *find_warnings(others, host, config_from=plain.config_from),
                *vocabulary_warnings(base=base, host=host, sources=sources, vocabulary=plain.vocabulary),
            ),
            _opened={model.name: model.checkpoint for model in others},
            _store=TaskVectorStore(
                base=base.checkpoint if base and method.needs_base else None,
                sources=[source.checkpoint for source in sources],
                source_names=names,
                rows=rows,
                order=method.order,
                seed=plain.seed,
                cache_bytes=cache_bytes,
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
        """Return the merged rows in the host's dtype at their places among the host's rows and the new ones."""
        plan = self.rows[name]
        shape = self.host.shape(name)
        rows = merged.view(plan.n_merged, *shape[1:]).to(self.host.dtype(name))
        if plan.n_merged == plan.n_rows:
            return rows
        tensor = self._unmerged(name).clone()
        done = 0
        for run in plan.runs:
            tensor[run.row : run.row + run.n_rows] = rows[done : done + run.n_rows]
            done += run.n_rows
        return tensor

    def _unmerged(self, name: str) -> torch.Tensor:
        """Return the host's tensor with the new rows in it, in the host's dtype."""
        if name not in self._host_rows:
            plan, own = self.rows[name], self.host.read(name)
            tensor = torch.zeros(plan.n_rows, *own.shape[1:], dtype=self.host.dtype(name))
            tensor[: len(own)] = own
            for row in plan.new:
                rows = [self._opened[label].read(name)[place].double() for label, place in row.origins]
                tensor[row.row] = torch.stack(rows).mean(dim=0)
            self._host_rows[name] = tensor
        return self._host_rows[name]
