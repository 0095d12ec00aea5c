"""The merger: opens models once and merges them repeatedly with different numbers."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.buffers import STORED, MemoryBudget, Raw, Scratch, narrow, widen
from evovlm.merging.arithmetic.combination import Combination, combine
from evovlm.merging.arithmetic.method_functions import MethodInputs
from evovlm.merging.arithmetic.methods import Method, check_parameters, check_tensor_names, get_method
from evovlm.merging.arithmetic.selection import Magnitudes
from evovlm.merging.arithmetic.task_vector import ModelTensor, Stretch, TaskVectors
from evovlm.merging.checkpoint.safetensors_file import files_held_open
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.in_turn import default_threads, in_turn
from evovlm.merging.models.ancestry import ancestry_warnings
from evovlm.merging.models.chat_change import chat_warnings
from evovlm.merging.models.compatibility import NamedCheckpoint, check_tensors, find_warnings
from evovlm.merging.models.matching import match_models
from evovlm.merging.models.result_layout import ResultLayout
from evovlm.merging.models.row_plan import RowPlan
from evovlm.merging.models.tensor_names import component_of, unit_index
from evovlm.merging.models.vocabulary_policy import plan_rows, token_rows, vocabulary_warnings
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SOURCE_PARAMETERS, Component, name_in_block, value_at
from evovlm.resources import available_memory_bytes, garbage_kept

_SMALL, _GROUP = 1 << 16, 1 << 20
"""Entries of a tensor that shares a job with others, and of all of them together."""

HELD_BYTES = 1 << 28
"""The most memory that a single merge spends on entries which its method reads in several passes over a tensor."""
PLANS_AHEAD = 2
"""Tensors for each thread that are planned before they are merged: their plans may hold a bit for each entry."""
_CHUNKS_AHEAD = 8

Planned = Combination | int
"""How a tensor is merged: a combination, or the index of the one source that is copied."""


class TensorPlan(NamedTuple):
    """One tensor of all models, and how it is merged."""

    vectors: TaskVectors
    planned: Planned


@dataclass(slots=True, eq=False)
class _Numbers:
    """The numbers of a recipe's sources, tensor by tensor; tensors of one unit and component share them."""

    recipe: ParameterMerge
    source_names: tuple[str, ...]
    n_blocks: int
    _single: frozenset[str] = field(init=False)
    _known: dict[tuple[int, Component, str | None], Mapping[str, tuple[float, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._single = self.recipe.tensor_names()

    def of(self, name: str) -> Mapping[str, tuple[float, ...]]:
        """Return each parameter of the sources for a tensor."""
        unit, component, own = unit_index(name, self.n_blocks), component_of(name), None
        if self._single:
            own = name_in_block(name) if name_in_block(name) in self._single else None
        cell = (unit, component, own)
        if cell not in self._known:
            parameters = [self.recipe.parameters[source] for source in self.source_names]
            self._known[cell] = {
                each: tuple(value_at(getattr(numbers, each), unit, component, own) for numbers in parameters)
                for each in SOURCE_PARAMETERS
            }
        return self._known[cell]


class Sink(Protocol):
    """Receives merged entries, from several threads at once, in any order."""

    def write(self, name: str, start: int, values: Raw) -> None:
        """Receive the entries of a tensor (by backbone name) from index `start` on, in the dtype of the result.

        `values` is only valid during the call.
        """
        ...


def _ties(*, tied: bool) -> str:
    return "uses its embedding as its head" if tied else "has a separate head"


@dataclass(slots=True, kw_only=True, eq=False)
class Merger:
    """Merges the models of one template; open it with `Merger.open`.

    Tensors are read in chunks whenever they are needed, so that memory does not grow with the models (by L1 norms, it
    holds a bit for each entry and source of the tensors in work); within HELD_BYTES, a merge without caches holds what
    it reads several times, until the tensor is merged. What does not depend on a recipe's numbers (magnitude
    orders, inner products) is computed once. `source_names` are sorted, and sums over sources follow that order;
    `result` describes the merged model apart from its numbers, `rows` says where the rows of each tensor come from;
    `warnings` lists what can be merged but may be harmful. The result does not depend on `threads`.
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
    _holding: MemoryBudget
    _models: dict[str, NamedCheckpoint]
    _vectors: dict[tuple[str, bool, bool], TaskVectors] = field(default_factory=dict)
    _device: Callable[[TaskVectors, int], Magnitudes] | None = None

    @staticmethod
    def open(
        template: MergeTemplate, *, threads: int | None = None, allow_non_finite: bool = False, cache_bytes: int = 0
    ) -> "Merger":
        """Open base, host and sources and check that they fit together; of a recipe, its template is used.

        `cache_bytes` of memory may be spent on caches that are the same for all recipes.

        Raises ConfigError for a method that does not exist or does not suit the template, ModelError for a model that
        cannot be found, read or merged with the others.
        """
        plain = template.template
        # Before anything is fetched.
        get_method(plain)
        opened: dict[ModelRef, Checkpoint] = {}

        def named(name: str, ref: ModelRef) -> NamedCheckpoint:
            if ref not in opened:
                opened[ref] = Checkpoint.open_model(ref, declared=plain.backbone)
            return NamedCheckpoint(name=name, text=ref.text, checkpoint=opened[ref])

        refs = {"host": plain.host, **({"base": plain.base} if plain.base is not None else {})}
        refs |= {f"sources.{name}": plain.sources[name] for name in sorted(plain.sources)}
        models = {name: named(name, ref) for name, ref in refs.items()}
        models["host"] = models["host"].stored_in(plain.dtype)
        return Merger._of(
            plain,
            models,
            threads=threads or default_threads(),
            allow_non_finite=allow_non_finite,
            budget=MemoryBudget(cache_bytes),
            # Where all candidates share caches, those hold the same entries.
            holding=MemoryBudget(0 if cache_bytes else min(HELD_BYTES, (available_memory_bytes() or 0) // 8)),
        )

    @staticmethod
    @garbage_kept()
    def _of(
        plain: MergeTemplate,
        opened: Mapping[str, NamedCheckpoint],
        *,
        threads: int,
        allow_non_finite: bool,
        budget: MemoryBudget,
        holding: MemoryBudget,
    ) -> "Merger":
        models = match_models(opened, declared=plain.backbone)
        names = tuple(sorted(plain.sources))
        base, host = models.get("base"), models["host"]
        sources = [models[f"sources.{name}"] for name in names]
        others = [*([base] if base else []), *sources]
        check_tensors(others, host)
        result = ResultLayout.plan(plain, base=base, host=host, sources=sources)
        vocabulary, new = plain.vocabulary, result.new_tokens
        rows = {
            name: plan_rows(name, base=base, host=host, sources=sources, vocabulary=vocabulary, new=new)
            for name in result.tensor_names
        }
        return Merger(
            template=plain,
            method=get_method(plain),
            host=host.checkpoint,
            source_names=names,
            result=result,
            rows=rows,
            warnings=(
                *find_warnings(others, host, config_from=plain.config_from),
                *vocabulary_warnings(base=base, host=host, sources=sources, vocabulary=vocabulary, new=new),
                *chat_warnings(plain, host=host, sources=sources),
                *(result.chat.notes if result.chat is not None else ()),
                *ancestry_warnings(base=base, host=host, sources=sources),
            ),
            threads=threads,
            allow_non_finite=allow_non_finite,
            _budget=budget,
            _holding=holding,
            _models={model.name: model for model in (*others, host)},
        )

    def read_magnitudes_on(self, device: Callable[[TaskVectors, int], Magnitudes]) -> None:
        """Let `device` read the magnitudes of a source (by its index); to be called before the first merge."""
        self._device = device

    def variant(self, template: MergeTemplate) -> "Merger":
        """Return a merger of the same models with another method, other settings, or the config of another model.

        Nothing is opened again, and all variants share their caches. Raises ConfigError for a template that differs in
        more than that, or that has other tensors.
        """
        own = self.template
        if replace(template, method=own.method, settings=own.settings, config_from=own.config_from) != own:
            raise ConfigError("its models, seed or vocabulary differ from the opened template; open a merger for it.")
        result = self.result
        if template.config_from != own.config_from:
            models = dict(self._models)
            result = ResultLayout.plan(
                template, host=models.pop("host"), base=models.pop("base", None), sources=models.values()
            )
        if result.tensor_names != self.result.tensor_names:
            raise ConfigError(
                f"config_from: {template.config_from or 'host'} {_ties(tied=result.tied)}, but "
                f"{own.config_from or 'host'} {_ties(tied=not result.tied)}; one search cannot have both."
            )
        return replace(self, template=template, method=get_method(template), result=result)

    @property
    def n_blocks(self) -> int:
        """The number of decoder blocks L; a list of parameters has L + 2 numbers."""
        return self.host.layout.n_blocks

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The backbone names of the merged tensors, in the model's order, without a tied head."""
        return tuple(self.rows)

    def token_rows(self) -> Mapping[str, int]:
        """Return the row of each token of the result."""
        return token_rows(self._models["host"], self.result.new_tokens)

    def merge(self, recipe: ParameterMerge, sink: Sink, *, names: Sequence[str] | None = None) -> None:
        """Pass every merged entry to `sink`, in the host's dtype; rows that are not merged are left out.

        `names` are the tensors to merge, by backbone name (None: all).

        Raises ConfigError when the recipe has another template, its lists do not have one number per unit, or all
        weights of an average are 0; BrokenCheckpoint when a model holds a number that is not finite, or its file is
        too short.
        """
        large, groups = self._divided(self.tensor_names if names is None else names)
        self.check(recipe)
        self.carry_out(self._planned(recipe, large), sink)
        numbers = _Numbers(recipe, self.source_names, self.n_blocks)

        def merge_group(names: Sequence[str]) -> None:
            # In one job, without a plan made ahead: of small tensors, handing over would take the longest.
            with files_held_open(), np.errstate(all="ignore"):
                for name in names:
                    vectors = self._task_vectors(name)
                    plan = TensorPlan(vectors, self._plan(vectors, numbers.of(name)))
                    for stretch in self._stretches(vectors):
                        self._merge_chunk(plan, stretch, sink)
                    vectors.release()

        with garbage_kept():
            for _ in in_turn(merge_group, groups, threads=self.threads, ahead=len(groups)):
                pass

    def plans(self, recipe: ParameterMerge) -> Iterator[TensorPlan]:
        """Yield how `merge` merges each tensor, the largest first. Raises as `merge` does."""
        self.check(recipe)
        yield from self._planned(recipe, self._by_size())

    def _planned(self, recipe: ParameterMerge, names: Sequence[str]) -> Iterator[TensorPlan]:
        numbers = _Numbers(recipe, self.source_names, self.n_blocks)

        def plan(name: str) -> TensorPlan:
            vectors = self._task_vectors(name)
            with np.errstate(all="ignore"):
                return TensorPlan(vectors, self._plan(vectors, numbers.of(name)))

        # Plans are made ahead, so that reading whole tensors overlaps with the merging of others.
        yield from in_turn(plan, names, threads=self.threads, ahead=PLANS_AHEAD * self.threads)

    def carry_out(self, plans: Iterable[TensorPlan], sink: Sink) -> None:
        """Pass the entries of some `plans` to `sink`, as `merge` does for all of them."""
        chunks = ((plan, stretch) for plan in plans for stretch in (*self._stretches(plan.vectors), None))

        def merge_chunk(chunk: tuple[TensorPlan, Stretch | None]) -> TaskVectors | None:
            plan, stretch = chunk
            if stretch is None:
                return plan.vectors
            # Overflows become infinite, as on any device; the receiver of the result checks for them.
            with np.errstate(all="ignore"):
                self._merge_chunk(plan, stretch, sink)
            return None

        for merged in in_turn(merge_chunk, chunks, threads=self.threads, ahead=_CHUNKS_AHEAD * self.threads):
            # Results come in order, so all chunks of this tensor are merged.
            if merged is not None:
                merged.release()

    def _by_size(self) -> list[str]:
        # The largest first: the last ones are small, so no thread waits long for another.
        return sorted(self.tensor_names, key=lambda name: -self._size(name))

    def _size(self, name: str) -> int:
        return self.rows[name].n_merged * self._columns(name)

    def _divided(self, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """Return the large tensors, the largest first, and the small ones in groups that lie together in the files."""
        sizes = {name: self._size(name) for name in names}
        large = sorted((name for name, size in sizes.items() if size > _SMALL), key=lambda name: -sizes[name])
        groups: list[list[str]] = []
        filled = _GROUP
        for name, size in sizes.items():
            if size > _SMALL:
                continue
            if filled + size > _GROUP:
                groups.append([])
                filled = 0
            groups[-1].append(name)
            filled += size
        return large, groups

    def new_rows(self) -> Iterator[tuple[str, int, Raw]]:
        """Yield the rows that the host does not have: tensor, index of the first entry, values in the host's dtype.

        They do not depend on the recipe's numbers. Raises BrokenCheckpoint when a model's file is too short.
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
        """Raise ConfigError when this merger cannot merge the recipe: another template, or lists of a wrong length."""
        if recipe.template != self.template:
            raise ConfigError(f"recipe {recipe.recipe_id} has another template than this merger; open a merger for it.")
        check_parameters(self.method, recipe)
        check_tensor_names(recipe, self.tensor_names)
        for length in recipe.unit_lengths():
            if length != self.n_blocks + 2:
                raise ConfigError(
                    f"parameters: a list of {length} numbers, but {self.n_blocks + 2} are needed for "
                    f"{self.n_blocks} blocks: embedding, each block, head."
                )

    def _stretches(self, vectors: TaskVectors) -> Iterator[Stretch]:
        return vectors.stretches(whole_rows=self.method.whole_rows or self.template.settings.row_wise)

    def _plan(self, vectors: TaskVectors, numbers: Mapping[str, tuple[float, ...]]) -> Planned:
        sole = self._sole_source(numbers["weight"], numbers["density"])
        if sole is not None:
            return sole
        if all(numbers["weight"]) and all(numbers["density"]):
            # All sources are read. Others are not, since they may hold numbers that are not finite.
            vectors.hold(self._holding)
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
        """Return the index of the source that equals the result, if one does.

        It is the only source with weight, and weight, density and lambda are 1. In float32, b + (x - b) is not always
        x, so such a source is copied.
        """
        if not self.method.copies_sole or "weight" not in self.method.parameters:
            return None
        if self.template.settings.lambda_ != 1:
            return None
        counting = [index for index, weight in enumerate(weights) if weight != 0]
        if len(counting) != 1:
            return None
        index = counting[0]
        return index if weights[index] == 1 and densities[index] >= 1 else None

    def _merge_chunk(self, plan: TensorPlan, stretch: Stretch, sink: Sink) -> None:
        vectors, planned = plan
        dtype = STORED[self.host.place(vectors.name).dtype_code]
        with Scratch(stretch.size, dtype) as stored:
            if isinstance(planned, int):
                # For slerp, the base precedes the one source.
                vectors.copy(planned - len(self.source_names), stretch, stored)
            else:
                combine(vectors, planned, stretch, stored)
            sink.write(vectors.name, stretch.start, stored)

    def _columns(self, name: str) -> int:
        return math.prod(self.host.shape(name)[1:])

    def _task_vectors(self, name: str) -> TaskVectors:
        # Task vectors depend on the method only through its use of the base.
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
                device=self._device,
            )
        return self._vectors[key]

    def _tensor(self, label: str, name: str) -> ModelTensor:
        model = self._models[label]
        return ModelTensor(label=label, owner=str(model), place=model.checkpoint.plain_place(name))
