"""The golden cases of `mergekit/`, read lazily: `CASES` costs one small JSON file, tensors are read when asked for.

case.inputs("lm_head.weight")    {"base": ..., "a": ..., "b": ...} in the models' stored dtype
case.parameters("lm_head.weight")   {"a": {"weight": 0.4, "density": 0.5}, "b": ...}
case.mask("lm_head.weight", "a")    True where the peer kept the entry
case.expected("lm_head.weight")     what the peer wrote
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "mergekit"

Settings = Mapping[str, float | bool]
Parameters = Mapping[str, Settings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run of mergekit.

    `arithmetic` is "float32" or "bfloat16" (models stored so, computed so), or "bfloat16_in_float32" (stored in
    bfloat16, computed in float32, rounded to bfloat16 once). `settings` are shared by all sources. `base` is the
    model that deltas are taken from, if any; where a method ignores the base it is a source like others.
    """

    name: str
    method: str
    arithmetic: str
    base: str | None
    yaml: str
    shared: Settings = field(repr=False)
    per_source: Parameters = field(repr=False)
    varying: Mapping[str, Mapping[str, Any]] = field(repr=False)
    factors: Mapping[str, Mapping[str, float]] = field(repr=False)

    @property
    def stored(self) -> str:
        """Name the dtype of inputs and outputs: "float32" or "bfloat16"."""
        return self.arithmetic.partition("_")[0]

    def settings(self, tensor: str) -> Settings:
        """Return the shared settings, by the peer's names, as resolved for the tensor; all of them, defaults too."""
        return self.varying[tensor]["settings"] if tensor in self.varying else self.shared

    def parameters(self, tensor: str) -> Parameters:
        """Return the resolved parameters of each source, in the order of the sources; {} where it takes none."""
        rows = self.varying[tensor]["parameters"] if tensor in self.varying else self.per_source
        return {source: values for source, values in rows.items() if source != self.base}

    def sources(self, tensor: str) -> tuple[str, ...]:
        """Name the sources of the tensor, in the order in which the peer summed them."""
        return tuple(self.parameters(tensor))

    def inputs(self, tensor: str) -> dict[str, Tensor]:
        """Return the tensor of the base (if any) and of each source."""
        models = [*([self.base] if self.base else []), *self.sources(tensor)]
        return {model: _read("inputs", f"{self.stored}/{model}/{tensor}") for model in models}

    def expected(self, tensor: str) -> Tensor:
        """Return what the peer wrote."""
        return _read("outputs", f"{self.name}/{tensor}")

    def mask(self, tensor: str, source: str) -> Tensor | None:
        """Return True where the peer kept the entry; None where it kept all without choosing (density >= 1).

        The one mask of sce, for all sources, is found under the source "all".
        """
        key = f"{self.name}/{tensor}/{source}"
        if key not in _names("masks"):
            return None
        shape = self.expected(tensor).shape
        bits = np.unpackbits(_read("masks", key).numpy(), count=math.prod(shape))
        return torch.from_numpy(bits).bool().reshape(shape)

    def probability(self, tensor: str, source: str) -> Tensor | None:
        """Return the probability with which the peer kept each entry; stored for the cases `della-*` only."""
        key = f"{self.name}/{tensor}/{source}/probability"
        return _read("masks", key) if key in _names("masks") else None

    def factor(self, tensor: str, source: str) -> float:
        """Return the peer's factor for the dropped entries, a ratio of two sums in the dtype of the arithmetic."""
        return self.factors.get(tensor, {}).get(source, 1.0)


def _load() -> tuple[tuple[str, ...], list[Case]]:
    index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return tuple(index["tensors"]), [Case(**row) for row in index["cases"]]


@cache
def _read(file: str, key: str) -> Tensor:
    with safe_open(FOLDER / f"{file}.safetensors", framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(key)
    return tensor


@cache
def _names(file: str) -> frozenset[str]:
    with safe_open(FOLDER / f"{file}.safetensors", framework="pt") as tensors:
        return frozenset(tensors.keys())


TENSORS, CASES = _load()
