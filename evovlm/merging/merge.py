"""The merger: models opened once, merged again and again with other numbers."""

import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.buffers import STORED, MemoryBudget, Raw, Scratch, narrow, widen
from evovlm.merging.arithmetic.combination import Combination, combine
from evovlm.merging.arithmetic.method_functions import MethodInputs
from evovlm.merging.arithmetic.methods import Method, check_parameters, get_method
from evovlm.merging.arithmetic.task_vector import ModelTensor, Stretch, TaskVectors
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.compatibility import NamedCheckpoint, check_tensors, find_warnings
from evovlm.merging.models.result_layout import ResultLayout
from evovlm.merging.models.row_plan import RowPlan
from evovlm.merging.models.tensor_names import component_of, unit_index
from evovlm.merging.models.vocabulary_policy import plan_rows, vocabulary_warnings
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import SOURCE_PARAMETERS, MergeTemplate, ParameterMerge, value_at

Planned = Combination | int
"""What is done for a tensor: a combination, or the number of the one source that it is."""


class TensorPlan(NamedTuple):
    """One tensor of all models, and what is done for it."""

    vectors: TaskVectors
    planned: Planned


class Sink(Protocol):
    """Takes merged entries, from several threads at once, in any order."""

    def write(self, name: str, start: int, values: Raw) -> None:
        """Take the entries from number `start` on of a tensor (by backbone name), as the result stores them.

        `values` is lent: it is written over once this returns.
        """
        ...


def default_threads() -> int:
    """Return how many threads work at a time: OMP_NUM_THREADS, else as many as there are processors for us."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    # macOS cannot tell which processors are ours.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True, kw_only=True, eq=False)
class Merger:
    """Merges the models of one template; open it with `Merger.open`.

    Tensors are read in chunks whenever they are needed, so that memory does not grow with the models; what does not
    depend on a recipe's numbers (magnitude orders, inner products) is worked out once. `source_names` are sorted, and
    so is every sum over sources; `result` says what the merged model is beside its numbers, `rows` how the rows of each
    of its tensors are made; `warnings` says what merges but may hurt. The result does not depend on `threads`.
    """

    template: MergeTemplate
    method: Method
    host: Checkpoint
    source_names: tuple[str, ...]
    result: ResultLayout
    rows: dict[str, RowPlan]
    warnings: tuple[str, ...]
    threads: int
    allow_non_finite: bool
    _budget: MemoryBudget
    _models: dict[str, NamedCheckpoint]
    _vectors: dict[tuple[str, bool, bool], TaskVectors] = field(default_factory=dict)

    @staticmethod
    def open(
        template: MergeTemplate, *, threads: int | None = None, allow_non_finite: bool = False, cache_bytes: int = 0
    ) -> "Merger":
        """Open base, host and sources and check that they fit; a recipe counts as its template.

        `cache_bytes` of memory may be spent on what is the same for all recipes and costs more to work out again.

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
            threads=threads or default_threads(),
            allow_non_finite=allow_non_finite,
            _budget=MemoryBudget(cache_bytes),
            _models={model.name: model for model in (*others, host)},
        )

    def variant(self, template: MergeTemplate) -> "Merger":
        """Return what merges the same models by another method, other settings, or into the config of another model.

        Nothing is opened again, and what is worked out for one serves the others. Raises ConfigError for a template
        that differs by more, or that has tensors which this one does not.
        """
        own = self.template
        if replace(template, method=own.method, settings=own.settings, config_from=own.config_from) != own:
            raise ConfigError("its models, seed or vocabulary are not of the template that was opened; open its own.")
        result = self.result
        if template.config_from != own.config_from:
            models = dict(self._models)
            result = ResultLayout.plan(
                host=models.pop("host"),
                base=models.pop("base", None),
                sources=models.values(),
                vocabulary=own.vocabulary,
                config_from=template.config_from,
            )
        if result.tensor_names != self.result.tensor_names:
            raise ConfigError(
                f"config_from: the head of {template.config_from or 'host'} is {'' if result.tied else 'not '}its "
                f"embedding, that of {own.config_from or 'host'} is{' not' if result.tied else ''}: one search cannot "
                "have both."
            )
        return replace(self, template=template, method=get_method(template), result=result)

    @property
    def n_blocks(self) -> int:
        """The number of decoder blocks L; a list of parameters has L + 2 numbers."""
        return self.host.layout.n_blocks

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The backbone names of what is merged, in the model's order; a tied head is not among them."""
        return tuple(self.rows)

    def merge(self, recipe: ParameterMerge, sink: Sink) -> None:
        """Give every merged entry to `sink`, in the host's dtype; rows that are not merged are not given.

        Raises ConfigError when the recipe is of another template, its lists do not have one number per unit, or an
        average has no weight left; BrokenCheckpoint when a model holds a number that is not finite, or its file ends
        early.
        """
        self.carry_out(self.plans(recipe), sink)

    def plans(self, recipe: ParameterMerge) -> Iterator[TensorPlan]:
        """Yield what `merge` does for each tensor, the largest first. Raises as `merge` does."""
        self.check(recipe)

        def plan(name: str) -> TensorPlan:
            vectors = self._task_vectors(name)
            with np.errstate(all="ignore"):
                return TensorPlan(vectors, self._plan(name, vectors, recipe))

        if self.threads == 1:
            yield from map(plan, self._by_size())
            return
        # Ahead of those who take them: what looks at a whole tensor goes on beside the merging of another.
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                yield from pool.map(plan, self._by_size())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def carry_out(self, plans: Iterable[TensorPlan], sink: Sink) -> None:
        """Give the entries of some of the `plans` to `sink`, as `merge` does for all of them."""
        chunks = ((plan, stretch) for plan in plans for stretch in self._stretches(plan.vectors))
        if self.threads == 1:
            for plan, stretch in chunks:
                self._merge_chunk(plan, stretch, sink)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                waiting: list[Future[None]] = [
                    pool.submit(self._merge_chunk, plan, stretch, sink) for plan, stretch in chunks
                ]
                for future in waiting:
                    future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _by_size(self) -> list[str]:
        # The largest first: what is left for the end is small, so no thread waits long for another.
        return sorted(self.tensor_names, key=lambda name: -self.rows[name].n_merged * self._columns(name))

    def new_rows(self) -> Iterator[tuple[str, int, Raw]]:
        """Yield the rows that the host does not have: tensor, number of the first entry, values in the host's dtype.

        They are the same whatever the recipe's numbers. Raises BrokenCheckpoint when a model's file ends early.
        """
        for name, plan in self.rows.items():
            columns = self._columns(name)
            for row in plan.new:
                total = np.zeros(columns, dtype=np.float64)
                for label, place in row.origins:
                    model = self._tensor(label, name)
                    raw, own = np.empty(columns, dtype=model.dtype), np.empty(columns, dtype=np.float32)
                    model.read(place * columns, raw)
                    widen(raw, own)
                    total += own
                stored: Raw = np.empty(columns, dtype=STORED[self.host.place(name).dtype_code])
                narrow((total / len(row.origins)).astype(np.float32), stored)
                yield name, row.row * columns, stored

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

    def _stretches(self, vectors: TaskVectors) -> Iterator[Stretch]:
        return vectors.stretches(whole_rows=self.method.whole_rows or self.template.settings.row_wise)

    def _plan(self, name: str, vectors: TaskVectors, recipe: ParameterMerge) -> Planned:
        unit, component = unit_index(name, self.n_blocks), component_of(name)
        numbers = {
            parameter: tuple(
                value_at(getattr(recipe.parameters[source], parameter), unit, component) for source in self.source_names
            )
            for parameter in SOURCE_PARAMETERS
        }
        sole = self._sole_source(numbers["weight"], numbers["density"])
        if sole is not None:
            return sole
        settings = self.template.settings
        return self.method.function(
            MethodInputs(
                vectors=vectors,
                weights=numbers["weight"],
                densities=numbers["density"],
                gammas=numbers["gamma"],
                epsilons=numbers["epsilon"],
                settings=settings,
                normalize=self.method.normalize if settings.normalize is None else settings.normalize,
            )
        )

    def _sole_source(self, weights: tuple[float, ...], densities: tuple[float, ...]) -> int | None:
        """Return the one source that has weight, where the result is that source: weight 1, density 1, lambda 1.

        b + (x - b) is not always x in float32; the source itself is.
        """
        if "weight" not in self.method.parameters or self.template.settings.lambda_ != 1:
            return None
        counting = [index for index, weight in enumerate(weights) if weight != 0]
        if len(counting) != 1:
            return None
        index = counting[0]
        return index if weights[index] == 1 and densities[index] >= 1 else None

    def _merge_chunk(self, plan: TensorPlan, stretch: Stretch, sink: Sink) -> None:
        vectors, planned = plan
        dtype = STORED[self.host.place(vectors.name).dtype_code]
        # What overflows becomes infinite, as on any device; whoever takes the result looks for that.
        with np.errstate(all="ignore"), Scratch(stretch.size, dtype) as stored:
            if isinstance(planned, int):
                # For slerp the base stands before its one source.
                vectors.copy(planned - len(self.source_names), stretch, stored)
            else:
                combine(vectors, planned, stretch, stored)
            sink.write(vectors.name, stretch.start, stored)

    def _columns(self, name: str) -> int:
        return math.prod(self.host.shape(name)[1:])

    def _task_vectors(self, name: str) -> TaskVectors:
        # What task vectors are taken from is all that a method decides about them.
        key = (name, self.method.base == "first", self.method.base in ("needed", "optional"))
        if key not in self._vectors:
            columns = self._columns(name)
            plan = self.rows[name]
            sources = tuple(self._tensor(f"sources.{source}", name) for source in self.source_names)
            base = self._tensor("base", name) if "base" in self._models else None
            if self.method.base == "first" and base is not None:
                sources = (base, *sources)
            self._vectors[key] = TaskVectors(
                name=name,
                plan=plan,
                columns=columns,
                row_length=columns if len(self.host.shape(name)) > 1 else plan.n_rows,
                base=base if self.method.base in ("needed", "optional") else None,
                sources=sources,
                source_names=self.source_names,
                seed=self.template.seed,
                allow_non_finite=self.allow_non_finite,
                budget=self._budget,
            )
        return self._vectors[key]

    def _tensor(self, label: str, name: str) -> ModelTensor:
        model = self._models[label]
        return ModelTensor(label=label, owner=str(model), place=model.checkpoint.plain_place(name))
