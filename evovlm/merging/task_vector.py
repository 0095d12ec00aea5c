"""Task vectors with the numbers that select their entries: computed once, kept in memory within a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.methods import Order
from evovlm.merging.selection import magnitude_limit, magnitude_order, magnitude_split, random_order
from evovlm.merging.sources import Checkpoint

_FLOAT32_BYTES = 4
_ORDER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskVectors:
    """One tensor of base and sources, flat, over the rows that are merged.

    `base` is float32 of shape (n,), or None where the method has no base; `vectors` (float32, (n,)) are source - base,
    or the sources themselves; `orders` (whole numbers as floats, (n,)) number their entries, None for "keep all".
    """

    base: torch.Tensor | None
    vectors: tuple[torch.Tensor, ...]
    orders: tuple[torch.Tensor | None, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class TaskVectorStore:
    """Gives the task vectors of a tensor: from memory when they fitted into `cache_bytes`, else from disk each time.

    `rows` says how many leading rows of each tensor are merged; `seed` and `source_names` name DARE's draws. Numbers
    that are not finite are refused unless `allow_non_finite`.
    """

    base: Checkpoint | None
    sources: Sequence[Checkpoint]
    source_names: Sequence[str]
    rows: Mapping[str, int]
    order: Order | None
    seed: int
    cache_bytes: int
    allow_non_finite: bool = False
    _kept: dict[str, TaskVectors] = field(default_factory=dict)
    _kept_bytes: int = 0

    def vectors(self, name: str, densities: Sequence[float]) -> TaskVectors:
        """Return the task vectors of a tensor, with orders good for these densities (one per source).

        Raises BrokenCheckpoint when a model has a number that is not finite.
        """
        if name in self._kept:
            return self._kept[name]
        size_bytes = self._size_bytes(name)
        if self._kept_bytes + size_bytes > self.cache_bytes:
            return self._read(name, densities)
        found = self._read(name, None)
        self._kept[name] = found
        self._kept_bytes += size_bytes
        return found

    def source_tensor(self, index: int, name: str) -> torch.Tensor:
        """Return a source's own tensor, flat and in float32, over the rows that are merged."""
        return self._flat(self.sources[index], name)

    def _size_bytes(self, name: str) -> int:
        shape = self.sources[0].shape(name)
        size = self.rows[name]
        for length in shape[1:]:
            size *= length
        per_source = _FLOAT32_BYTES + (_ORDER_BYTES if self.order else 0)
        return size * (_FLOAT32_BYTES * (self.base is not None) + per_source * len(self.sources))

    def _read(self, name: str, densities: Sequence[float] | None) -> TaskVectors:
        """Return the vectors with orders for these densities, or (None) for every density."""
        base = self._flat(self.base, name) if self.base is not None else None
        vectors = []
        for index in range(len(self.sources)):
            vector = self.source_tensor(index, name)
            vectors.append(vector if base is None else vector.sub_(base))
        orders = tuple(
            self._order(name, source, vector, None if densities is None else densities[index])
            for index, (source, vector) in enumerate(zip(self.source_names, vectors, strict=True))
        )
        return TaskVectors(base=base, vectors=tuple(vectors), orders=orders)

    def _order(self, name: str, source: str, vector: torch.Tensor, density: float | None) -> torch.Tensor | None:
        if self.order is None or (density is not None and not 0 < density < 1):
            return None
        if self.order == "random":
            return random_order(self.seed, source, name, size=len(vector))
        if density is None:
            return magnitude_order(vector)
        return magnitude_split(vector, magnitude_limit(density, len(vector)))

    def _flat(self, checkpoint: Checkpoint, name: str) -> torch.Tensor:
        checkpoint.dtype(name)
        tensor = checkpoint.read(name)[: self.rows[name]].float().flatten()
        if not self.allow_non_finite and not bool(tensor.isfinite().all()):
            raise BrokenCheckpoint(
                f"{checkpoint.folder}: {name} holds numbers that are not finite; it cannot be merged.\n"
                "    Fetch the model again; `evovlm merge --allow-non-finite` merges it all the same."
            )
        return tensor
