"""Compare the engines, and transformers' `generate`, on one model in one process: useful tokens per second, a merge.

    make vllm
    .venv-vllm/bin/python benchmarks/engines.py [--size large] [--prompts 32] [--rounds 3]

The model is the random float32 Mistral of generation_speed.py (`large`: 405 M parameters), and so are the prompts and
the lengths of the answers. Each way answers the same prompts, each answer as long as drawn for it; `equal` counts the
answers whose tokens are those of `generate`. A merge of the model with itself shows how long a candidate takes to be
merged and taken. vLLM comes last, since it changes its process.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from generation_speed import BATCH, in_batches, model_of, ours, workload

from evovlm.evaluation.engines import vllm, vllm_support
from evovlm.evaluation.engines.table import EngineId
from evovlm.evaluation.engines.work import Load
from evovlm.evaluation.resident import ResidentModel
from evovlm.models.prompt import Prompt
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.tasks.task import Decoding

Answers = list[list[int]]
T = TypeVar("T")


def merge_of(folder: Path) -> ParameterMerge:
    """Return a merge of the model with itself, which gives that model."""
    ref = ModelRef(text=str(folder))
    parameters = {name: SourceParameters(weight=0.5) for name in ("a", "b")}
    return ParameterMerge(
        base=None, host=ref, sources=dict.fromkeys(parameters, ref), method="linear", parameters=parameters
    )


def asked_of_vllm(engine: Any, prompts: list[Prompt], lengths: list[int]) -> Answers:
    """Answer with a limit for each prompt, which tasks do not need: theirs is one for all."""
    settings = [
        vllm._sampling(Decoding(max_new_tokens=length), limit=length, stop_ids=frozenset(), stop_texts=())
        for length in lengths
    ]
    asked = [vllm._asked(engine.loaded, prompt) for prompt in prompts]
    return [list(each.outputs[0].token_ids) for each in engine._llm.generate(asked, settings, use_tqdm=False)]


def timed(run: Callable[[], T], *, rounds: int) -> tuple[float, T]:
    """Return the shortest time of some rounds, and what the last one returned."""
    seconds, found = [], []
    for _ in range(rounds):
        gc.collect()
        started = time.perf_counter()
        found.append(run())
        seconds.append(time.perf_counter() - started)
    return min(seconds), found[-1]


def measure(folder: Path, *, size: str, n: int, rounds: int) -> None:
    """Save the model into `folder`, and print the table."""
    loaded = model_of(size, "cpu")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    prompts, lengths = workload(n, rows=loaded.tokenizer.vocab_size)
    useful, recipe = sum(lengths), merge_of(folder)
    print(f"{sum(each.numel() for each in loaded.model.parameters()) / 1e6:.0f} M parameters, float32, {n} prompts of")
    print(f"{min(len(each.ids) for each in prompts)} to {max(len(each.ids) for each in prompts)} tokens, answers of")
    print(f"{min(lengths)} to {max(lengths)}, {torch.get_num_threads()} threads\n")
    print("| | useful tokens/s | equal | to merge and take a candidate | to open |\n|---|---|---|---|---|")
    took, plain = timed(lambda: in_batches(loaded, prompts, lengths), rounds=rounds)
    print(f"| `generate`, batches of {BATCH} | {useful / took:.1f} | {n} of {n} | | |", flush=True)
    opening, resident = timed(lambda: ResidentModel.open(recipe.template, device="cpu"), rounds=1)
    merging, _ = timed(lambda: resident.merge(recipe), rounds=rounds)
    took, found = timed(lambda: ours(resident.loaded, prompts, lengths), rounds=rounds)
    report("builtin", useful / took, equal(found, plain), n=n, merging=merging, opening=opening)
    if vllm_support.version() is None:
        print("\nvLLM is not installed here (make vllm).")
        return
    longest = max(len(prompt.ids) + length for prompt, length in zip(prompts, lengths, strict=True))
    opening, _ = timed(lambda: resident.hand_over(EngineId(name="vllm"), Load(n_prompts=n, longest=longest)), rounds=1)
    merging, _ = timed(lambda: resident.merge(recipe), rounds=rounds)
    engine: Any = resident.engine

    def asked() -> Answers:
        # Else later rounds would find the prompts' keys and values.
        engine._llm.reset_prefix_cache()
        return asked_of_vllm(engine, prompts, lengths)

    took, found = timed(asked, rounds=rounds)
    report(f"vllm {vllm_support.version()}", useful / took, equal(found, plain), n=n, merging=merging, opening=opening)
    engine.close()


def equal(found: Answers, plain: Answers) -> int:
    """Return how many answers have the same tokens."""
    return sum(list(ours) == list(theirs) for ours, theirs in zip(found, plain, strict=True))


def report(name: str, speed: float, same: int, *, n: int, merging: float, opening: float) -> None:
    """Print a row of the table."""
    print(f"| {name} | {speed:.1f} | {same} of {n} | {merging:.2f} s | {opening:.1f} s |", flush=True)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "large"), default="large")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        measure(Path(scratch), size=given.size, n=given.prompts, rounds=given.rounds)


if __name__ == "__main__":
    main()
