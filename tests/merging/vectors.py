"""Tensors in memory where the engine expects files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evovlm.merging.arithmetic.buffers import Raw
from evovlm.merging.arithmetic.combination import Combination, combine
from evovlm.merging.arithmetic.method_functions import MethodInputs
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.arithmetic.task_vector import TaskVectors
from evovlm.merging.models.row_plan import RowPlan
from evovlm.recipes.recipe import MergeSettings


@dataclass(frozen=True)
class InMemory:
    """One model's tensor: `dtype` and `read` are all that is asked of it."""

    label: str
    owner: str
    raw: Raw

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.raw.dtype

    def read(self, offset: int, out: Raw) -> None:
        out[:] = self.raw[offset : offset + len(out)]


def stored(tensor: torch.Tensor) -> Raw:
    """Return a tensor's numbers, flat, as the engine reads them."""
    flat = tensor.contiguous().flatten()
    return flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.numpy()


def task_vectors(
    base: torch.Tensor | None, sources: Sequence[torch.Tensor], *, name: str = "t", seed: int = 0
) -> TaskVectors:
    """Return the engine's view of one tensor of all models."""
    names = tuple(f"s{index}" for index in range(len(sources)))
    shape = sources[0].shape
    columns = int(np.prod(shape[1:], dtype=np.int64))
    labels = ("base", *(f"sources.{each}" for each in names))
    return TaskVectors(
        name=name,
        plan=RowPlan.leading(shape[0], of=shape[0], models=labels),
        columns=columns,
        row_length=columns if len(shape) > 1 else shape[0],
        base=None if base is None else InMemory("base", "base", stored(base)),  # type: ignore[arg-type]
        sources=tuple(
            InMemory(f"sources.{each}", each, stored(tensor)) for each, tensor in zip(names, sources, strict=True)
        ),  # type: ignore[arg-type]
        source_names=names,
        seed=seed,
    )


def method_inputs(
    method: str,
    vectors: TaskVectors,
    weights: Sequence[float],
    densities: Sequence[float] | None = None,
    *,
    gammas: Sequence[float] | None = None,
    epsilons: Sequence[float] | None = None,
    settings: MergeSettings | None = None,
) -> MethodInputs:
    """Return what a method is given, with the defaults of a recipe."""
    settings = settings or MergeSettings()
    n = len(weights)
    return MethodInputs(
        vectors=vectors,
        weights=tuple(weights),
        densities=tuple(densities or [1.0] * n),
        gammas=tuple(gammas or [0.01] * n),
        epsilons=tuple(epsilons or [0.15] * n),
        settings=settings,
        normalize=METHODS[method].normalize if settings.normalize is None else settings.normalize,
    )


def carried_out(vectors: TaskVectors, combination: Combination) -> torch.Tensor:
    """Return the merged tensor in float32."""
    merged = np.full(vectors.plan.n_rows * vectors.columns, np.nan, dtype=np.float32)
    for stretch in vectors.stretches(whole_rows=combination.whole_rows):
        combine(vectors, combination, stretch, merged[stretch.start : stretch.start + stretch.size])
    return torch.from_numpy(merged)


def merged_by(
    method: str, base: torch.Tensor | None, sources: Sequence[torch.Tensor], *args: object, **kwargs: object
) -> torch.Tensor:
    """Return what a method makes of one tensor, flat, in float32."""
    role = METHODS[method].base
    if role == "first" and base is not None:
        sources = [base, *sources]
    vectors = task_vectors(base if role in ("needed", "optional") else None, sources)
    inputs = method_inputs(method, vectors, *args, **kwargs)  # type: ignore[arg-type]
    return carried_out(vectors, METHODS[method].function(inputs))
