"""The computed figures of docs/scaling.md: `python -m tests.scaling_figures` prints its tables."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evovlm.merging.before.findings import SearchMemory
from evovlm.merging.before.needs import ModelMemory, Needs
from evovlm.merging.before.preflight import preflight
from evovlm.models.answer_memory import row_bytes
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate
from evovlm.runs.before.memory import CONTEXT_BYTES, Answers, divided_memory
from tests.sparse_models import SIZES, count_weights, sparse_model

MIB = 1 << 20
LINK_BYTES_S = 5e9
"""From the page cache to a GPU, through a copy by one core; assumed."""
QUESTIONS, PROMPT_TOKENS, ANSWER_TOKENS, CANDIDATES = 200, 200, 200, 500


class Gpu(NamedTuple):
    """A GPU as its data sheet gives it: memory as nvidia-smi shows it, bandwidth, and dense bfloat16 speed."""

    name: str
    memory_bytes: int
    bytes_s: float
    flops_s: float


GPUS = (
    Gpu("RTX 4080, 16 GB", 16376 * MIB, 717e9, 97e12),
    Gpu("RTX 4090, 24 GB", 24564 * MIB, 1008e9, 165e12),
    Gpu("L40S, 48 GB", 46068 * MIB, 864e9, 362e12),
    Gpu("A100, 80 GB", 81920 * MIB, 2039e9, 312e12),
    Gpu("H200, 141 GB", 143771 * MIB, 4800e9, 989e12),
)


def needs_of(folder: Path, config: Mapping[str, Any]) -> Needs:
    """Return what `check` finds for a search over a base, which is the host, and two sources of the same shapes."""
    refs = [ModelRef(text=str(sparse_model(folder / name, config))) for name in ("base", "a", "b")]
    template = MergeTemplate(base=refs[0], host=refs[0], sources={"a": refs[1], "b": refs[2]}, method="dare_ties")
    stored = ModelMemory(bytes_per_number=None, where="a GPU", available_bytes=1 << 50)
    found = preflight(template.first_recipe(), resident=stored)
    found.raise_problems()
    if found.needs is None:
        raise ValueError(config)
    return found.needs


def held_on(gpu: Gpu, needs: Needs, config: Mapping[str, Any]) -> SearchMemory:
    """Return how a search divides the GPU's memory."""
    tokens = PROMPT_TOKENS + ANSWER_TOKENS
    resident = ModelMemory(
        bytes_per_number=None,
        where=gpu.name,
        available_bytes=gpu.memory_bytes - CONTEXT_BYTES,
        total_bytes=gpu.memory_bytes,
        merges=True,
    )
    each = row_bytes(config, longest=tokens, number_bytes=2)
    return divided_memory(needs, resident=resident, answers=Answers(tokens, each))


def least_seconds(gpu: Gpu, held: SearchMemory, config: Mapping[str, Any]) -> tuple[float, float]:
    """Return bounds that no software beats for a merge and for the answers: bytes over bandwidth, products over speed.

    A merge reads base and sources and writes the model; each step of decoding reads the model, and the keys and values
    of its answers.
    """
    merge_s = (held.kept_bytes + held.model_bytes) / gpu.bytes_s + held.read_again_bytes / LINK_BYTES_S
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token_bytes = 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * head
    rows = min(held.answers_at_once, QUESTIONS)
    step_bytes = held.model_bytes + rows * token_bytes * (PROMPT_TOKENS + ANSWER_TOKENS / 2)
    reading_s = math.ceil(QUESTIONS / rows) * ANSWER_TOKENS * step_bytes / gpu.bytes_s
    tokens = QUESTIONS * (PROMPT_TOKENS + ANSWER_TOKENS)
    return merge_s, max(reading_s, 2 * count_weights(config, active=True) * tokens / gpu.flops_s)


def tables() -> str:
    """Return the two tables of the page: disk, and time and memory on GPUs."""
    disk = ["| models | weights each | to fetch (base, two sources) | the winner |", "|---|---:|---:|---:|"]
    rows = [
        "| models | GPU | kept beside the model | read again | answers at once | a candidate (merging), at least | "
        f"{CANDIDATES} candidates, at least |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, config in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            needs = needs_of(Path(folder), config)
        weights, one = count_weights(config), needs.result_bytes
        disk.append(f"| {name} | {weights / 1e9:.1f} billion | {3 * one / 1e9:.0f} GB | {one / 1e9:.1f} GB |")
        rows += _rows(name, needs, config)
    return "\n".join([*disk, "", *rows]) + "\n"


def _rows(name: str, needs: Needs, config: Mapping[str, Any]) -> Iterator[str]:
    for gpu in GPUS:
        if needs.model_bytes > gpu.memory_bytes - CONTEXT_BYTES:
            continue
        held = held_on(gpu, needs, config)
        merge_s, answers_s = least_seconds(gpu, held, config)
        seconds = merge_s + answers_s
        hours = CANDIDATES * seconds / 3600
        yield (
            f"| {name} | {gpu.name} | {held.kept_bytes / 1e9:.1f} GB | {held.read_again_bytes / 1e9:.1f} GB | "
            f"{held.answers_at_once} | {_rounded(seconds)} s ({_rounded(merge_s)} s) | {_rounded(hours)} h |"
        )


def _rounded(value: float) -> str:
    """Return two significant digits."""
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{round(value, 1 - math.floor(math.log10(value))):.{digits}f}"


if __name__ == "__main__":
    print(tables())  # noqa: T201
