"""What a search holds in memory: the model, its sources, and answers in progress, as the run will divide the memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evovlm.devices import spare_bytes
from evovlm.errors import EvovlmError
from evovlm.evaluation.engines import vllm
from evovlm.evaluation.engines.table import BUILTIN
from evovlm.merging.before.findings import Preflight, SearchMemory
from evovlm.merging.before.needs import ModelMemory, Needs, gigabytes
from evovlm.models.answer_memory import cache_bytes, packs_weights, row_bytes, rows_at_once
from evovlm.recipes.language_config import language_config
from evovlm.resources import available_memory_bytes
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.config.sections import TaskSection
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.task import Split

PROCESS_BYTES = 500_000_000
"""The memory of a process without a model: interpreter, torch, compiled kernels, a tokenizer."""
MACHINE = "memory"
CONTEXT_BYTES = 600_000_000
"""About how many bytes of a GPU CUDA takes before anything is loaded."""

_BYTES_OF_TOKEN = 2
"""A Japanese character has 3 bytes, and about one and a half tokens in a vocabulary that was made for English."""
_PICTURE_TOKENS = 576
"""Of a picture of 336 by 336 pixels in patches of 14, where a config does not say."""
_UNKNOWN_TOKENS = 768
"""Of a question and its answer that cannot be known before the run."""


class Answers(NamedTuple):
    """An answer in progress: its tokens with those of its question, its memory, and the engine that holds it."""

    tokens: int
    each_bytes: int
    engine: str = BUILTIN


class Asked(NamedTuple):
    """About how many tokens the longest question of a search has with its answer, and the rows (beams) of an answer."""

    tokens: int
    rows: int


def longest_asked(config: SearchConfig, host_config: Mapping[str, Any]) -> Asked:
    """Return about how long a prompt and its answer get; tasks that cannot be read yet count as usual ones."""
    found = [_longest(section, host_config) for section in config.tasks]
    return Asked(max(each.tokens for each in found), max(each.rows for each in found))


def _longest(section: TaskSection, host_config: Mapping[str, Any]) -> Asked:
    if is_harness_name(section.name):
        return Asked(_UNKNOWN_TOKENS, 1)
    task = None
    try:
        task = get_task(section.name).asked(**section.settings)
        data = Path(section.data) if section.data is not None else None
        questions = [task.ask(each) for each in task.samples(Split.SEARCH, limit=section.limit, data=data)]
    except EvovlmError:
        # The check of the task reports it.
        return Asked(_UNKNOWN_TOKENS if task is None else _UNKNOWN_TOKENS + task.decoding.max_new_tokens, 1)
    picture = _picture_tokens(host_config)
    longest = max(len(each.text.encode()) // _BYTES_OF_TOKEN + picture * len(each.images) for each in questions)
    return Asked(longest + task.decoding.max_new_tokens, task.decoding.beams)


def _picture_tokens(config: Mapping[str, Any]) -> int:
    vision = config.get("vision_config")
    side, patch = (vision.get(key) if isinstance(vision, Mapping) else None for key in ("image_size", "patch_size"))
    return (side // patch) ** 2 if isinstance(side, int) and isinstance(patch, int) and patch else _PICTURE_TOKENS


def search_memory(
    config: SearchConfig, found: Preflight, *, host_config: Mapping[str, Any], resident: ModelMemory, engine: str
) -> SearchMemory | None:
    """Return what the workers of a search on this machine hold; None where the models or a cluster's nodes are unknown.

    `found` is the check of its merge, `engine` the name of what answers.
    """
    host = next((model for model in found.models if model.name in ("host", "ps.host")), None)
    if found.needs is None or host is None or config.ray is not None:
        return None
    settings = {
        **language_config(host_config),
        "num_hidden_layers": max(model.n_blocks for model in found.models),
        "hidden_size": host.hidden_size,
        "vocab_size": host.vocabulary_rows,
    }
    asked = longest_asked(config, host_config)
    # On a CPU, keys and values are float32 for every model (models/decoding/slots.py).
    number_bytes = 2 if resident.bytes_per_number is None else 4
    size_of = row_bytes if engine == BUILTIN else cache_bytes
    parts = config.tensor_parallel or 1
    each_bytes = asked.rows * size_of(settings, longest=asked.tokens, number_bytes=number_bytes)
    each_bytes *= _copies(settings, parts)
    return divided_memory(
        found.needs,
        resident=resident,
        answers=Answers(asked.tokens, each_bytes, engine),
        processes=config.workers,
        parts=parts,
        files_bytes=sum({model.text: model.size_bytes for model in found.models}.values()),
    )


def _copies(settings: Mapping[str, Any], parts: int) -> int:
    """Return how often keys and values are kept: where a model is divided into more parts than it has heads of them."""
    heads = settings.get("num_key_value_heads") or settings.get("num_attention_heads")
    return max(1, parts // heads) if isinstance(heads, int) and heads else 1


def divided_memory(
    needs: Needs,
    *,
    resident: ModelMemory,
    answers: Answers,
    processes: int = 1,
    parts: int = 1,
    files_bytes: int = 0,
) -> SearchMemory:
    """Return how `processes` workers divide the machine's memory, as they will when they run; each has its own GPU.

    A device that merges keeps what fits of base and sources; for vLLM, the CPU merges. vLLM has a process for each of
    the `parts` of a model, and `resident` is the memory of all their GPUs.
    """
    on_machine, on_gpu = available_memory_bytes(), resident.where != MACHINE
    workers = 1 if on_gpu else processes
    free = resident.available_bytes if on_gpu else on_machine
    packed = needs.model_bytes if not on_gpu and answers.engine == BUILTIN and packs_weights(needs.model_bytes) else 0
    own = None if free is None else max(0, free // workers - needs.model_bytes - packed)
    kept_in, spare = resident.where, None if own is None else spare_bytes(own, resident.total_bytes)
    if not (resident.merges and answers.engine == BUILTIN):
        # As the merger on a CPU divides it: half of what is free before the model is loaded.
        kept_in, spare = MACHINE, None if on_machine is None else on_machine // 2 // processes
    kept = needs.sources_bytes if spare is None else min(needs.sources_bytes, spare)
    left = None if own is None else max(0, own - (kept if kept_in == resident.where else 0))
    own_processes = 1 if parts == 1 else 1 + parts
    there = 0 if on_gpu else needs.model_bytes + packed
    return SearchMemory(
        where=resident.where,
        free_bytes=free,
        workers=workers,
        model_bytes=needs.model_bytes,
        sources_bytes=needs.sources_bytes,
        kept_bytes=kept,
        kept_in=kept_in,
        engine=answers.engine,
        answer_tokens=answers.tokens,
        answer_bytes=answers.each_bytes,
        answers_at_once=_at_once(answers, left, needs, resident=resident, workers=workers),
        processes=processes,
        processes_bytes=processes * (own_processes * PROCESS_BYTES + there + (kept if kept_in == MACHINE else 0)),
        files_bytes=files_bytes,
        machine_free_bytes=on_machine,
    )


def _at_once(answers: Answers, left_bytes: int | None, needs: Needs, *, resident: ModelMemory, workers: int) -> int:
    """Return how many answers fit at once: into what is left, or into the share that vLLM takes."""
    if answers.engine == BUILTIN:
        return rows_at_once(left_bytes, each_bytes=answers.each_bytes, on_gpu=resident.where != MACHINE)
    if resident.where == MACHINE:
        free = available_memory_bytes()
        left_bytes = None if free is None else int(vllm.CACHE_SHARE * free) // workers
    elif resident.total_bytes is not None:
        left_bytes = int(vllm.GPU_SHARE * resident.total_bytes) - needs.model_bytes
    fit = vllm.ROWS_AT_ONCE if left_bytes is None else left_bytes // answers.each_bytes
    return max(1, min(vllm.ROWS_AT_ONCE, fit))


def answer_warnings(found: SearchMemory) -> tuple[str, ...]:
    """Return a warning if the model fits into a device's memory, and an answer beside it does not."""
    if found.free_bytes is None:
        return ()
    each, own = found.model_bytes + found.answer_bytes, found.free_bytes // found.workers
    if not found.model_bytes <= own < each:
        return ()
    return (
        f"the model and one answer of {found.answer_tokens:,} tokens need about {gigabytes(each)} of {found.where}, "
        f"and {gigabytes(own)} are free: shorten the answers (`decoding:`), or use a device with more memory.",
    )
