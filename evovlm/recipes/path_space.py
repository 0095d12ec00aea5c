"""The space of paths through layers (arXiv 2403.13187, section 3.2): blocks in order, and a scale before each.

All blocks of the first source in order, then those of the next, and that list `repetitions` times: T positions. A
position is on the path where its gene is above one half. Each source's blocks so keep their order within a repetition,
and the order of the sources counts.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.kinds import HybridMerge, PathTemplate, Recipe
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.space import Description, Gap, Gene, Space

PATH_SIGMA = 0.1
"""The paper's first step size (EvoJAX's default), in the unit cube: genes are the paper's variables plus one half."""

_HIDDEN = 8
# At the first step size a weight of the net is drawn from a normal distribution of standard deviation 0.4.
_NET_WEIGHT_LIMIT = 2.0
_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRule:
    """One way to encode the scales of a path.

    `count` (positions, blocks) is its number of genes. `scales` (genes, hops, space) gives the scale before each hop;
    hops are positions in the order of the path. `first` (space) is the gene of scale 1.
    """

    summary: str
    count: Callable[[int, int], int]
    scales: Callable[[Genome, Sequence[int], "PathSpace"], Sequence[float]]
    first: Callable[["PathSpace"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSpace(Space):
    """The paths through the sources of `template`; `blocks` has the number of blocks of each, in the order of layout.

    The host's first block comes first on every path and its last block last; they take their positions in the
    first repetition and have no gene. `scale_range` bounds the scales, which begin at 1. A search begins with the
    genes of the host's first repetition at one half plus `host_start` times `sigma`, and all others at one half plus
    `rest_start` times `sigma`: with 2 and -2 on the host unchanged, each of its blocks left out in 2.3 % of the first
    draws, and each other block put in as often. `start` is another point to start from. Raises ConfigError for a host
    that is not a source or has one block, a scale range without 1, or no repetition.
    """

    template: PathTemplate
    blocks: Mapping[str, int]
    repetitions: int = 3
    scales: str = "per_position"
    scale_range: tuple[float, float] = (0.5, 1.5)
    host_start: float = 2.0
    rest_start: float = -2.0
    sigma: float = PATH_SIGMA
    start: Genome | None = field(default=None, compare=False)

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
            raise ConfigError(f"scales: '{self.scales}' is unknown. Choose one of {', '.join(SCALES)}.")
        low, high = self.scale_range
        if not (math.isfinite(low) and math.isfinite(high) and low <= 1.0 <= high and low < high):
            raise ConfigError(f"scale: [{low}, {high}] does not contain 1, where every scale begins.")
        object.__setattr__(self, "blocks", dict(self.blocks))

    @property
    def host(self) -> str:
        """The name of the source that is the host."""
        return self.template.host_source

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """The M blocks of all sources as (source, layer), in the order of one repetition."""
        return tuple((name, layer) for name, count in self.blocks.items() for layer in range(count))

    @property
    def n_positions(self) -> int:
        """T: the number of positions, including those of the host's first and last block."""
        return self.repetitions * sum(self.blocks.values())

    @property
    def genes(self) -> tuple[Gene, ...]:
        """One gene for each position except two, then the genes of the scales.

        `source.block3.2` says whether the second repetition's block is on the path, `scale.source.block3.2` is its
        scale. Genes that encode scales in another way are `scale.0`, `scale.1`, ...
        """
        places = [
            f"{source}.block{layer}.{repetition + 1}"
            for repetition in range(self.repetitions)
            for source, layer in self.layers
        ]
        included = (Gene(name=places[position], options=(0, 1)) for position in self._free)
        if self.scales == "per_position":
            low, high = self.scale_range
            return (*included, *(Gene(name=f"scale.{place}", low=low, high=high) for place in places))
        # The other rules have genes that are not scales themselves.
        return (*included, *(Gene(name=f"scale.{number}") for number in range(self.dim - self._n_free)))

    @property
    def dim(self) -> int:
        """The number of genes."""
        return self._n_free + SCALES[self.scales].count(self.n_positions, sum(self.blocks.values()))

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """The number of values of each gene, shape (dim,): 2 for one that includes a position, 0 for a number."""
        return np.where(np.arange(self.dim) < self._n_free, 2, 0)

    @property
    def initial(self) -> Genome:
        """The point that a search starts from."""
        if self.start is not None:
            return self.start
        first, last = self._ends
        host = np.array([first < position < last for position in self._free])
        scales = np.full(self.dim - self._n_free, SCALES[self.scales].first(self))
        return self._beginning(host, scales)

    def starting_at(self, recipe: Recipe) -> "PathSpace":
        """Return the same space, in which a search starts at `recipe`, whose path takes the host's part.

        Raises ConfigError as `encode` does.
        """
        genome = self.encode(recipe)
        return replace(self, start=self._beginning(genome[: self._n_free] > _THRESHOLD, genome[self._n_free :]))

    def equal_weights(self, weight: float) -> NoReturn:  # noqa: ARG002 - of the protocol
        """Raise ConfigError: the sources of a path have no weights."""
        raise ConfigError("a search through layers starts at a recipe with a path, not at weights.")

    def _beginning(self, included: npt.NDArray[np.bool_], scales: Genome) -> Genome:
        starts = np.where(included, self.host_start, self.rest_start) * self.sigma + _THRESHOLD
        initial: Genome = np.clip(np.concatenate([starts, scales]), 0.0, 1.0)
        return initial

    @property
    def largest(self) -> LayerPathMerge | HybridMerge:
        """The path through every position; no checkpoint of the space is larger.

        Its scales are 0.5 and 2 alternately where genes give them, so that what keeps such paths from being checkpoints
        keeps this one: a scale in front of the first block can part a head from the embedding it shares.
        """
        first, last = self._ends
        hops = [first, *self._free, last]
        unscaled = {"none": len(hops), "per_position": 0}.get(self.scales, 1)
        return self._recipe(
            hops, [1.0 if number < unscaled else 0.5 * 4 ** (number % 2) for number in range(len(hops))]
        )

    def decode(self, genome: Genome) -> LayerPathMerge | HybridMerge:
        """Return the recipe of the path that `genome` (shape (dim,), in the unit cube) decodes to.

        Raises ValueError when the genome has another shape or leaves the cube.
        """
        self.check(genome)
        first, last = self._ends
        chosen = [self._free[index] for index in np.flatnonzero(genome[: self._n_free] > _THRESHOLD)]
        hops = [first, *chosen, last]
        return self._recipe(hops, SCALES[self.scales].scales(genome[self._n_free :], hops, self))

    def describe(self, genome: Genome) -> Description:
        """Return the path of a genome, and whether it is the host unchanged."""
        path = self.decode(genome).path
        host = [[self.host, layer, 1.0] for layer in range(self.blocks[self.host])]
        return Description(path=path, is_host=path.canonical() == host)

    def nearest(self, recipe: Recipe) -> tuple[Genome, Gap]:
        """Return the genome of `recipe`, with no gap. Raises ConfigError as `encode` does."""
        return self.encode(recipe), Gap()

    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome that decodes to the path of `recipe`: blocks at their earliest positions, other scales 1.

        Only for scales `none` and `per_position`: a path does not determine the scales of pairs that it does not
        contain, nor the net that made its scales. Raises ConfigError for those, for a recipe of other models, and for a
        path that is not in this space.
        """
        path = self._path_of(recipe)
        if self.scales not in ("none", "per_position"):
            raise ConfigError(
                f"scales: a path does not determine the genes of '{self.scales}', only those of per_position or none."
            )
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

    def _path_of(self, recipe: Recipe) -> LayerPath:
        """Return the recipe's path; raises ConfigError when it does not have one, or is of other models."""
        if recipe.path is None:
            raise ConfigError("a search through layers starts at a recipe with a path, not at weights.")
        ours = self.template.sources
        for name in sorted({*recipe.sources, *ours}):
            was, now = recipe.sources.get(name), ours.get(name)
            if was is None or now is None or was.identity != now.identity:
                there, here = (ref.text if ref else "absent" for ref in (was, now))
                raise ConfigError(f"the recipe is of another merge: sources.{name} is {there}, and here it is {here}.")
        if recipe.scale_target != self.template.scale_target:
            raise ConfigError(
                f"the recipe is of another merge: scale_target is {recipe.scale_target}, and here it is "
                f"{self.template.scale_target}."
            )
        return recipe.path

    def _recipe(self, hops: Sequence[int], scales: Sequence[float]) -> LayerPathMerge | HybridMerge:
        layers = self.layers
        blocks = (layers[hop % len(layers)] for hop in hops)
        steps = (
            LayerStep(source=source, layer=layer, scale=scale)
            for (source, layer), scale in zip(blocks, scales, strict=True)
        )
        return self.template.recipe(LayerPath(steps=tuple(steps)))

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
