"""Short ways to state recipes over the pico models."""

from collections.abc import Mapping
from pathlib import Path

import torch

from evovlm.merging.merge import Merger
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, ParameterMerge, SourceParameters, UnitValues, Vocabulary


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


def merge_all(recipe: ParameterMerge, *, cache_bytes: int = 1 << 30) -> dict[str, torch.Tensor]:
    """Return every merged tensor by its backbone name."""
    return {named.name: named.tensor for named in Merger.open(recipe, cache_bytes=cache_bytes).merged(recipe)}


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
