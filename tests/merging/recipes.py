"""Short ways to state recipes over the pico models."""

from collections.abc import Mapping
from pathlib import Path

import torch

from evovlm.merging.arithmetic.buffers import Raw
from evovlm.merging.merge import Merger
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, ParameterMerge, Vocabulary
from evovlm.recipes.source_values import SourceParameters, UnitValues


def make_recipe(
    models: Path,
    sources: Mapping[str, tuple[UnitValues, UnitValues]],
    *,
    method: str = "dare_ties",
    base: str | None = "base",
    host: str = "base",
    settings: MergeSettings | None = None,
    seed: int = 42,
    vocabulary: Vocabulary | None = None,
    config_from: str | None = None,
) -> ParameterMerge:
    """Return a recipe; `sources` maps the name of a folder in `models` to (weight, density)."""

    def ref(name: str) -> ModelRef:
        return ModelRef(text=name, origin=models)

    return ParameterMerge(
        base=ref(base) if base else None,
        host=ref(host),
        sources={name: ref(name) for name in sources},
        method=method,
        settings=settings or MergeSettings(),
        seed=seed,
        vocabulary=vocabulary,
        config_from=config_from,
        parameters={name: SourceParameters(weight=w, density=d) for name, (w, d) in sources.items()},
    )


class Collected:
    """Takes merged entries into tensors that begin as the host's rows, and zeros beyond them."""

    def __init__(self, merger: Merger) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        for name, plan in merger.rows.items():
            own = merger.host.read(name)
            tensor = torch.zeros(plan.n_rows, *own.shape[1:], dtype=own.dtype)
            rows = min(len(own), len(tensor))
            tensor[:rows] = own[:rows]
            self.tensors[name] = tensor
        for name, start, values in merger.new_rows():
            self.write(name, start, values)

    def write(self, name: str, start: int, values: Raw) -> None:
        flat = self.tensors[name].view(-1)
        given = torch.from_numpy(values.copy())
        flat[start : start + len(given)] = given.view(flat.dtype) if given.dtype == torch.uint16 else given


def merge_all(recipe: ParameterMerge, *, threads: int = 1, merger: Merger | None = None) -> dict[str, torch.Tensor]:
    """Return every merged tensor by its backbone name."""
    merger = merger or Merger.open(recipe, threads=threads)
    collected = Collected(merger)
    merger.merge(recipe, collected)
    return collected.tensors


def same_bytes(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """Whether both hold the same names, dtypes, shapes and bits."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and torch.equal(
            left[name].contiguous().flatten().view(torch.uint8), right[name].contiguous().flatten().view(torch.uint8)
        )
        for name in left
    )
