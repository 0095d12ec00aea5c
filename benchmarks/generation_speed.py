"""Compare greedy decoding with transformers' `generate` in batches of 64 and its continuous batching, in one run.

    python benchmarks/generation_speed.py [--sizes small large] [--prompts 256] [--rounds 3]

Prints the table of benchmarks/LOG.md. Models are random Mistrals in float32: `small` has 10 M parameters
(hidden 256, 8 blocks, vocabulary 8000), `large` 405 M (hidden 1024, 24 blocks, vocabulary 32000). Prompts and answers
are as long as GSM8K's: drawn from log-normals with the median and spread that its questions (after a template of 60
tokens) and its worked answers have at 3.2 characters per token. A random model never ends an answer, so every answer
ends at the length drawn for it: by a stopping criterion in `generate`, by a limit per prompt in the others. Useful
tokens are the tokens of the answers; rows that wait for others produce none. All use the same number of threads;
`generate` also runs with one thread, and the faster run counts.

    python benchmarks/generation_speed.py --sizes 7b --device cuda

On a GPU the model is in bfloat16, and the decoding steps are compared with the time to read all weights once per step
(the bandwidth is measured by copying).
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    StoppingCriteria,
)

from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt

SIZES = {
    "small": {"vocab_size": 8000, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8},
    "large": {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24},
}
SIZES["7b"] = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
HEADS = {"small": (8, 4), "large": (16, 8), "7b": (32, 8)}
TEMPLATE_TOKENS, LOG_SPREAD = 60, 0.48
QUESTION_MEDIAN, ANSWER_MEDIAN = 67, 84
BATCH = 64


def model_of(size: str, device: str) -> LoadedModel:
    heads, key_heads = HEADS[size]
    config = MistralConfig(
        **SIZES[size],
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        sliding_window=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    on_gpu = device != "cpu"
    with torch.device(device):
        model = MistralForCausalLM._from_config(config, dtype=torch.bfloat16 if on_gpu else torch.float32).eval()
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "assets" / "zoo" / "base")
    return LoadedModel(model=model, tokenizer=tokenizer, processor=None, folder=Path(size))


def workload(n: int, *, rows: int) -> tuple[list[Prompt], list[int]]:
    """Return prompts of random tokens and the length of each answer."""
    rng = np.random.default_rng(0)
    asked = np.exp(rng.normal(np.log(QUESTION_MEDIAN), LOG_SPREAD, n)).astype(int).clip(8, 300)
    answered = np.exp(rng.normal(np.log(ANSWER_MEDIAN), LOG_SPREAD, n)).astype(int).clip(8, 512)
    template = rng.integers(5, rows, TEMPLATE_TOKENS)
    prompts = [Prompt(ids=torch.tensor(np.concatenate([template, rng.integers(5, rows, each)]))) for each in asked]
    return prompts, answered.tolist()


class AtLengths(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, start: int, lengths: list[int]) -> None:
        self._start, self._lengths = start, torch.tensor(lengths)

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        return input_ids.shape[1] - self._start >= self._lengths.to(input_ids.device)


def in_batches(loaded: LoadedModel, prompts: list[Prompt], lengths: list[int]) -> list[list[int]]:
    answers: list[list[int]] = []
    with torch.inference_mode():
        for first in range(0, len(prompts), BATCH):
            part, ends = prompts[first : first + BATCH], lengths[first : first + BATCH]
            longest = max(len(prompt.ids) for prompt in part)
            ids = torch.zeros(len(part), longest, dtype=torch.long, device=loaded.device)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(part):
                ids[row, longest - len(prompt.ids) :] = prompt.ids
                mask[row, longest - len(prompt.ids) :] = 1
            found = loaded.model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max(ends),
                pad_token_id=0,
                stopping_criteria=[AtLengths(longest, ends)],
            )
            answers += [row[longest : longest + end] for row, end in zip(found.tolist(), ends, strict=True)]
    return answers


def continuously(loaded: LoadedModel, prompts: list[Prompt], lengths: list[int]) -> list[list[int]]:
    """Answer with transformers' continuous batching."""
    config = GenerationConfig(do_sample=False, max_new_tokens=max(lengths), eos_token_id=-1, pad_token_id=0)
    found: dict[str, list[int]] = {}
    # Without a limit it takes nearly all memory for keys and values.
    batching = ContinuousBatchingConfig(num_blocks=4 * BATCH, max_batch_tokens=8 * BATCH)
    with loaded.model.continuous_batching_context_manager(
        generation_config=config, block=True, continuous_batching_config=batching
    ) as manager:
        for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            manager.add_request(prompt.ids.tolist(), request_id=str(number), max_new_tokens=length)
        while len(found) < len(prompts):
            result = manager.get_result(timeout=60)
            if result is None:
                raise RuntimeError("transformers' continuous batching stopped answering")
            if result.is_finished():
                found[result.request_id] = result.generated_tokens
    return [found[str(number)] for number in range(len(prompts))]


def ours(loaded: LoadedModel, prompts: list[Prompt], lengths: list[int]) -> list[list[int]]:
    # As prompts that were never answered: earlier answers would be guesses.
    prompts = [Prompt(ids=prompt.ids.clone()) for prompt in prompts]
    return generate_greedy(loaded, prompts, max_new_tokens=max(lengths), stop_ids=(), limits=lengths)


def timed(run: Callable[[], list[list[int]]], *, threads: int) -> tuple[float, list[list[int]]]:
    torch.set_num_threads(threads)
    gc.collect()
    started = time.perf_counter()
    answers = run()
    return time.perf_counter() - started, answers


def measure(size: str, *, n: int, rounds: int, with_theirs: bool, device: str) -> None:
    loaded = model_of(size, device)
    parameters = sum(each.numel() for each in loaded.model.parameters())
    prompts, lengths = workload(n, rows=loaded.model.config.vocab_size)
    useful, threads = sum(lengths), torch.get_num_threads()
    asked = sum(len(prompt.ids) for prompt in prompts)
    print(
        f"\n{size}: {parameters / 1e6:.1f} M parameters, {n} prompts of {asked / n:.0f} tokens on average, answers of "
        f"{useful / n:.0f} (longest {max(lengths)}), {threads} threads\n"
    )
    ways = {f"generate, batches of {BATCH}, {threads} threads": (in_batches, threads), "ours": (ours, threads)}
    if size == "small":
        # With large products, one thread is never faster.
        ways[f"generate, batches of {BATCH}, 1 thread"] = (in_batches, 1)
    # Compiles the kernels and fills the memory caches.
    ours(loaded, prompts[:40], [4] * min(40, n))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[list[int]]] = {}
    for _ in range(rounds):
        for name, (way, count) in ways.items():
            took, answers[name] = timed(lambda way=way: way(loaded, prompts, lengths), threads=count)  # type: ignore[misc]
            seconds[name].append(took)
            print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)
    torch.set_num_threads(threads)
    if with_theirs:
        name = "transformers' continuous batching"
        took, answers[name] = timed(lambda: continuously(loaded, prompts, lengths), threads=threads)
        seconds[name] = [took]
    table(seconds, answers, useful=useful, lengths=lengths)
    if device != "cpu":
        seconds_a_read = weight_bytes(loaded) / copying_bytes_a_second(device)
        print(
            f"\nReading all weights once takes {1e3 * seconds_a_read:.1f} ms: {BATCH / seconds_a_read:.0f} tokens per "
            f"second with {BATCH} rows, {4 * BATCH / seconds_a_read:.0f} with {4 * BATCH}."
        )


def weight_bytes(loaded: LoadedModel) -> int:
    return sum(each.numel() * each.element_size() for each in loaded.model.parameters())


def copying_bytes_a_second(device: str) -> float:
    """Return the bytes per second that are read and written while memory is copied."""
    source = torch.empty(2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    torch.cuda.synchronize()
    return 2 * 10 * source.numel() / (time.perf_counter() - started)


def table(
    seconds: dict[str, list[float]], answers: dict[str, list[list[int]]], *, useful: int, lengths: list[int]
) -> None:
    peers = [name for name in seconds if name.startswith("generate")]
    peer = min(peers, key=lambda name: min(seconds[name]))
    print("| | seconds (best of rounds) | all rounds | useful tokens per second | times `generate` | same answers |")
    print("|---|---|---|---|---|---|")
    for name, each in seconds.items():
        same = sum(mine == theirs for mine, theirs in zip(answers[name], answers[peer], strict=True))
        rounds = ", ".join(f"{one:.1f}" for one in each)
        speed, ratio = useful / min(each), min(seconds[peer]) / min(each)
        print(f"| {name} | {min(each):.1f} | {rounds} | {speed:.0f} | {ratio:.2f} | {same} of {len(lengths)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["small", "large"], choices=SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-theirs", action="store_true", help="leave transformers' continuous batching out")
    given = parser.parse_args()
    for size in given.sizes:
        measure(size, n=given.prompts, rounds=given.rounds, with_theirs=not given.without_theirs, device=given.device)


if __name__ == "__main__":
    main()
