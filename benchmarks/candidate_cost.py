"""Compare what a candidate costs with evovlm and with a loop that a person writes with torch and transformers.

    python benchmarks/candidate_cost.py [--tasks word_problems_ja emoji_ja] [--samples 160] [--rounds 3] [--threads 1 2]

The models are those of `evovlm demo`, the candidates have weights and densities as a search's first ones. Both sides
merge with DARE-TIES, answer the same prompts of the search split, and score the answers with the same metric. The
hand-written loop keeps the models' tensors in memory, merges them with torch, and answers with `model.generate` in
batches of prompts of similar length. To compare like with like, both answer with the weights that evovlm merged;
`equal` counts the answers with the same text. Processor seconds, the sides in turn; each side's mean of all candidates.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from evovlm.evaluation.answering import PreparedSamples
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.opening import load_reference
from evovlm.models.decoding.generation import generated, stop_ids
from evovlm.models.decoding.stock import stock_inputs
from evovlm.models.prompt import Prompt
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SourceParameters

SOURCES = {"word_problems_ja": ("math-a", "math-b", "ja"), "emoji_ja": ("vlm", "ja")}
BATCHES = (32, 64, 1024)
BASE = "zoo:base"
MERGE, GENERATE, SCORE = "merge", "generate", "score"


def template(task: str) -> MergeTemplate:
    """Return the demo's merge for a task."""
    sources = {name: ModelRef(text=f"zoo:{name}") for name in SOURCES[task]}
    base = ModelRef(text=BASE)
    return MergeTemplate(
        base=base,
        host=sources.get("vlm", base),
        sources=sources,
        method="dare_ties",
        seed=42,
        vocabulary="host" if "vlm" in sources else None,
    )


def candidate(merge: MergeTemplate, number: int) -> ParameterMerge:
    """Return a recipe, another one for each number."""
    rng = np.random.default_rng(number)

    def drawn() -> float:
        return min(max(rng.normal(0.5, 1 / 6), 0.05), 1.0)

    return merge.recipe({name: SourceParameters(weight=drawn(), density=drawn()) for name in merge.sources})


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The processor seconds of each part of a candidate, and its answers."""

    seconds: Mapping[str, float]
    texts: Sequence[str]

    @property
    def total(self) -> float:
        """All its processor seconds."""
        return sum(self.seconds.values())


def dare_ties(base: Tensor, sources: Sequence[Tensor], given: Sequence[SourceParameters]) -> Tensor:
    """Merge a tensor as a person would write it: drop and rescale (Yu et al. 2023), elect signs (Yadav et al. 2023)."""
    weights = torch.tensor([float(each.weight) for each in given]).view(-1, *[1] * base.dim())
    kept = [torch.bernoulli(torch.full_like(base, float(each.density))) / float(each.density) for each in given]
    deltas = weights * torch.stack([(source - base) * mask for source, mask in zip(sources, kept, strict=True)])
    agree = deltas.sign() == deltas.sum(0).sign()
    return base + (deltas * agree).sum(0) / (weights * agree).sum(0).clamp(min=1e-8)


class HandWritten:
    """The models' tensors in memory, and the model that takes a merge of them."""

    def __init__(self, merge: MergeTemplate, evaluator: Evaluator) -> None:
        self.loaded = evaluator.loaded
        self._prepared = evaluator.tasks[0]
        self._states = [
            {
                name.replace(".language_model", ""): each
                for name, each in load_reference(ref, device="cpu").model.state_dict().items()
            }
            for ref in (ModelRef(text=BASE), *merge.sources.values())
        ]

    def merge(self, recipe: ParameterMerge) -> list[Tensor]:
        """Return the merged tensors."""
        base, *sources = self._states
        given = list(recipe.parameters.values())
        # A VLM's vocabulary has a few rows more.
        return [
            dare_ties(tensor, [source[name][: len(tensor)] for source in sources], given)
            for name, tensor in base.items()
        ]

    def generate(self, *, batch: int) -> list[str]:
        """Answer all prompts with `generate`, those of similar length together."""
        prompts = [prompt for prompt in self._prepared.prompts if isinstance(prompt, Prompt)]
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number].ids))
        rows: dict[int, list[int]] = {}
        ends = stop_ids(self.loaded)
        for first in range(0, len(order), batch):
            numbers = order[first : first + batch]
            inputs = stock_inputs(self.loaded, [prompts[number] for number in numbers])
            start = inputs["input_ids"].shape[1]
            found = self.loaded.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=self._prepared.opened.decoding.max_new_tokens,
                eos_token_id=sorted(ends),
                pad_token_id=0,
            )
            for number, row in zip(numbers, found[:, start:].tolist(), strict=True):
                rows[number] = row[: next((place for place, token in enumerate(row) if token in ends), len(row))]
        marks, stops = self._prepared.marks, self._prepared.opened.decoding.stop
        answers = [rows[number] for number in range(len(prompts))]
        return [text.strip() for text in generated(self.loaded, prompts, answers, stops=stops, marks=marks).texts]

    def evaluate(self, recipe: ParameterMerge, *, batch: int) -> Side:
        """Merge, answer with the weights that the model has, and score."""
        seconds, texts = {}, []

        def timed(part: str, run: Callable[[], object]) -> None:
            started = time.process_time()
            run()
            seconds[part] = time.process_time() - started

        timed(MERGE, lambda: self.merge(recipe))
        timed(GENERATE, lambda: texts.extend(self.generate(batch=batch)))
        # A fresh task, because the scores of texts that were scored before are kept.
        fresh = self._prepared.part(range(self._prepared.n_samples))
        timed(SCORE, lambda: fresh._score(enumerate(texts)))
        return Side(seconds=seconds, texts=texts)


def ours(evaluator: Evaluator, recipe: ParameterMerge) -> tuple[Side, int]:
    """Evaluate a candidate as a search does, and return the number of its answers' tokens too."""
    started = time.process_time()
    evaluator.resident.merge(recipe)
    merged = time.process_time()
    (scored,) = evaluator.part([range(evaluator.tasks[0].n_samples)]).answer()
    seconds = {MERGE: merged - started, "generate and score": time.process_time() - merged}
    return Side(seconds=seconds, texts=[answer.text for answer in scored.answers]), scored.tokens


def measure(task: str, *, samples: int, rounds: int, threads: int) -> None:
    """Print a table for one task."""
    torch.set_num_threads(threads)
    merge = template(task)
    evaluator = Evaluator.open(merge, tasks=[TaskChoice(name=task, limit=samples)], device="cpu")
    prepared = evaluator.tasks[0]
    if not isinstance(prepared, PreparedSamples):
        raise TypeError(f"{task} is not a task of samples")
    by_hand = HandWritten(merge, evaluator)
    # Compiles the kernels and fills the memory caches.
    ours(evaluator, candidate(merge, rounds))
    by_hand.evaluate(candidate(merge, rounds), batch=BATCHES[0])
    sides: dict[str, list[Side]] = {}
    tokens = 0
    with torch.inference_mode():
        for number in range(rounds):
            recipe = candidate(merge, number)
            found, n_tokens = ours(evaluator, recipe)
            tokens += n_tokens
            sides.setdefault("evovlm", []).append(found)
            for batch in BATCHES:
                theirs = by_hand.evaluate(recipe, batch=batch)
                sides.setdefault(f"by hand, batches of {batch}", []).append(theirs)
    lengths = [len(prompt.ids) for prompt in prepared.prompts if isinstance(prompt, Prompt)]
    print(f"\n{task}: {len(lengths)} prompts of {sum(lengths) / len(lengths):.0f} tokens on average, answers of")
    print(f"{tokens / rounds / len(lengths):.0f}, {threads} threads\n")
    print("| | processor seconds of a candidate | times evovlm | parts | equal |\n|---|---|---|---|---|")
    cost = {name: mean(each.total for each in found) for name, found in sides.items()}
    for name, found in sides.items():
        parts = ", ".join(f"{part} {mean(each.seconds[part] for each in found):.3f}" for part in found[0].seconds)
        same = sum(
            text == own
            for mine, own_side in zip(found, sides["evovlm"], strict=True)
            for text, own in zip(mine.texts, own_side.texts, strict=True)
        )
        of = rounds * len(lengths)
        print(f"| {name} | {cost[name]:.3f} | {cost[name] / cost['evovlm']:.2f} | {parts} | {same} of {of} |")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(SOURCES), default=tuple(SOURCES))
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5, help="candidates")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    for threads in given.threads:
        for task in given.tasks:
            measure(task, samples=given.samples, rounds=given.rounds, threads=threads)


if __name__ == "__main__":
    main()
