"""Measure the milliseconds per candidate merged on a GPU, and compare with the time to move its bytes.

    python benchmarks/merge_gpu.py

Base, three sources and result have the shapes of Mistral 7B in bfloat16 (72 GB in all), with random numbers made on
the device. Measures what a search does for each candidate: plan, launch, wait. What a run computes once (the cuts of
TIES) is not measured. The bytes are those of base, sources and result, each once; the bound is the speed at which this
device copies a gigabyte within its memory.

`--blocks 0` merges only embedding, head and norm. `--tiny` uses toy shapes, which run with TRITON_INTERPRET=1 without a
GPU, to check that the script works.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from evovlm.merging.arithmetic.combination import Combination, Election, KeepBetween, Term
from evovlm.merging.arithmetic.method_functions import MethodInputs
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.arithmetic.selection import NOTHING, Cut
from evovlm.merging.arithmetic.task_vector import TaskVectors
from evovlm.merging.gpu import GpuCombiner
from evovlm.merging.models.row_plan import RowPlan
from evovlm.recipes.recipe import MergeSettings

NAMES = ("a", "b", "c")
WEIGHTS = (0.5, 0.4, 0.3)
DENSITIES = (0.6, 0.5, 0.7)
REPETITIONS = 7


class Model(NamedTuple):
    """A model whose tensors are already on the device."""

    label: str


@dataclass(frozen=True)
class Given:
    """Tensors that are on the device."""

    device: torch.device
    tensors: dict[tuple[str, str], torch.Tensor]

    def entries(self, vectors: TaskVectors, model: Model) -> torch.Tensor:
        return self.tensors[vectors.name, model.label]


def shapes(*, hidden: int, feed_forward: int, keys: int, vocabulary: int, blocks: int) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of a Mistral's tensors."""
    yield from ((vocabulary, hidden), (vocabulary, hidden), (hidden,))
    for _ in range(blocks):
        yield from ((hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden))
        yield from ((feed_forward, hidden), (feed_forward, hidden), (hidden, feed_forward), (hidden,), (hidden,))


def vectors_of(name: str, shape: tuple[int, ...], *, with_base: bool) -> TaskVectors:
    labels = ("base", *(f"sources.{each}" for each in NAMES))
    columns = int(np.prod(shape[1:], dtype=np.int64))
    return TaskVectors(
        name=name,
        plan=RowPlan.leading(shape[0], of=shape[0], models=labels),
        columns=columns,
        row_length=columns if len(shape) > 1 else shape[0],
        base=Model("base") if with_base else None,  # type: ignore[arg-type]
        sources=tuple(Model(label) for label in labels[1:]),  # type: ignore[arg-type]
        source_names=NAMES,
        seed=0,
    )


def by_method(method: str) -> Callable[[TaskVectors], Combination]:
    def plan(vectors: TaskVectors) -> Combination:
        inputs = MethodInputs(
            vectors=vectors,
            weights=WEIGHTS,
            densities=DENSITIES if "density" in METHODS[method].parameters else (1.0,) * len(NAMES),
            gammas=(0.0,) * len(NAMES),
            epsilons=(0.0,) * len(NAMES),
            settings=MergeSettings(),
            normalize=METHODS[method].normalize,
        )
        return METHODS[method].function(inputs)

    return plan


def ties(vectors: TaskVectors) -> Combination:  # noqa: ARG001 (called as the others are)
    """Return the combination of TIES, with an arbitrary cut."""
    keep = KeepBetween(low=Cut(bits=int(np.float32(0.01).view(np.uint32)), last=100), high=NOTHING)
    terms = tuple(Term(index=index, first=weight, keep=keep) for index, weight in enumerate(WEIGHTS))
    return Combination(
        terms=terms, election=Election(mix_weights=(1.0,) * len(terms), divisor_weights=WEIGHTS, least=0.0)
    )


PLANS = {"linear": by_method("linear"), "ties": ties, "dare_ties": by_method("dare_ties")}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median of some repetitions, after a first one that compiles."""
    taken = []
    for _ in range(1 + REPETITIONS):
        wait_for(device)
        begun = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copied_bytes_a_second(device: torch.device, size_bytes: int) -> float:
    """Return the bytes per second that a copy within the device's memory reads and writes."""
    source = torch.zeros(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size_bytes / seconds(lambda: target.copy_(source), device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device = torch.device("cpu" if chosen.tiny and not torch.cuda.is_available() else "cuda")
    size = (
        {"hidden": 32, "feed_forward": 48, "keys": 8, "vocabulary": 40, "blocks": min(chosen.blocks, 1)}
        if chosen.tiny
        else {"hidden": 4096, "feed_forward": 14336, "keys": 1024, "vocabulary": 32000, "blocks": chosen.blocks}
    )
    bandwidth = copied_bytes_a_second(device, 1 << (20 if chosen.tiny else 30))

    named = {f"t{number}": shape for number, shape in enumerate(shapes(**size))}
    tensors: dict[tuple[str, str], torch.Tensor] = {}
    results = {}
    for name, shape in named.items():
        n_entries = int(np.prod(shape, dtype=np.int64))
        base = torch.randn(n_entries, dtype=torch.bfloat16, device=device) * 0.02
        tensors[name, "base"] = base
        for source in NAMES:
            tensors[name, f"sources.{source}"] = base + torch.randn_like(base) * 0.01
        results[name] = torch.empty_like(base)
    n_entries = sum(len(result) for result in results.values())
    combiner = GpuCombiner(tensors=Given(device, tensors))  # type: ignore[arg-type]

    print(f"{n_entries / 1e9:.2f} billion numbers, {len(named)} tensors; copies at {bandwidth / 1e12:.2f} TB/s\n")
    print("| method | ms | GB moved | ms at the copy's speed | share of it |")
    print("|---|---|---|---|---|")
    for method, plan in PLANS.items():
        models = [vectors_of(name, shape, with_base=method != "linear") for name, shape in named.items()]

        def candidate(plan: Callable[[TaskVectors], Combination] = plan, models: list[TaskVectors] = models) -> None:
            combiner.begin()
            for vectors in models:
                combiner.combine(vectors, plan(vectors), stored=torch.bfloat16, out=results[vectors.name])
            if not combiner.is_finite():
                raise ValueError("a result is not finite")

        taken = seconds(candidate, device)
        moved_bytes = 2 * n_entries * (len(NAMES) + 1 + (method != "linear"))
        bound = moved_bytes / bandwidth
        print(f"| {method} | {taken * 1e3:.1f} | {moved_bytes / 1e9:.1f} | {bound * 1e3:.1f} | {bound / taken:.0%} |")


if __name__ == "__main__":
    main()
