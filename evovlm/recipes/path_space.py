"""The space of paths through layers (arXiv 2403.13187, section 3.2): which block stands where, and the scale before it.

All blocks of the first source in order, then those of the next, and that list `repetitions` times: T positions. A
position is on the path where its gene is above one half. Each source's blocks so keep their order within a repetition,
and the order of the sources counts.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.layer_path import LayerPath, LayerStep

PATH_SIGMA = 0.1
"""The paper's first step size (EvoJAX's default), in the unit cube: genes are the paper's variables plus one half."""

_HIDDEN = 8
# At the first step size a weight of the net is drawn from a normal distribution of standard deviation 0.4.
_NET_WEIGHT_LIMIT = 2.0
_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRule:
    """One way to say the scales of a path.

    `count` (positions, blocks) is its number of genes. `scales` (genes, hops, space) gives the scale before each hop;
    hops are positions in the order of the path. `first` (space) is the gene of scale 1.
    """

    summary: str
    count: Callable[[int, int], int]
    scales: Callable[[Genome, Sequence[int], "PathSpace"], Sequence[float]]
    first: Callable[["PathSpace"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSpace:
    """The paths that lead through `blocks`: how many each source has, by name, in the order that they are laid out in.

    The `host`'s first block comes first on every path and its last block last; they stand for their positions in the
    first repetition and have no gene. `scale_range` bounds the scales, which begin at 1. A search begins with the
    genes of the host's first repetition at one half plus `host_start` times `sigma`, and all others at one half plus
    `rest_start` times `sigma`: with 2 and -2 on the host as it is, each of its blocks left out in 2.3 % of the first
    draws, and each other block put in as often. Raises ConfigError for a host that is no source or has one block, a
    scale range without 1, or no repetition.
    """

    blocks: Mapping[str, int]
    host: str
    repetitions: int = 3
    scales: str = "per_position"
    scale_range: tuple[float, float] = (0.5, 1.5)
    host_start: float = 2.0
    rest_start: float = -2.0
    sigma: float = PATH_SIGMA

    def __post_init__(self) -> None:
        if self.host not in self.blocks:
            raise ConfigError(f"host: '{self.host}' is not among the sources {', '.join(self.blocks)}.")
        if self.blocks[self.host] < 2:
            raise ConfigError(
                f"host: '{self.host}' has one block; a path begins with its first and ends with its last."
            )
        if self.repetitions < 1:
            raise ConfigError(f"repetitions: {self.repetitions} is below 1.")
        if self.scales not in SCALES:
            raise ConfigError(f"scales: '{self.scales}' is unknown; there are {', '.join(SCALES)}.")
        low, high = self.scale_range
        if not (math.isfinite(low) and math.isfinite(high) and low <= 1.0 <= high and low < high):
            raise ConfigError(f"scale: [{low}, {high}] is not a range around 1, where every scale begins.")
        object.__setattr__(self, "blocks", dict(self.blocks))

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """The M blocks of all sources as (source, layer), in the order of one repetition."""
        return tuple((name, layer) for name, count in self.blocks.items() for layer in range(count))

    @property
    def n_positions(self) -> int:
        """T: how many positions there are, the host's first and last block among them."""
        return self.repetitions * sum(self.blocks.values())

    @property
    def dim(self) -> int:
        """How many genes there are: one for each position but two, then those of the scales."""
        return self._n_free + SCALES[self.scales].count(self.n_positions, sum(self.blocks.values()))

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """How many values each gene takes, shape (dim,): 2 for one that includes a position, 0 for a number."""
        return np.where(np.arange(self.dim) < self._n_free, 2, 0)

    @property
    def gene_names(self) -> tuple[str, ...]:
        """`source.block3.2`: whether the second repetition's is on the path; `scale.source.block3.2`: its scale.

        Genes that say scales in another way are `scale.0`, `scale.1`, ...
        """
        places = [
            f"{source}.block{layer}.{repetition + 1}"
            for repetition in range(self.repetitions)
            for source, layer in self.layers
        ]
        n_scales = self.dim - self._n_free
        scales = places if self.scales == "per_position" else [str(number) for number in range(n_scales)]
        return (*(places[position] for position in self._free), *(f"scale.{name}" for name in scales[:n_scales]))

    @property
    def initial(self) -> Genome:
        """The point a search starts from."""
        first, last = self._ends
        host = np.array([first < position < last for position in self._free])
        scales = np.full(self.dim - self._n_free, SCALES[self.scales].first(self))
        return self._beginning(host, scales)

    def beginning_at(self, path: LayerPath) -> Genome:
        """Return the point that a search starts from at `path`, which takes the place of the host's first repetition.

        Raises ConfigError as `encode` does.
        """
        genome = self.encode(path)
        return self._beginning(genome[: self._n_free] > _THRESHOLD, genome[self._n_free :])

    def _beginning(self, included: npt.NDArray[np.bool_], scales: Genome) -> Genome:
        starts = np.where(included, self.host_start, self.rest_start) * self.sigma + _THRESHOLD
        initial: Genome = np.clip(np.concatenate([starts, scales]), 0.0, 1.0)
        return initial

    @property
    def longest(self) -> LayerPath:
        """The path through every position; no checkpoint of the space is larger.

        Its scales are 0.5 and 2 in turn where genes tell them, so that what keeps such paths from being checkpoints
        keeps this one: a scale in front of the first block can part a head from the embedding it shares.
        """
        first, last = self._ends
        hops = [self.layers[position % len(self.layers)] for position in (first, *self._free, last)]
        told = {"none": len(hops), "per_position": 0}.get(self.scales, 1)
        scales = [1.0 if number < told else 0.5 * 4 ** (number % 2) for number in range(len(hops))]
        return LayerPath(
            steps=tuple(
                LayerStep(source=source, layer=layer, scale=scale)
                for (source, layer), scale in zip(hops, scales, strict=True)
            )
        )

    def decode(self, genome: Genome) -> LayerPath:
        """Return the path that `genome` (shape (dim,), in the unit cube) stands for.

        Raises ValueError when the genome has another shape or leaves the cube.
        """
        if genome.shape != (self.dim,) or not bool(np.all((genome >= 0.0) & (genome <= 1.0))):
            raise ValueError(f"a genome of this space has shape ({self.dim},) and lies in [0, 1], not {genome}")
        first, last = self._ends
        chosen = [self._free[index] for index in np.flatnonzero(genome[: self._n_free] > _THRESHOLD)]
        hops = [first, *chosen, last]
        scales = SCALES[self.scales].scales(genome[self._n_free :], hops, self)
        layers = self.layers
        return LayerPath(
            steps=tuple(
                LayerStep(source=source, layer=layer, scale=scale)
                for (source, layer), scale in zip((layers[hop % len(layers)] for hop in hops), scales, strict=True)
            )
        )

    def encode(self, path: LayerPath) -> Genome:
        """Return a genome that decodes to `path`: its blocks at their earliest positions, all other scales 1.

        Only for scales `none` and `per_position`: a path does not tell the scales of pairs that it does not pass, nor
        the net behind its scales. Raises ConfigError for those, and for a path that is not of this space.
        """
        if self.scales not in ("none", "per_position"):
            raise ConfigError(f"scales: a path does not tell the genes of '{self.scales}'; only per_position or none.")
        hops = self._hops_of(path)
        genome = np.full(self.dim, SCALES[self.scales].first(self) if self.scales != "none" else 0.0)
        genome[: self._n_free] = 0.0
        places = {position: index for index, position in enumerate(self._free)}
        genome[[places[hop] for hop in hops[1:-1]]] = 1.0
        low, high = self.scale_range if self.scales == "per_position" else (1.0, 1.0)
        for number, (hop, step) in enumerate(zip(hops, path.steps, strict=True)):
            if not low <= step.scale <= high:
                raise ConfigError(f"path[{number}]: the scale {step.scale} is outside the space's [{low}, {high}].")
            if self.scales == "per_position":
                genome[self._n_free + hop] = (step.scale - low) / (high - low)
        return genome

    @property
    def _ends(self) -> tuple[int, int]:
        first = self.layers.index((self.host, 0))
        return first, first + self.blocks[self.host] - 1

    @property
    def _free(self) -> tuple[int, ...]:
        ends = self._ends
        return tuple(position for position in range(self.n_positions) if position not in ends)

    @property
    def _n_free(self) -> int:
        return self.n_positions - 2

    def _hops_of(self, path: LayerPath) -> list[int]:
        first, last = self._ends
        layers, steps = self.layers, [(step.source, step.layer) for step in path.steps]
        if len(steps) < 2 or steps[0] != layers[first] or steps[-1] != layers[last]:
            raise ConfigError(f"path: does not begin with the first block of '{self.host}' and end with its last.")
        free = iter(self._free)
        hops = [first]
        for number, step in enumerate(steps[1:-1], start=1):
            hop = next((position for position in free if layers[position % len(layers)] == step), None)
            if hop is None:
                raise ConfigError(
                    f"path[{number}]: block {step[1]} of '{step[0]}' cannot come here; each of the {self.repetitions} "
                    f"repetitions has the blocks of {', '.join(self.blocks)} in this order."
                )
            hops.append(hop)
        return [*hops, last]


def _in_range(gene: float, space: PathSpace) -> float:
    low, high = space.scale_range
    return min(max(low + gene * (high - low), low), high)


def _gene_of_one(space: PathSpace) -> float:
    low, high = space.scale_range
    return (1.0 - low) / (high - low)


def _all_one(_genes: Genome, hops: Sequence[int], _space: PathSpace) -> Sequence[float]:
    return [1.0] * len(hops)


def _per_position(genes: Genome, hops: Sequence[int], space: PathSpace) -> Sequence[float]:
    return [_in_range(float(genes[hop]), space) for hop in hops]


def _pairwise(genes: Genome, hops: Sequence[int], space: PathSpace) -> Sequence[float]:
    count = len(space.layers)
    pairs = itertools.pairwise(hops)
    return [1.0, *(_in_range(float(genes[(i % count) * count + j % count]), space) for i, j in pairs)]


def _network(genes: Genome, hops: Sequence[int], space: PathSpace) -> Sequence[float]:
    """Return scales from a net of one hidden layer over (i, j, t), each stretched to [-1, 1]."""
    count, low, high = len(space.layers), *space.scale_range
    weights = (2.0 * genes - 1.0) * _NET_WEIGHT_LIMIT
    into, bias, out, last = np.split(weights, [3 * _HIDDEN, 4 * _HIDDEN, 5 * _HIDDEN])
    scales = [1.0]
    for i, j in itertools.pairwise(hops):
        given = [_stretched(i % count, count), _stretched(j % count, count), _stretched(j, space.n_positions)]
        # Sums in a fixed order: a product of matrices may round otherwise on another machine.
        hidden = [
            math.tanh(math.fsum([*(into[3 * unit + axis] * given[axis] for axis in range(3)), bias[unit]]))
            for unit in range(_HIDDEN)
        ]
        answer = math.tanh(math.fsum([*(out[unit] * hidden[unit] for unit in range(_HIDDEN)), last[0]]))
        scales.append(1.0 + answer * (high - 1.0 if answer > 0 else 1.0 - low))
    return scales


def _stretched(number: int, count: int) -> float:
    return 2.0 * number / (count - 1) - 1.0


SCALES: Mapping[str, ScaleRule] = {
    "none": ScaleRule(
        summary="which blocks, all scales 1",
        count=lambda _positions, _layers: 0,
        scales=_all_one,
        first=lambda _space: _THRESHOLD,
    ),
    "per_position": ScaleRule(
        summary="which blocks, and a scale for each position",
        count=lambda positions, _layers: positions,
        scales=_per_position,
        first=_gene_of_one,
    ),
    "pairwise": ScaleRule(
        summary="which blocks, and a scale W[i, j] for each pair of blocks; before the first it is 1",
        count=lambda _positions, layers: layers * layers,
        scales=_pairwise,
        first=_gene_of_one,
    ),
    "network": ScaleRule(
        summary="which blocks, and a small net that makes scales of pair and position; before the first it is 1",
        count=lambda _positions, _layers: 5 * _HIDDEN + 1,
        scales=_network,
        first=lambda _space: _THRESHOLD,
    ),
}
